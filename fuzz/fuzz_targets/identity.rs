//! The identity in a peer's certificate.
#![no_main]

use libfuzzer_sys::fuzz_target;
use usher_certs::identity::Identity;

fuzz_target!(|data: &[u8]| {
    drop(Identity::from_der(data));
});
