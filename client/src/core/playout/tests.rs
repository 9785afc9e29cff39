//! Groups of a simulated publisher, sent in every order and by several nodes.

use proptest::prelude::*;
use usher_proto::feed::FeedSigner;

use super::*;

const WHOLE: Flags = Flags { whole: true, last: false };
const PART: Flags = Flags { whole: false, last: false };
const LAST: Flags = Flags { whole: true, last: true };

/// A publisher of the tests.
struct TestPublisher {
    signer: FeedSigner,
    title: Title,
    previous: Link,
}

/// A signed group.
#[derive(Clone)]
struct SignedGroup {
    head: GroupHead,
    pieces: Vec<Piece>,
}

impl TestPublisher {
    fn new() -> Self {
        let title = Title::parse("live/a").expect("a title");
        Self { signer: FeedSigner::from_seed(&[5; 32]), title, previous: [0; 32] }
    }

    fn playout(&self, latency_s: u64) -> Playout {
        let mut playout = Playout::new(self.title.clone(), self.signer.key(), Duration::from_secs(latency_s), None);
        playout.handle_setup(1);
        playout
    }

    /// Group `n`, begun at second `2 n`, of these parts.
    fn make(&mut self, n: u64, parts: &[(Flags, &str)]) -> SignedGroup {
        let head =
            GroupHead { sequence: n, at_ms: n * 2000, previous: self.previous, head: Bytes::from_static(b"<h>") };
        let mut chain = Chain::begin(&self.title, &head);
        let pieces = parts.iter().map(|(flags, media)| {
            chain.take(*flags, media.as_bytes()).expect("a good piece");
            let media = Bytes::copy_from_slice(media.as_bytes());
            Piece { flags: *flags, signature: chain.sign(&self.signer), media }
        });
        let pieces = pieces.collect();
        self.previous = chain.link();
        SignedGroup { head, pieces }
    }

    fn simple(&mut self, n: u64) -> SignedGroup {
        let (a, b) = (format!("{n}a"), format!("{n}b"));
        self.make(n, &[(WHOLE, &a), (LAST, &b)])
    }
}

fn bring(playout: &mut Playout, now: Instant, stream: u64, made: &SignedGroup) {
    assert!(playout.handle_group(stream, made.head.clone()).expect("may begin"));
    playout.handle_pieces(now, stream, made.pieces.clone()).expect("verified");
    playout.handle_stream_end(stream, false);
}

fn text(playout: &mut Playout, now: Instant) -> String {
    let media = playout.poll_media(now).unwrap_or_default();
    media.iter().map(|media| String::from_utf8_lossy(media).into_owned()).collect()
}

#[test]
fn groups_are_written_in_order_whatever_order_they_are_received_in() {
    let (now, mut source) = (Instant::now(), TestPublisher::new());
    let mut playout = source.playout(60);
    let (one, two, three) = (source.simple(1), source.simple(2), source.simple(3));
    bring(&mut playout, now, 3, &three);
    assert_eq!(text(&mut playout, now), "", "the first one is missing");
    bring(&mut playout, now, 1, &one);
    assert_eq!(text(&mut playout, now), "<h>1a1b");
    bring(&mut playout, now, 2, &two);
    assert_eq!(text(&mut playout, now), "2a2b3a3b", "the decoder configuration is written once");
    assert_eq!((playout.resume_from(), playout.played(), playout.dropped()), (Some(4), 3, 0));
}

#[test]
fn pieces_are_written_as_received_up_to_where_the_media_may_end() {
    let (now, mut source) = (Instant::now(), TestPublisher::new());
    let mut playout = source.playout(60);
    let one = source.make(1, &[(WHOLE, "a"), (PART, "b"), (PART, "c"), (WHOLE, "d"), (LAST, "")]);
    assert!(playout.handle_group(1, one.head).expect("may begin"));
    for (piece, expected) in one.pieces.into_iter().zip(["<h>a", "", "", "bcd", ""]) {
        playout.handle_pieces(now, 1, vec![piece]).expect("verified");
        assert_eq!(text(&mut playout, now), expected);
    }
    assert_eq!(playout.resume_from(), Some(2));
}

#[test]
fn an_incomplete_end_is_not_written_and_complete_bytes_are_counted() {
    let (now, mut source) = (Instant::now(), TestPublisher::new());
    let mut playout = source.playout(60);
    let one = source.simple(1);
    let torn = source.make(2, &[(WHOLE, "2a"), (PART, "2b"), (Flags { whole: false, last: true }, "")]);
    bring(&mut playout, now, 1, &one);
    assert_eq!((text(&mut playout, now).as_str(), playout.complete_bytes()), ("<h>1a1b", 7));
    assert!(playout.handle_group(2, torn.head.clone()).expect("may begin"));
    playout.handle_pieces(now, 2, torn.pieces[..1].to_vec()).expect("verified");
    assert_eq!((text(&mut playout, now).as_str(), playout.complete_bytes()), ("2a", 7), "it may still be incomplete");
    playout.handle_pieces(now, 2, torn.pieces[1..].to_vec()).expect("verified");
    assert_eq!((text(&mut playout, now).as_str(), playout.complete_bytes(), playout.resume_from()), ("", 9, Some(3)));
}

