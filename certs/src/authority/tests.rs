//! Chains and contents of what the authority signs, judged by rustls and by a parser.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use x509_parser::extensions::ParsedExtension;

use super::*;
use crate::certificate::{der_of, parse, unix, validity};
use crate::tls;

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(der_of(authority.ca_pem()).into()).unwrap();
    Arc::new(roots)
}

fn issue(authority: &Authority, role: Role, sans: &[San], now: SystemTime) -> Vec<u8> {
    der_of(&authority.issue(&Identity::new(role, "one").unwrap(), sans, now).unwrap().cert_pem)
}

fn accepted_as_client(authority: &Authority, leaf: &[u8], at: SystemTime) -> bool {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority), tls::provider()).build().unwrap();
    verifier.verify_client_cert(&leaf.into(), &[], unix(at)).is_ok()
}

fn accepted_as_server(authority: &Authority, leaf: &[u8], name: &str, at: SystemTime) -> bool {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(authority), tls::provider()).build().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(&leaf.into(), &[], &name, &[], unix(at)).is_ok()
}

#[test]
fn leaves_chain_to_their_authority_and_to_no_other() {
    let now = SystemTime::now();
    let (ours, theirs) = (Authority::create("ours", now).unwrap(), Authority::create("ours", now).unwrap());
    let sans = [San::Dns("m.example".into()), "192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let serving = [(Role::Master, true), (Role::Node, true), (Role::Admin, false), (Role::Publisher, false)];
    for (role, serves) in serving {
        let leaf = issue(&ours, role, &sans, now);
        assert!(accepted_as_client(&ours, &leaf, now), "{role}");
        assert!(!accepted_as_client(&theirs, &leaf, now), "{role}");
        for name in ["m.example", "192.0.2.1", "2001:db8::1"] {
            assert_eq!(accepted_as_server(&ours, &leaf, name, now), serves, "{role} {name}");
        }
        assert!(!accepted_as_server(&ours, &leaf, "other.example", now), "{role}");
        assert!(!accepted_as_server(&theirs, &leaf, "m.example", now), "{role}");
    }
}

#[test]
fn a_loaded_authority_signs_as_the_made_one_did() {
    let now = SystemTime::now();
    let made = Authority::create("films & co", now).unwrap();
    let loaded = Authority::from_pem(made.ca_pem(), &made.key_pem()).unwrap();
    assert_eq!((loaded.cluster(), loaded.ca_pem()), ("films & co", made.ca_pem()));
    assert!(accepted_as_client(&made, &issue(&loaded, Role::Node, &[], now), now));
}

#[test]
fn dates() {
    let now = SystemTime::now();
    let day = Duration::from_secs(DAY);
    let authority = Authority::create("test", now).unwrap();
    let leaf = issue(&authority, Role::Node, &[], now);
    let table = [
        (now - BACKDATE - 2 * Duration::from_secs(1), false),
        (now - BACKDATE + Duration::from_secs(1), true),
        (now + 364 * day, true),
        (now + 366 * day, false),
    ];
    for (at, accepted) in table {
        assert_eq!(accepted_as_client(&authority, &leaf, at), accepted, "{at:?}");
    }

    let end = now + AUTHORITY_LIFETIME;
    let late = issue(&authority, Role::Node, &[], end - 2 * day);
    assert_eq!(validity(&parse(&late).unwrap()).1, authority.not_after, "nothing outlives its authority");
    let node = Identity::new(Role::Node, "one").unwrap();
    assert!(matches!(authority.issue(&node, &[], end + day), Err(AuthorityError::Expired)));
    assert!(matches!(authority.issue_for(&node, &[], Duration::ZERO, now), Err(AuthorityError::NoLifetime)));
}

#[test]
fn extensions() {
    let now = SystemTime::now();
    let authority = Authority::create("test", now).unwrap();
    let ca_der = der_of(authority.ca_pem());
    let ca = parse(&ca_der).unwrap();
    let basic = ca.basic_constraints().unwrap().unwrap();
    assert!(basic.critical && basic.value.ca && basic.value.path_len_constraint == Some(0));
    let usage = ca.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && !usage.digital_signature());

    let leaf_der = issue(&authority, Role::Master, &San::loopback(), now);
    let leaf = parse(&leaf_der).unwrap();
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    assert_eq!(certificate::sans(&leaf), ["localhost", "127.0.0.1", "::1"]);
    let subject_key = |cert: &x509_parser::certificate::X509Certificate<'_>| {
        cert.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
    };
    let authority_key = leaf.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    });
    assert!(subject_key(&leaf).is_some() && subject_key(&leaf) != subject_key(&ca));
    assert_eq!(authority_key, subject_key(&ca));
}

#[test]
fn serial_numbers_are_unique_and_positive() {
    let now = SystemTime::now();
    let authority = Authority::create("test", now).unwrap();
    let serials: BTreeSet<_> = (0..20)
        .map(|_| {
            let leaf = issue(&authority, Role::Node, &[], now);
            let serial = parse(&leaf).unwrap().raw_serial().to_vec();
            assert!(serial.len() <= 20 && serial[0] < 0x80, "{serial:?}");
            serial
        })
        .collect();
    assert_eq!(serials.len(), 20);
}

#[test]
fn wrong_parts_are_told_apart() {
    let now = SystemTime::now();
    let (one, two) = (Authority::create("test", now).unwrap(), Authority::create("test", now).unwrap());
    let leaf = one.issue(&Identity::new(Role::Node, "one").unwrap(), &[], now).unwrap();
    let key = one.key_pem();
    assert!(matches!(Authority::from_pem(one.ca_pem(), &two.key_pem()), Err(AuthorityError::KeyMismatch)));
    assert!(matches!(Authority::from_pem(&leaf.cert_pem, &leaf.key_pem), Err(AuthorityError::NotAnAuthority)));
    assert!(matches!(Authority::from_pem("no", &key), Err(AuthorityError::NotPem)));
    assert!(matches!(Authority::from_pem(one.ca_pem(), "no"), Err(AuthorityError::X509(_))));
    for name in ["", "a\nb", &"n".repeat(65)] {
        assert!(matches!(Authority::create(name, now), Err(AuthorityError::ClusterName(_))), "{name:?}");
    }
}

#[test]
fn debug_output_holds_no_key() {
    let now = SystemTime::now();
    let authority = Authority::create("test", now).unwrap();
    let issued = authority.issue(&Identity::new(Role::Node, "one").unwrap(), &[], now).unwrap();
    let secret: String = issued.key_pem.lines().skip(1).take(1).collect();
    assert!(secret.len() > 40 && !format!("{issued:?}").contains(&secret));
    assert!(!format!("{authority:?}{issued:?}").contains("PRIVATE"));
}

#[test]
fn names_of_servers() {
    let good = [("Master.Example", "master.example"), ("10.0.0.1", "10.0.0.1"), ("::1", "::1"), ("box", "box")];
    for (text, shown) in good {
        assert_eq!(text.parse::<San>().unwrap().to_string(), shown);
    }
    for wrong in ["", "a b", "host:7440", "https://host", "[::1]", "ä.example", "*.example", "a..b", "a\0b"] {
        assert!(wrong.parse::<San>().is_err(), "{wrong:?}");
    }
}
