//! The meaning of URLs, the refused ones, and that no text panics.

use proptest::prelude::*;

use super::*;

fn url(text: &str) -> Result<Url, UrlError> {
    text.parse()
}

#[test]
fn good_urls() {
    for (text, host, port, path) in [
        ("usher://localhost/films/dune.mp4", "localhost", 7440, "films/dune.mp4"),
        ("usher://10.0.0.1:99/a", "10.0.0.1", 99, "a"),
        ("usher://[::1]/a", "::1", 7440, "a"),
        ("usher://[2001:db8::2]:8000/a%20b.mp4", "2001:db8::2", 8000, "a b.mp4"),
        ("usher://m/%C3%B6.webm", "m", 7440, "ö.webm"),
        ("usher://m/100%.mp4", "m", 7440, "100%.mp4"),
        ("usher://m/a?b#c.mp4", "m", 7440, "a?b#c.mp4"),
        ("usher://m", "m", 7440, ""),
        ("usher://m/", "m", 7440, ""),
    ] {
        let parsed = url(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((parsed.master.host.as_str(), parsed.master.port, parsed.path.as_str()), (host, port, path));
        assert_eq!(url(&parsed.to_string()), Ok(parsed), "{text} survives printing");
    }
    let address = Address { host: "::1".into(), port: 7440 };
    assert_eq!((address.https().as_str(), address.to_string().as_str()), ("https://[::1]:7440", "[::1]:7440"));
    for text in ["m", "m:7440", "usher://m", "usher://m:7440/"] {
        assert_eq!(text.parse(), Ok(Address { host: "m".into(), port: 7440 }), "{text}");
    }
}

#[test]
fn wrong_urls_say_why() {
    for (text, why) in [
        ("http://m/a", UrlError::Scheme),
        ("films/a", UrlError::Scheme),
        ("usher:///a", UrlError::Host(String::new())),
        ("usher://m:0/a", UrlError::Port("0".into())),
        ("usher://m:70000/a", UrlError::Port("70000".into())),
        ("usher://m:/a", UrlError::Port(String::new())),
        ("usher://user@m/a", UrlError::Host("user@m".into())),
        ("usher://::1/a", UrlError::Port(":1".into())),
        ("usher://[::1/a", UrlError::Host("[".into())),
        ("usher://[::1]x/a", UrlError::Host("[::1]x".into())),
        ("usher://[m]/a", UrlError::Host("[m]".into())),
        ("usher://m/%ff", UrlError::NotUtf8),
        (&format!("usher://m/{}", "a".repeat(10_000)), UrlError::TooLong),
    ] {
        let why = if text == "usher://::1/a" || text == "usher://[::1/a" {
            // Which part is blamed is no promise; that it is refused is.
            assert!(url(text).is_err());
            continue;
        } else {
            why
        };
        assert_eq!(url(text), Err(why), "{text}");
    }
    for text in ["usher://m/../a", "usher://m/a/%2e%2e/b", "usher://m//a", "usher://m/a%00", "usher://m/a/"] {
        assert!(matches!(url(text).map(|url| url.title()), Ok(Err(UrlError::Title(_)))), "{text}");
    }
    assert_eq!(url("usher://m/").map(|url| url.title()), Ok(Err(UrlError::NoTitle)));
    assert!(matches!(url("usher://m/abc").map(|url| url.content()), Ok(Err(UrlError::Content(_)))));
    assert!(url(&format!("usher://m/{}", "0a".repeat(32))).is_ok_and(|url| url.content().is_ok()));
}

#[test]
fn patterns() {
    let pattern = |path: &str| url(&format!("usher://m/{path}")).and_then(|url| url.pattern());
    for (path, prefix, matching, others) in [
        ("films/*", "films/", &["films/a", "films/.b"][..], &["films/a/b", "films", "a"][..]),
        ("films/**", "films/", &["films/a", "films/a/b"], &["film/a"]),
        ("**/*.mp4", "", &["a.mp4", "x/y/a.mp4"], &["a.webm"]),
        ("[ab].mp4", "", &["a.mp4"], &["c.mp4"]),
        ("{a,b}?.mp4", "", &["a1.mp4"], &["a.mp4", "a/.mp4"]),
    ] {
        let found = pattern(path).ok().flatten().unwrap_or_else(|| panic!("{path} is a pattern"));
        assert_eq!(found.prefix, prefix);
        assert!(matching.iter().all(|title| found.matches(title)), "{path}");
        assert!(!others.iter().any(|title| found.matches(title)), "{path}");
    }
    assert!(matches!(pattern("films/a.mp4"), Ok(None)));
    assert!(matches!(pattern("[a"), Err(UrlError::Pattern(..))));
}

proptest! {
    #[test]
    fn no_text_panics(text in "(usher://)?[ -~\u{80}-\u{ff}/:%\\[\\]*{}]{0,60}") {
        if let Ok(url) = url(&text) {
            let _title = url.title();
            let _content = url.content();
            if let Ok(Some(pattern)) = url.pattern() {
                let _matches = pattern.matches("films/a.mp4");
            }
            prop_assert_eq!(url.to_string().parse(), Ok(url));
        }
    }

    #[test]
    fn every_title_survives(name in "[a-zö %/.#?*+-]{1,30}") {
        let title = Title::parse(&name);
        prop_assume!(title.is_ok());
        let printed = Url { master: Address::default(), path: name.clone() }.to_string();
        prop_assert_eq!(url(&printed).and_then(|url| url.title()).map(|title| title.to_string()), Ok(name));
    }
}