#[test]
fn forged_media_is_never_written() {
    let (now, mut source) = (Instant::now(), TestPublisher::new());
    let good = source.simple(1);
    let wrong = |change: &dyn Fn(&mut SignedGroup)| {
        let mut playout = source.playout(60);
        let mut made = good.clone();
        change(&mut made);
        assert!(playout.handle_group(1, made.head.clone()).expect("may begin"));
        let fault = playout.handle_pieces(now, 1, made.pieces).expect_err("detected");
        assert_eq!((fault.code, text(&mut playout, now).as_str()), (Code::VerificationFailed, ""));
    };
    wrong(&|made| made.pieces[0].media = Bytes::from_static(b"xx"));
    wrong(&|made| made.head.head = Bytes::from_static(b"<x>"));
    wrong(&|made| made.head.sequence = 2);
    wrong(&|made| made.head.at_ms = 9);
    wrong(&|made| made.pieces.swap(0, 1));
    let mut other = TestPublisher { signer: FeedSigner::from_seed(&[6; 32]), ..TestPublisher::new() };
    let forged = other.simple(1);
    wrong(&|made| *made = forged.clone());
}

#[test]
fn a_group_from_two_nodes_is_written_once() {
    let (now, mut source) = (Instant::now(), TestPublisher::new());
    let mut playout = source.playout(60);
    let one = source.make(1, &[(WHOLE, "a"), (WHOLE, "b"), (LAST, "c")]);
    assert!(playout.handle_group(1, one.head.clone()).expect("may begin"));
    playout.handle_pieces(now, 1, one.pieces[..2].to_vec()).expect("verified");
    assert_eq!(text(&mut playout, now), "<h>ab");
    playout.handle_stream_end(1, false);
    // Another node begins the group anew.
    assert_eq!(playout.resume_from(), Some(1));
    assert!(playout.handle_group(2, one.head.clone()).expect("may begin"));
    playout.handle_pieces(now, 2, one.pieces[..1].to_vec()).expect("verified");
    playout.handle_pieces(now, 2, one.pieces[1..].to_vec()).expect("verified");
    assert_eq!((text(&mut playout, now).as_str(), playout.resume_from()), ("c", Some(2)));
    assert!(!playout.handle_group(3, one.head).expect("may be offered"), "it is not wanted twice");
}

#[test]
fn two_contents_signed_under_one_number_are_detected() {
    let now = Instant::now();
    let (mut one, mut other) = (TestPublisher::new(), TestPublisher::new());
    let (a, b) = (one.make(1, &[(WHOLE, "a"), (LAST, "b")]), other.make(1, &[(WHOLE, "x"), (LAST, "b")]));
    let mut playout = one.playout(60);
    assert!(playout.handle_group(1, a.head).expect("may begin"));
    playout.handle_pieces(now, 1, a.pieces[..1].to_vec()).expect("verified");
    assert!(playout.handle_group(2, b.head).expect("may begin"));
    assert!(playout.handle_pieces(now, 2, b.pieces).is_err());
}

#[test]
fn a_late_group_is_waited_for_and_dropped_when_the_viewer_is_too_far_behind() {
    let (now, mut source) = (Instant::now(), TestPublisher::new());
    let mut playout = source.playout(5);
    let one = source.make(1, &[(WHOLE, "1a"), (LAST, "1b")]);
    assert!(playout.handle_group(1, one.head.clone()).expect("may begin"));
    playout.handle_pieces(now, 1, one.pieces[..1].to_vec()).expect("verified");
    assert_eq!(text(&mut playout, now), "<h>1a");
    for n in 2..=3 {
        let made = source.simple(n);
        bring(&mut playout, now, n, &made);
        assert_eq!(text(&mut playout, now), "", "{n}: it may still be received");
    }
    let four = source.simple(4);
    bring(&mut playout, now, 4, &four);
    assert_eq!(text(&mut playout, now), "<h>2a2b3a3b4a4b", "the decoder begins anew");
    assert_eq!(playout.dropped(), 1);
}

#[test]
fn a_group_that_its_node_gave_up_is_not_waited_for() {
    let (now, mut source) = (Instant::now(), TestPublisher::new());
    let mut playout = source.playout(60);
    let (one, two) = (source.simple(1), source.simple(2));
    assert!(playout.handle_group(1, one.head).expect("may begin"));
    playout.handle_pieces(now, 1, one.pieces[..1].to_vec()).expect("verified");
    playout.handle_stream_end(1, true);
    assert_eq!(text(&mut playout, now), "<h>1a");
    bring(&mut playout, now, 2, &two);
    assert_eq!((text(&mut playout, now).as_str(), playout.dropped()), ("<h>2a2b", 1));
}

