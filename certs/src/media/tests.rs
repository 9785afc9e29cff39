//! Media certificates in real TLS 1.3 handshakes, in memory.

use std::time::UNIX_EPOCH;

use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConnection, ConnectionCommon, Error, ServerConnection, SideData,
};

use super::*;
use crate::pin::{CLOCK_SKEW, PinError, PinnedVerifier, sha256};
use crate::tls::{media_client_config, media_server_config};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// Carries what one side has to say to the other.
fn pass<A: SideData, B: SideData>(from: &mut ConnectionCommon<A>, to: &mut ConnectionCommon<B>) -> Result<(), Error> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut wire = wire.as_slice();
    while !wire.is_empty() {
        to.read_tls(&mut wire).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

fn connect(resolver: &Arc<MediaCertResolver>, pins: &[[u8; 32]]) -> Result<ClientConnection, Error> {
    let client = media_client_config(PinnedVerifier::new(pins.to_vec()))?;
    let server = media_server_config(Arc::clone(resolver))?;
    let name = ServerName::try_from("any.example").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        pass(&mut client, &mut server)?;
        pass(&mut server, &mut client)?;
    }
    assert_eq!(client.alpn_protocol(), Some(usher_proto::ALPN));
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(client.negotiated_cipher_suite().unwrap().suite(), rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Ok(client)
}

fn wrong_hash(error: &Error) -> bool {
    let Error::InvalidCertificate(reason @ CertificateError::Other(other)) = error else { return false };
    assert_eq!(AlertDescription::from(reason.clone()), AlertDescription::CertificateUnknown);
    matches!(other.0.downcast_ref(), Some(PinError::WrongHash { .. })) && error.to_string().contains("seat pins")
}

#[test]
fn a_handshake_needs_the_right_pin() {
    let cert = MediaCertificate::generate("one", HOUR, SystemTime::now()).unwrap();
    let other = MediaCertificate::generate("one", HOUR, SystemTime::now()).unwrap();
    assert_ne!(cert.sha256, other.sha256);
    let resolver = MediaCertResolver::new(cert.certified_key());
    assert!(connect(&resolver, &[cert.sha256]).is_ok());
    assert!(connect(&resolver, &[other.sha256, cert.sha256]).is_ok());
    assert!(wrong_hash(&connect(&resolver, &[other.sha256]).unwrap_err()));
    assert!(wrong_hash(&connect(&resolver, &[]).unwrap_err()));
}

#[test]
fn a_handshake_needs_a_certificate_in_date() {
    let made = SystemTime::now() - 2 * HOUR;
    let cert = MediaCertificate::generate("one", HOUR, made).unwrap();
    let error = connect(&MediaCertResolver::new(cert.certified_key()), &[cert.sha256]).unwrap_err();
    assert!(matches!(error, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{error}");
}

#[test]
fn a_pinned_certificate_with_a_strangers_key_is_refused() {
    let cert = MediaCertificate::generate("one", HOUR, SystemTime::now()).unwrap();
    let thief = MediaCertificate::generate("one", HOUR, SystemTime::now()).unwrap();
    let stolen = CertifiedKey::new(vec![CertificateDer::from(cert.der.clone())], Arc::clone(&thief.key.key));
    let error = connect(&MediaCertResolver::new(Arc::new(stolen)), &[cert.sha256]).unwrap_err();
    assert_eq!(error, Error::InvalidCertificate(CertificateError::BadSignature));
}

#[test]
fn the_resolver_switches_between_handshakes() {
    let now = SystemTime::now();
    let old = MediaCertificate::generate("one", HOUR, now).unwrap();
    let new = MediaCertificate::generate("one", HOUR, now).unwrap();
    let both = [old.sha256, new.sha256];
    let resolver = MediaCertResolver::new(old.certified_key());
    let shown = |client: ClientConnection| sha256(&client.peer_certificates().unwrap()[0]);
    assert_eq!(shown(connect(&resolver, &both).unwrap()), old.sha256);
    resolver.set(new.certified_key());
    assert_eq!(shown(connect(&resolver, &both).unwrap()), new.sha256);
    assert!(wrong_hash(&connect(&resolver, &[old.sha256]).unwrap_err()));
}

#[test]
fn dates_as_the_verifier_sees_them() {
    let made = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    let cert = MediaCertificate::generate("one", HOUR, made).unwrap();
    let verifier = PinnedVerifier::new(vec![cert.sha256]);
    let name = ServerName::try_from("any.example").unwrap();
    let second = Duration::from_secs(1);
    let begin = cert.not_before - CLOCK_SKEW;
    for (at, accepted) in
        [(begin - second, false), (begin, true), (made, true), (cert.not_after, true), (cert.not_after + second, false)]
    {
        let now = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap());
        let verdict = verifier.verify_server_cert(&cert.der.as_slice().into(), &[], &name, &[], now);
        assert_eq!(verdict.is_ok(), accepted, "{at:?} {verdict:?}");
    }
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_900_000_000));
    let junk = PinnedVerifier::new(vec![sha256(b"junk")]);
    let verdict = junk.verify_server_cert(&b"junk".as_slice().into(), &[], &name, &[], now);
    assert_eq!(verdict.unwrap_err(), Error::InvalidCertificate(CertificateError::BadEncoding));
}

