//! URLs, patterns and ranges from a command line: what parses prints as something that parses to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use usher_client::core::{range, url::Url};

fuzz_target!(|text: &str| {
    drop(range::parse(text));
    let Ok(url) = text.parse::<Url>() else { return };
    assert_eq!(url.to_string().parse(), Ok(url.clone()), "{url}");
    drop(url.title());
    drop(url.content());
    if let Ok(Some(pattern)) = url.pattern() {
        drop(pattern);
    }
});
