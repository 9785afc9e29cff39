//! Hostile masters and nodes: what they must not make the client do to its user's machine.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use super::{commands::CommandFixture, *};

fn playlist() -> Vec<u8> {
    b"#EXTM3U\nhttp://127.0.0.1:9/secret\n".repeat(100)
}

#[tokio::test]
async fn no_player_starts_for_a_playlist_in_the_name_of_a_film() {
    let titles = ["films/list.mp4", "films/moov-last.mp4"].map(|name| (name.to_owned(), playlist()));
    let fixture = CommandFixture::holding(titles.into(), Behaviour::Honest, false).await;
    let player = fixture.path("player");
    std::fs::write(&player, "#!/bin/sh\ntouch \"$1\"\n").expect("writes");
    std::fs::set_permissions(&player, std::fs::Permissions::from_mode(0o755)).expect("mode");
    let started = fixture.path("started");
    for title in ["films/list.mp4", "films/moov-last.mp4"] {
        let url = fixture.url(title);
        let failure = fixture.run(&["play", &url, "--player", &player, "--player-args", &started]).await;
        let failure = failure.expect_err("a playlist is no film");
        assert_eq!(failure.code, Code::VerificationFailed);
        assert!(failure.message.contains("not MP4, Matroska, WebM or MPEG-TS"), "{failure}");
        assert!(!Path::new(&started).exists(), "{title} started the player");
        let failure = fixture.run(&["play", &url, "--player", "-"]).await;
        assert_eq!(failure.map_err(|failure| failure.code), Err(Code::VerificationFailed));
    }
    let saved = fixture.path("list");
    assert_eq!(fixture.fetch(&["films/list.mp4"], &["-o", &saved]).await, Ok(()), "a fetch saves any bytes");
}

/// A way to plant something, and the words of the refusal.
type Plant<'a> = (&'static str, &'a dyn Fn(&str));

#[tokio::test]
async fn a_fetch_writes_through_nothing_that_was_planted() {
    let titles = [("a.mp4".to_owned(), media(2, 1))];
    let fixture = CommandFixture::holding(titles.into(), Behaviour::Honest, false).await;
    let (out, precious) = (fixture.path("a.mp4"), fixture.path("precious"));
    std::fs::write(&precious, "mine").expect("writes");
    for end in [".part", ".part.state"] {
        let planted = format!("{out}{end}");
        let fifo = |path: &str| {
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
                .expect("makes");
        };
        let plants: [Plant<'_>; 3] = [
            ("symbolic link", &|path| std::os::unix::fs::symlink(&precious, path).expect("links")),
            ("hard link", &|path| std::fs::hard_link(&precious, path).expect("links")),
            ("no regular file", &fifo),
        ];
        for (what, plant) in plants {
            plant(&planted);
            for force in [&["-o", &out][..], &["-o", &out, "--force"]] {
                let url = fixture.url("a.mp4");
                let words = [&["fetch", &url], force].concat();
                let failure = fixture.run(&words).await.expect_err("planted");
                assert_eq!(failure.code, Code::Exists, "{failure}");
                assert!(failure.message.contains(&planted) && failure.message.contains(what), "{failure}");
            }
            std::fs::remove_file(&planted).expect("removes");
            assert!(!Path::new(&out).exists());
        }
    }
    assert!(std::fs::read(&precious).is_ok_and(|bytes| bytes == b"mine"));
    assert_eq!(fixture.fetch(&["a.mp4"], &["-o", &out]).await, Ok(()));
}
