//! Files in a volume: whatever a disk holds is told apart without a panic, within bounds.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use usher_media::probe::probe;

fuzz_target!(|data: &[u8]| {
    if let Ok(found) = probe(&mut Cursor::new(data), data.len() as u64) {
        assert!(found.media_type.contains('/'));
    }
});
