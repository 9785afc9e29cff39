//! Groups by their numbers, of any age and in any order.

use proptest::prelude::*;

use super::*;

fn head(sequence: u64, at_ms: u64) -> GroupHead {
    GroupHead { sequence, at_ms, previous: [0; 32], head: Bytes::new() }
}

fn link(sequence: u64, number: usize) -> Link {
    let mut link = [0; 32];
    link[..8].copy_from_slice(&sequence.to_be_bytes());
    link[8] = u8::try_from(number).expect("few pieces");
    link
}

fn begin(feed: &mut FeedCache, sequence: u64) -> GroupStatus {
    feed.handle_group(Instant::now(), head(sequence, sequence * 1000), link(sequence, 0)).expect("taken")
}

fn piece(feed: &mut FeedCache, sequence: u64, number: usize, last: bool) -> bool {
    let frame = Bytes::from(format!("{sequence}.{number}"));
    feed.handle_piece(sequence, number, frame, 100, link(sequence, number + 1), last).expect("taken")
}

/// Groups of two pieces, a second each; the last one has only its first.
fn feed(groups: std::ops::RangeInclusive<u64>) -> FeedCache {
    let mut feed = FeedCache::new(Duration::from_secs(10));
    let last = *groups.end();
    for sequence in groups {
        assert_eq!(begin(&mut feed, sequence), GroupStatus::Wanted);
        assert!(piece(&mut feed, sequence, 0, false));
        if sequence < last {
            assert!(piece(&mut feed, sequence, 1, true));
        }
        feed.trim();
    }
    feed
}

#[test]
fn viewers_start_at_the_requested_group() {
    let feed = feed(1..=30);
    let start = |start: FeedStart| feed.start_group(&start);
    assert_eq!(start(FeedStart::default()), 29, "the last complete one");
    assert_eq!(start(FeedStart { newest: true, ..FeedStart::default() }), 30);
    let back = |back_ms| start(FeedStart { back_ms, ..FeedStart::default() });
    assert_eq!((back(3000), back(3500), back(100_000)), (27, 26, 20));
    let from = |from_group| start(FeedStart { from_group, ..FeedStart::default() });
    assert_eq!((from(1), from(25), from(31), from(40)), (20, 25, 31, 40));
    let empty = FeedCache::new(Duration::from_secs(10));
    assert_eq!((empty.start_group(&FeedStart::default()), empty.resume_from()), (1, 0));
    assert_eq!(feed.resume_from(), 30);
}

#[test]
fn the_window_and_at_least_two_groups_are_kept() {
    let mut feed = feed(1..=30);
    assert_eq!(feed.groups.len(), 11);
    assert_eq!(feed.bytes(), 10 * 200 + 100);
    while feed.evict_oldest() > 0 {}
    assert_eq!((feed.groups.len(), feed.bytes(), feed.oldest()), (2, 300, None));
    assert_eq!(feed.next_piece(28, 0), NextPiece::Gone);
}

#[test]
fn viewers_receive_pieces_as_they_arrive() {
    let mut feed = feed(1..=3);
    assert_eq!(feed.next_piece(2, 1), NextPiece::Piece(Bytes::from("2.1")));
    assert_eq!(feed.next_piece(2, 2), NextPiece::Complete);
    assert_eq!(feed.next_piece(3, 1), NextPiece::Wait);
    assert!(piece(&mut feed, 3, 1, true));
    assert_eq!(feed.next_piece(3, 1), NextPiece::Piece(Bytes::from("3.1")));
    assert_eq!((feed.next_piece(3, 2), feed.next_piece(4, 0)), (NextPiece::Complete, NextPiece::Gone));
    assert_eq!(feed.first_from(4).map(|head| head.sequence), None);
    assert_eq!(feed.resume_from(), 4);
}

