//! Titles, rates, ids and URLs from people and disks: a parsed value must print and parse again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use usher_proto::{Bitrate, ContentId, NodeName, SessionId, Title};

fuzz_target!(|data: &[u8]| {
    if let Ok(title) = Title::from_bytes(data) {
        assert!(title.parts().all(|part| !matches!(part, "" | "." | "..")));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(rate) = text.parse::<Bitrate>() {
        assert!(rate.0 > 0);
        drop(rate.to_string());
    }
    if let Ok(id) = text.parse::<ContentId>() {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
    drop(text.parse::<SessionId>());
    drop(NodeName::parse(text));
});
