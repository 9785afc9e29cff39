//! The state file beside a `.part`: what parses is written back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use usher_client::core::state::{line, parse};

fuzz_target!(|data: &[u8]| {
    let Ok((header, values)) = parse(data) else { return };
    let mut text = header.text();
    values.iter().for_each(|value| text.push_str(&line(value)));
    assert_eq!(parse(text.as_bytes()), Ok((header, values)));
});