#[test]
fn a_group_sent_again_must_be_the_same() {
    let mut feed = feed(1..=3);
    assert_eq!(begin(&mut feed, 2), GroupStatus::Known);
    assert_eq!(begin(&mut feed, 3), GroupStatus::Wanted);
    assert!(!piece(&mut feed, 3, 0, false), "it is here");
    assert!(piece(&mut feed, 3, 1, true));
    let wrong = feed.handle_group(Instant::now(), head(3, 3000), link(9, 0));
    assert_eq!(wrong.map_err(|fault| fault.code), Err(Code::BadRequest));
    let wrong = feed.handle_piece(3, 0, Bytes::new(), 1, link(9, 9), false);
    assert!(wrong.is_err(), "another first piece");
    let wrong = feed.handle_piece(3, 5, Bytes::new(), 1, link(3, 6), false);
    assert!(wrong.is_err(), "pieces are missing before it");
}

#[test]
fn old_groups_and_clocks_that_go_back() {
    let mut feed = feed(20..=30);
    assert_eq!(begin(&mut feed, 5), GroupStatus::Wanted, "older than all groups, but not evicted");
    feed.trim();
    assert_eq!(begin(&mut feed, 5), GroupStatus::Known, "out of the window");
    // A restarted publisher on a host with another clock.
    assert_eq!(feed.handle_group(Instant::now(), head(31, 5), link(31, 0)), Ok(GroupStatus::Wanted));
    assert_eq!(feed.groups.back().map(|group| group.at_ms), Some(30_000));
    assert_eq!(feed.trim(), 0, "nothing is thrown away for it");
    while feed.evict_oldest() > 0 {}
    assert_eq!(begin(&mut feed, 29), GroupStatus::Known, "it was here");
    let mut new = FeedCache::new(Duration::from_secs(10));
    assert_eq!(
        (begin(&mut new, 8), begin(&mut new, 7)),
        (GroupStatus::Wanted, GroupStatus::Wanted),
        "one overtook the other"
    );
}

#[test]
fn a_slow_viewer_skips_to_the_last_complete_group() {
    let feed = feed(20..=30);
    let seconds = Duration::from_secs;
    assert_eq!(feed.skip_target(28, seconds(3)), None);
    assert_eq!(feed.skip_target(26, seconds(3)), Some(29));
    assert_eq!(feed.skip_target(29, seconds(0)), None, "no newer group is complete");
    assert_eq!(feed.skip_target(30, seconds(0)), None);
    assert_eq!(feed.skip_target(5, seconds(3)), Some(29), "its group is gone");
}

#[test]
fn the_bitrate_is_that_of_the_last_seconds() {
    let feed = feed(1..=30);
    assert_eq!(feed.bitrate(), Bitrate(200 * 8));
    assert_eq!(FeedCache::new(Duration::from_secs(1)).bitrate(), Bitrate(0));
}

proptest! {
    /// Groups and pieces in any order, some repeated, stay within the bounds and are counted.
    #[test]
    fn any_input_is_counted(
        steps in proptest::collection::vec((1..40_u64, 0..4_usize, any::<bool>(), 0..100_000_u64), 0..300),
    ) {
        let mut feed = FeedCache::new(Duration::from_secs(10));
        for (sequence, number, last, at) in steps {
            let known = feed.handle_group(Instant::now(), head(sequence, at), link(sequence, 0)).expect("the same link");
            if known == GroupStatus::Wanted {
                // A piece that does not follow is refused and changes nothing.
                drop(feed.handle_piece(sequence, number, Bytes::from_static(b"x"), 10, link(sequence, number + 1), last));
            }
            feed.trim();
            prop_assert_eq!(feed.bytes(), feed.groups.iter().map(|group| group.bytes).sum::<u64>());
            let mut pairs = feed.groups.iter().zip(feed.groups.iter().skip(1));
            prop_assert!(pairs.all(|(a, b)| a.head.sequence < b.head.sequence));
            let span = feed.newest_ms - feed.groups.front().map_or(feed.newest_ms, |group| group.at_ms);
            prop_assert!(feed.groups.len() <= MIN_GROUPS || span <= 10_000);
            prop_assert!(feed.start_group(&FeedStart::default()) > 0);
        }
    }
}