#[test]
fn sha256_is_the_known_function() {
    // FIPS 180-4's example "abc".
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(hex::encode(sha256(b"abc")), expected);
}

#[test]
fn lifetimes() {
    let now = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    let second = Duration::from_secs(1);
    for lifetime in [Duration::ZERO, MAX_MEDIA_LIFETIME + second, Duration::MAX] {
        assert!(matches!(MediaCertificate::generate("one", lifetime, now), Err(MediaError::Lifetime(_))));
    }
    assert!(matches!(MediaCertificate::generate("No Node", HOUR, now), Err(MediaError::Name(_))));
    for lifetime in [second, HOUR, MAX_MEDIA_LIFETIME - HOUR, MAX_MEDIA_LIFETIME] {
        let cert = MediaCertificate::generate("one", lifetime, now).unwrap();
        assert!(cert.not_before < now && cert.not_after >= now + lifetime - HOUR && cert.not_after <= now + lifetime);
        assert!(cert.not_after.duration_since(cert.not_before).unwrap() <= MAX_MEDIA_LIFETIME);
        let (not_before, not_after) = certificate::validity(&certificate::parse(&cert.der).unwrap());
        assert_eq!((not_before, not_after), (cert.not_before, cert.not_after), "the fields are what the bytes say");
    }
}

#[test]
fn a_media_certificate_is_nobodys_identity_and_debugs_without_its_key() {
    let cert = MediaCertificate::generate("one", HOUR, SystemTime::now()).unwrap();
    assert_eq!(Identity::from_der(&cert.der), Err(IdentityError::Missing));
    assert!(!format!("{cert:?} {:?}", MediaCertResolver::new(cert.certified_key())).contains("key"));
}

#[test]
fn the_keeper_serves_without_a_gap() {
    // Real now, since the handshake's clock is real; all else is steps from it.
    let start = SystemTime::now();
    let mut keeper = Keeper::new("one", 400 * HOUR / 100, Duration::from_secs(60), start).unwrap();
    let resolver = keeper.resolver();
    let first = keeper.hashes();
    assert_eq!(first.len(), 1);
    assert!(!keeper.poll(start).unwrap());

    let announced = keeper.deadline();
    assert!(keeper.poll(announced).unwrap());
    let both = keeper.hashes();
    assert_eq!((both.len(), both[0]), (2, first[0]), "the one that serves comes first");
    assert!(connect(&resolver, &first).is_ok(), "not switched yet");

    let switched = keeper.deadline();
    assert!(keeper.poll(switched).unwrap());
    assert_eq!(keeper.hashes(), [both[1], both[0]]);
    assert_eq!(sha256(&resolver.current().cert[0]), both[1]);

    let dropped = keeper.deadline();
    assert_eq!(dropped, switched + Duration::from_secs(60));
    assert!(keeper.poll(dropped).unwrap());
    assert_eq!(keeper.hashes(), [both[1]]);
    assert!(!keeper.poll(dropped).unwrap());
}
