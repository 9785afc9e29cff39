//! Tables of tokens that must and must not verify.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, jwk::Jwk};
use proptest::prelude::*;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::{Value, json};
use usher_proto::Bitrate;

use super::{
    claims::Action,
    error::TokenError,
    keys::{KeyError, KeySet, KeySource},
    rights::Rights,
    verifier::{MAX_TOKEN_BYTES, Verifier},
};

const NOW: u64 = 1_800_000_000;

fn claims() -> Value {
    json!({
        "iss": "https://id.example", "sub": "alice", "aud": "usher", "exp": NOW + 60, "jti": "t1", "iat": NOW,
        "usher": { "prefixes": ["films/"] },
    })
}

/// The claims with some replaced; null removes one.
fn with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    claims
}

fn sign(key: &EncodingKey, algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, key).expect("signed")
}

struct Ed {
    key: EncodingKey,
    keys: KeySet,
}

fn ed() -> Ed {
    let pair = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let key = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).expect("a key");
    Ed { key, keys: KeySet::parse(&pair.public_key_pem(), KeySource::File).expect("a set") }
}

impl Ed {
    fn verify(&self, claims: &Value) -> Result<Rights, TokenError> {
        verifier().verify(&self.keys, NOW, &sign(&self.key, Algorithm::EdDSA, None, claims))
    }
}

fn verifier() -> Verifier {
    Verifier::new("usher", Some("https://id.example".into()), Duration::from_secs(10))
}

#[test]
fn each_algorithm_verifies_with_its_own_key_only() {
    let pairs = [
        (Algorithm::EdDSA, KeyPair::generate_for(&PKCS_ED25519).expect("a key")),
        (Algorithm::ES256, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")),
        (Algorithm::RS256, KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key")),
    ];
    let publics: Vec<String> = pairs.iter().map(|(_, pair)| pair.public_key_pem()).collect();
    let all = KeySet::parse(&publics.concat(), KeySource::File).expect("three keys");
    assert_eq!((all.len(), all.skipped()), (3, [].as_slice()));
    for (at, (algorithm, pair)) in pairs.iter().enumerate() {
        let pem = pair.serialize_pem();
        let key = match algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
        };
        let token = sign(&key.expect("a key"), *algorithm, None, &claims());
        assert_eq!(verifier().verify(&all, NOW, &token).map(|rights| rights.subject), Ok("alice".to_owned()));
        for (other, public) in publics.iter().enumerate().filter(|(other, _)| *other != at) {
            let keys = KeySet::parse(public, KeySource::File).expect("a key");
            assert_eq!(verifier().verify(&keys, NOW, &token), Err(TokenError::UnknownKey), "{at} with {other}");
        }
    }
    // A public key as the secret of an HMAC, in every form in which it is published.
    for (public, (_, pair)) in publics.iter().zip(&pairs) {
        for secret in [public.as_bytes(), public.trim().as_bytes(), pair.public_key_raw()] {
            let token = sign(&EncodingKey::from_secret(secret), Algorithm::HS256, None, &claims());
            assert_eq!(verifier().verify(&all, NOW, &token), Err(TokenError::UnknownKey));
        }
    }
    // Another digest of the same key type.
    let rsa = EncodingKey::from_rsa_pem(pairs[2].1.serialize_pem().as_bytes()).expect("a key");
    for algorithm in [Algorithm::RS512, Algorithm::PS256] {
        let token = sign(&rsa, algorithm, None, &claims());
        assert_eq!(verifier().verify(&all, NOW, &token), Err(TokenError::UnknownKey));
    }
}

#[test]
fn secrets_come_from_files_only() {
    let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA";
    let set = json!({ "keys": [{ "kty": "oct", "k": secret, "kid": "s", "alg": "HS256" }] }).to_string();
    let keys = KeySet::parse(&set, KeySource::File).expect("a secret");
    let key = EncodingKey::from_secret(b"secret-secret-secret-secret-secret");
    let token = sign(&key, Algorithm::HS256, Some("s"), &claims());
    assert!(verifier().verify(&keys, NOW, &token).is_ok());
    assert!(matches!(KeySet::parse(&set, KeySource::Url), Err(KeyError::None(why)) if why.contains("secret")));
    let short = json!({ "keys": [{ "kty": "oct", "k": "c2hvcnQ" }] }).to_string();
    assert!(matches!(KeySet::parse(&short, KeySource::File), Err(KeyError::None(_))));
}

#[test]
fn key_ids_choose_among_keys() {
    let jwk = |pair: &KeyPair, kid: &str| {
        let key = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).expect("a key");
        let public = DecodingKey::from_ed_pem(pair.public_key_pem().as_bytes()).expect("a key");
        let mut jwk = Jwk::from_decoding_key(&public, Some(Algorithm::EdDSA)).expect("a JWK");
        jwk.common.key_id = Some(kid.to_owned());
        (key, serde_json::to_value(jwk).expect("JSON"))
    };
    let [old, new] = [(); 2].map(|()| KeyPair::generate_for(&PKCS_ED25519).expect("a key"));
    let ((old, old_jwk), (new, new_jwk)) = (jwk(&old, "old"), jwk(&new, "new"));
    let set = json!({ "keys": [old_jwk, new_jwk, { "kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB" }, 7] });
    let keys = KeySet::parse(&set.to_string(), KeySource::Url).expect("two keys");
    assert_eq!((keys.len(), keys.skipped().len()), (2, 2));
    for (key, kid, expected) in [
        (&old, Some("old"), None),
        (&new, Some("new"), None),
        (&new, None, None),
        (&new, Some("old"), Some(TokenError::Signature)),
        (&new, Some("third"), Some(TokenError::UnknownKey)),
    ] {
        let token = sign(key, Algorithm::EdDSA, kid, &claims());
        assert_eq!(verifier().verify(&keys, NOW, &token).err(), expected, "{kid:?}");
    }
}

