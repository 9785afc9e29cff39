//! Signing, checking and renewing tickets, good and forged.

use proptest::prelude::*;

use super::*;
use crate::id::BootId;

fn node(name: &str) -> NodeName {
    NodeName::parse(name).expect("a valid name")
}

fn claims() -> Claims {
    Claims {
        cid: Some(ContentId([7; 32]).to_string()),
        rate: 8_000_000,
        rid: "r".into(),
        ..Claims::new("node-1", SessionId(5), "films/b.mp4", Purpose::Play, 1000)
    }
}

#[test]
fn a_ticket_is_good_for_its_node_in_its_time() {
    let secret = ClusterSecret::new([1; 32]);
    let key = secret.node_key(&node("node-1"), BootId(1));
    let token = key.sign(&claims()).expect("signs");
    let keys = [key];
    let check = |now| verify(&keys, &node("node-1"), now, &token);
    assert_eq!(check(1030).map(|t| (t.session, t.rate)), Ok((SessionId(5), 8_000_000)));
    assert!(check(990).is_ok() && check(1069).is_ok());
    assert_eq!(check(989), Err(TicketError::NotYet(11)));
    assert_eq!(check(1070), Err(TicketError::Expired(10)));
    assert_eq!(verify(&keys, &node("node-2"), 1030, &token), Err(TicketError::Audience("node-1".into())));

    for other in [secret.node_key(&node("node-2"), BootId(1)), secret.node_key(&node("node-1"), BootId(2))] {
        assert_eq!(verify(&[other], &node("node-1"), 1030, &token), Err(TicketError::Signature));
    }
    assert_eq!(verify(&[], &node("node-1"), 1030, &token), Err(TicketError::Signature));
}

#[test]
fn session_ids_are_recognized_by_every_master_of_the_cluster() {
    let key = ClusterSecret::new([1; 32]).session_key();
    let (again, other) = (ClusterSecret::new([1; 32]).session_key(), ClusterSecret::new([2; 32]).session_key());
    for random in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
        let session = key.issue(random);
        assert!(again.issued(session) && !other.issued(session));
        for bit in 0..128 {
            assert!(!key.issued(SessionId(session.0 ^ (1 << bit))), "bit {bit}");
        }
    }
    assert!((0..1000).all(|id| !key.issued(SessionId(id))));
}

#[test]
fn a_ticket_proves_that_its_bearer_was_sent_to_the_node_lately() {
    let key = Key::new([1; 32]);
    let keys = [key.clone()];
    let (one, two) = (node("node-1"), node("node-2"));
    let token = |until| key.sign(&Claims { until, ..claims() }).expect("signs");
    let held = |now, token: &str| verify_held(&keys, &one, now, token).map(|ticket| ticket.session).is_ok();
    // Issued at 1000: to be redeemed until 1060, renewable for an hour after its `until`.
    let limited = token(Some(2000));
    assert!(held(1030, &limited) && held(5599, &limited) && !held(5600, &limited) && !held(900, &limited));
    let endless = token(None);
    assert!(held(87_399, &endless) && !held(87_400, &endless), "a day");
    assert!(verify_held(&keys, &two, 1030, &limited).is_err(), "of another node");
    assert!(verify_held(&[Key::new([2; 32])], &one, 1030, &limited).is_err(), "of another start");
    assert!(!held(1030, "") && !held(1030, "a.b.c"));
}

#[test]
fn a_ticket_is_renewed_with_its_claims_for_an_hour_after_its_end() {
    let key = Key::new([1; 32]);
    let keys = [key.clone()];
    let (one, two) = (node("node-1"), node("node-2"));
    let token = |until| key.sign(&Claims { until, ..claims() }).expect("signs");
    let old = token(Some(2000));
    // Opening is over, running is not.
    assert_eq!(verify(&keys, &one, 2005, &old), Err(TicketError::Expired(945)));
    assert_eq!(verify_renewal(&keys, &one, 2009, &old).map(|ticket| ticket.until), Ok(Some(2000)));
    assert_eq!(verify_renewal(&keys, &one, 2010, &old), Err(TicketError::Expired(10)));
    assert_eq!(verify_renewal(&keys, &one, u64::MAX, &token(None)).map(|ticket| ticket.until), Ok(None));
    assert_eq!(verify_renewal(&keys, &one, 989, &old), Err(TicketError::NotYet(11)));
    assert_eq!(verify_renewal(&keys, &two, 1030, &old), Err(TicketError::Audience("node-1".into())));

    let renewed = renew(&key, &one, 5599, Some(6199), &old).expect("renewed");
    let (before, after) = (read(&keys, &one, 5599, &old), read(&keys, &one, 5599, &renewed));
    assert_eq!(after, before.map(|claims| Claims { until: Some(6199), ..claims }));
    assert!(verify(&keys, &one, 5599, &renewed).is_err(), "it opens nothing");
    assert_eq!(renew(&key, &one, 5600, None, &old), Err(TicketError::Expired(3600).into()));
    assert!(renew(&key, &one, 9999, None, &token(None)).is_ok(), "for ever is for ever");
    assert_eq!(renew(&Key::new([2; 32]), &one, 1030, None, &old), Err(RenewError::Restarted));
    assert_eq!(renew(&key, &two, 1030, None, &old), Err(TicketError::Audience("node-1".into()).into()));
    let forged = old.replace(&old[old.len() - 6..], "AAAAAA");
    assert_eq!(renew(&key, &one, 1030, None, &forged), Err(TicketError::Signature.into()));
    assert_eq!(renew(&key, &one, 1030, None, "x"), Err(TicketError::Malformed.into()));
}

#[test]
fn nothing_but_hs256_is_taken() {
    let key = Key::new([1; 32]);
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", "e30");
    let (node, token) = (node("node-1"), key.sign(&claims()).expect("signs"));
    let hs384 = jsonwebtoken::encode(
        &Header { kid: Some(key.kid().to_owned()), ..Header::new(Algorithm::HS384) },
        &claims(),
        &key.sign,
    )
    .expect("signs");
    for wrong in ["", ".", "..", "a.b.c", &unsigned, &hs384, &"x".repeat(5000), &token[..token.len() - 1]] {
        assert!(verify(std::slice::from_ref(&key), &node, 1030, wrong).is_err(), "{wrong}");
    }
}

#[test]
fn secrets_do_not_print() {
    let secret = ClusterSecret::new([0xab; 32]);
    let key = secret.node_key(&node("n"), BootId(1));
    let text = format!("{secret:?} {key:?}");
    assert!(!text.contains("171, 171") && !text.contains(&hex::encode(key.secret())), "{text}");
}

proptest! {
    #[test]
    fn an_altered_ticket_is_refused(at in 0_usize..400, flip in 1_u8..128) {
        let key = Key::new([9; 32]);
        let token = key.sign(&claims()).expect("signs");
        let mut bytes = token.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if let Ok(altered) = String::from_utf8(bytes) {
            let result = verify(std::slice::from_ref(&key), &node("node-1"), 1030, &altered);
            prop_assert!(result.is_err(), "{altered}");
            prop_assert!(renew(&key, &node("node-1"), 1030, None, &altered).is_err(), "{altered}");
        }
    }
}