#[test]
fn gaps_are_waited_for_briefly_unless_announced() {
    let (now, mut source) = (Instant::now(), TestPublisher::new());
    let mut playout = source.playout(60);
    let (one, _two, three) = (source.simple(1), source.simple(2), source.simple(3));
    let _four = source.simple(4);
    let five = source.simple(5);
    bring(&mut playout, now, 1, &one);
    bring(&mut playout, now, 3, &three);
    assert_eq!(text(&mut playout, now), "<h>1a1b");
    let deadline = playout.next_timeout().expect("it waits");
    assert_eq!((text(&mut playout, deadline).as_str(), playout.dropped()), ("<h>3a3b", 1));
    bring(&mut playout, now, 5, &five);
    assert_eq!(text(&mut playout, now), "");
    playout.handle_skipped(4, 5);
    assert_eq!(text(&mut playout, now), "<h>5a5b");
}

#[test]
fn a_restarted_publisher_leaves_a_gap_and_drops_nothing() {
    let (now, mut source) = (Instant::now(), TestPublisher::new());
    let mut playout = source.playout(1_000_000);
    let one = source.simple(1);
    source.previous = [0; 32];
    let late = source.simple(1000);
    bring(&mut playout, now, 1, &one);
    bring(&mut playout, now, 2, &late);
    assert_eq!(text(&mut playout, now), "<h>1a1b");
    let deadline = playout.next_timeout().expect("it waits");
    assert_eq!((text(&mut playout, deadline).as_str(), playout.dropped()), ("<h>1000a1000b", 0));
}

#[test]
fn a_recording_ends_with_a_complete_group() {
    let (now, mut source) = (Instant::now(), TestPublisher::new());
    let mut playout = source.playout(60);
    playout.duration = Some(Duration::from_secs(3));
    for n in 1..=3 {
        let made = source.simple(n);
        bring(&mut playout, now, n, &made);
    }
    assert_eq!((text(&mut playout, now).as_str(), playout.is_over(now)), ("<h>1a1b2a2b", true));
}

#[test]
fn a_finished_feed_is_played_to_its_end() {
    let (now, mut source) = (Instant::now(), TestPublisher::new());
    let mut playout = source.playout(60);
    let (one, two) = (source.simple(1), source.simple(2));
    bring(&mut playout, now, 1, &one);
    playout.handle_finish(now, 3);
    assert_eq!(
        (text(&mut playout, now).as_str(), playout.is_over(now)),
        ("<h>1a1b", false),
        "a group is still missing"
    );
    bring(&mut playout, now, 2, &two);
    assert_eq!((text(&mut playout, now).as_str(), playout.is_over(now)), ("2a2b", true));
}

#[test]
fn the_end_of_a_feed_is_waited_for_a_bounded_time() {
    let (now, mut source) = (Instant::now(), TestPublisher::new());
    let mut playout = source.playout(60);
    let (one, two) = (source.simple(1), source.simple(2));
    bring(&mut playout, now, 1, &one);
    playout.handle_finish(now, 3);
    assert!(playout.handle_group(2, two.head).expect("may begin"));
    playout.handle_pieces(now, 2, two.pieces[..1].to_vec()).expect("verified");
    playout.handle_stream_end(2, false);
    assert_eq!((text(&mut playout, now).as_str(), playout.is_over(now)), ("<h>1a1b2a", false));
    let deadline = playout.next_timeout().expect("it waits");
    assert_eq!((text(&mut playout, deadline).as_str(), playout.is_over(deadline)), ("", true));
}

proptest! {
    /// Two nodes send the same groups, interleaved at any piece; one may stop anywhere.
    #[test]
    fn every_group_is_written_once_and_in_order(
        order in proptest::collection::vec((0..2_usize, 0..5_usize), 0..200),
        stops in 0..40_usize,
    ) {
        let (now, mut source) = (Instant::now(), TestPublisher::new());
        let groups: Vec<SignedGroup> = (1..=5)
            .map(|n| {
                let parts: Vec<String> = (0..4).map(|part| format!("[{n}.{part}]")).collect();
                let flags = [WHOLE, PART, WHOLE, LAST];
                let parts: Vec<(Flags, &str)> = flags.into_iter().zip(parts.iter().map(String::as_str)).collect();
                source.make(n, &parts)
            })
            .collect();
        let mut playout = source.playout(600);
        let mut sent = [[0; 5]; 2];
        let mut all = String::new();
        let everything = (0..5).flat_map(|group| [(1, group); 4]);
        for (step, (node, group)) in order.into_iter().chain(everything).enumerate() {
            if node == 0 && step >= stops {
                continue;
            }
            let at = &mut sent[node][group];
            let stream = (node * 5 + group) as u64;
            let made = &groups[group];
            if *at == 0 && !playout.handle_group(stream, made.head.clone()).expect("may begin") {
                continue;
            }
            if let Some(piece) = made.pieces.get(*at) {
                *at += 1;
                playout.handle_pieces(now, stream, vec![piece.clone()]).expect("verified");
            }
            all += &text(&mut playout, now);
        }
        let wanted: String = (1..=5).flat_map(|n| (0..4).map(move |part| format!("[{n}.{part}]"))).collect();
        prop_assert_eq!(all, format!("<h>{wanted}"));
    }
}