#[test]
fn texts_that_are_no_keys() {
    let private = KeyPair::generate_for(&PKCS_ED25519).expect("a key").serialize_pem();
    assert_eq!(KeySet::parse(&private, KeySource::File).err(), Some(KeyError::Private));
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key").public_key_pem();
    for text in ["", "hello", "{", "{}", "{\"keys\":7}", "{\"keys\":[]}", "-----BEGIN PUBLIC KEY-----\nAAAA", &p384] {
        assert!(KeySet::parse(text, KeySource::File).is_err(), "{text}");
    }
    let private = json!({ "kty": "OKP", "crv": "Ed25519", "x": "AA", "d": "AA" }).to_string();
    assert!(KeySet::parse(&private, KeySource::File).is_err());
    assert!(KeySet::parse(&" ".repeat(300 << 10), KeySource::File).is_err());
}

#[test]
fn claims_that_are_refused() {
    let ed = ed();
    let audience = || TokenError::Audience("usher".into());
    for (changes, expected) in [
        (json!({}), None),
        (json!({ "aud": ["other", "usher"] }), None),
        (json!({ "exp": NOW - 9 }), None),
        (json!({ "exp": (NOW + 60) as f64 + 0.5 }), None),
        (json!({ "nbf": NOW + 10 }), None),
        (json!({ "iat": null, "jti": null }), None),
        (json!({ "iss": "https://evil.example" }), Some(TokenError::Issuer)),
        (json!({ "iss": null }), Some(TokenError::Issuer)),
        (json!({ "aud": "other" }), Some(audience())),
        (json!({ "aud": null }), Some(audience())),
        (json!({ "aud": [] }), Some(audience())),
        (json!({ "exp": NOW - 10 }), Some(TokenError::Expired(10))),
        (json!({ "exp": 0 }), Some(TokenError::Expired(NOW))),
        (json!({ "exp": u64::MAX }), Some(TokenError::Life)),
        (json!({ "nbf": NOW + 11 }), Some(TokenError::NotYet(11))),
    ] {
        assert_eq!(ed.verify(&with(changes.clone())).err(), expected, "{changes}");
    }
    for changes in [
        json!({ "exp": null }),
        json!({ "exp": "soon" }),
        json!({ "exp": -1 }),
        json!({ "sub": null }),
        json!({ "sub": "" }),
        json!({ "sub": 7 }),
        json!({ "sub": "x".repeat(256) }),
        json!({ "sub": "a\nb" }),
        json!({ "jti": "" }),
        json!({ "aud": 7 }),
    ] {
        assert!(matches!(ed.verify(&with(changes.clone())), Err(TokenError::Malformed(_))), "{changes}");
    }
    for usher in [
        Value::Null,
        json!({}),
        json!([]),
        json!({ "prefixes": [] }),
        json!({ "prefixes": ["x".repeat(2000)] }),
        json!({ "prefixes": vec!["x"; 65] }),
        json!({ "prefixes": [""], "max_sesions": 1 }),
        json!({ "prefixes": [""], "max_sessions": 0 }),
        json!({ "prefixes": [""], "max_rate_bps": 0 }),
        json!({ "prefixes": [""], "actions": ["rule"] }),
        json!({ "prefixes": [""], "zone": "a b" }),
    ] {
        assert!(matches!(ed.verify(&with(json!({ "usher": usher }))), Err(TokenError::Rights(_))), "{usher}");
    }
}

