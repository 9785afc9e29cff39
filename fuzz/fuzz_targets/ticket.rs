//! Tickets: no text may panic the check, and none but the signed one may pass it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use usher_proto::{
    NodeName,
    ticket::{Key, verify},
};

fuzz_target!(|token: &str| {
    let node = NodeName::parse("node-1").expect("a valid name");
    let key = Key::new([7; 32]);
    assert!(verify(&[key], &node, 1000, token).is_err(), "a forged ticket passed: {token}");
});