#[test]
fn texts_that_are_no_tokens() {
    let ed = ed();
    let good = sign(&ed.key, Algorithm::EdDSA, None, &claims());
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.";
    let critical = Header { crit: Some(vec!["b64".into()]), ..Header::new(Algorithm::EdDSA) };
    let critical = jsonwebtoken::encode(&critical, &claims(), &ed.key).expect("signed");
    let long = format!("{good}{}", "A".repeat(MAX_TOKEN_BYTES));
    for token in ["", ".", "..", "a.b.c", none, &critical, &long, &format!("{good}.x")] {
        let refused = verifier().verify(&ed.keys, NOW, token);
        assert!(matches!(refused, Err(TokenError::Malformed(_))), "{token}: {refused:?}");
    }
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    for altered in [format!("{message}."), format!("{message}.{}", signature.replace(&signature[3..4], "-"))] {
        assert_eq!(verifier().verify(&ed.keys, NOW, &altered).err(), Some(TokenError::Signature));
    }
    let other = sign(&ed.key, Algorithm::EdDSA, None, &with(json!({ "sub": "bob" })));
    let payload = other.split('.').nth(1).expect("a payload");
    let header = good.split('.').next().expect("a header");
    let swapped = format!("{header}.{payload}.{signature}");
    assert_eq!(verifier().verify(&ed.keys, NOW, &swapped).err(), Some(TokenError::Signature));
    assert_eq!(verifier().verify(&KeySet::default(), NOW, &good).err(), Some(TokenError::UnknownKey));
}

#[test]
fn rights_of_a_token() {
    let ed = ed();
    let usher = json!({
        "prefixes": ["films/new/", "films/", "a", "films/"], "actions": ["play"],
        "max_rate_bps": 8_000_000, "max_sessions": 2, "zone": "north",
    });
    let rights = ed.verify(&with(json!({ "usher": usher }))).expect("good");
    assert_eq!(rights.prefixes(), ["a", "films/"]);
    assert!(rights.covers("films/dune.mp4") && rights.covers("ab") && !rights.covers("film") && !rights.covers(""));
    assert!(rights.may(Action::Play) && !rights.may(Action::Fetch) && !rights.may(Action::Publish));
    assert_eq!((rights.max_rate, rights.max_sessions), (Some(Bitrate(8_000_000)), Some(2)));
    assert_eq!((rights.zone.as_deref(), rights.token_id.as_deref()), (Some("north"), Some("t1")));
    for (asked, given) in [
        ("", vec!["a", "films/"]),
        ("f", vec!["films/"]),
        ("films/", vec!["films/"]),
        ("films/d", vec!["films/d"]),
        ("b", vec![]),
    ] {
        assert_eq!(rights.within(asked), given, "{asked}");
    }
    let said = format!("{rights:?}");
    assert!(!said.contains("alice") && !said.contains("t1"), "{said}");
    let all = ed.verify(&with(json!({ "usher": { "prefixes": ["", "x"] } }))).expect("good");
    assert!(all.covers("anything") && all.within("any") == ["any"] && all.actions() == [Action::Play, Action::Fetch]);
}

proptest! {
    #[test]
    fn no_text_panics(token in "[A-Za-z0-9_.-]{0,200}", keys in ".{0,200}") {
        let keys = KeySet::parse(&keys, KeySource::Url).unwrap_or_default();
        prop_assert!(verifier().verify(&keys, NOW, &token).is_err());
    }

    #[test]
    fn listing_matches_covering(prefixes in prop::collection::vec("[ab/]{0,3}", 1..5), asked in "[ab/]{0,3}", title in "[ab/]{0,5}") {
        let claims = super::claims::UsherClaims { prefixes, ..Default::default() };
        let rights = Rights::new("s".into(), 0, claims).expect("good");
        let listed = rights.within(&asked).iter().filter(|prefix| title.starts_with(prefix.as_str())).count();
        prop_assert_eq!(listed, usize::from(title.starts_with(&asked) && rights.covers(&title)));
    }
}
