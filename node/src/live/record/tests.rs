//! Recordings of a feed that tests fill. A closed node has written everything.

use std::{fs, time::Instant};

use bytes::Bytes;
use tempfile::TempDir;
use usher_proto::{
    PublisherId,
    feed::{FeedKey, Flags, GroupHead, Piece, SIGNATURE},
    model::Medium,
    ticket::Right,
    wire,
};

use super::*;
use crate::live::{FeedSettings, GRACE, PublisherGuard, Recorder};

const NAME: &str = "live/cam/1";
const TIME: &str = "20261126T110800Z";

struct Set {
    dir: TempDir,
    live: Arc<Feeds>,
}

impl Set {
    fn new() -> Self {
        Self::within(Duration::from_secs(60))
    }

    fn within(window: Duration) -> Self {
        let set = Self { dir: TempDir::new().expect("a folder"), live: live(window) };
        set.live.record_with(Recorder::open(set.dir.path().to_owned()).expect("a folder"));
        set
    }

    fn publish(&self, media_type: &str, change: impl FnOnce(&mut FeedGrant)) -> Result<PublisherGuard, Code> {
        publish(&self.live, media_type, change)
    }

    /// The names and contents of the recorded files, after everything is written.
    async fn files(&self) -> Vec<(String, String)> {
        self.live.close().await;
        let Ok(entries) = fs::read_dir(self.dir.path().join("recordings/cam/1")) else { return Vec::new() };
        let mut files: Vec<_> = entries
            .map(|entry| {
                let path = entry.expect("read").path();
                let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                (name, fs::read_to_string(path).expect("text"))
            })
            .collect();
        files.sort();
        files
    }
}

fn live(window: Duration) -> Arc<Feeds> {
    Feeds::new(FeedSettings { ingest: true, window, memory: 1 << 20, grace: GRACE })
}

fn publish(live: &Arc<Feeds>, media_type: &str, change: impl FnOnce(&mut FeedGrant)) -> Result<PublisherGuard, Code> {
    let mut grant = FeedGrant {
        right: Right::Publish,
        key: FeedKey([1; 32]),
        publisher: PublisherId(1),
        first: 1,
        take_over: false,
        record: true,
    };
    change(&mut grant);
    let medium = Medium { media_type: media_type.into(), tracks: Vec::new() };
    let offer = Offer { medium, started_ms: 1_795_691_280_000 };
    live.publish(&Title::parse(NAME).expect("a title"), &grant, offer).map_err(|fault| fault.code)
}

fn link(sequence: u64, number: u8) -> Link {
    let mut link = [number; 32];
    link[..8].copy_from_slice(&sequence.to_be_bytes());
    link
}

/// Adds a group of two pieces, its number and "!"; an incomplete group has only the first. It follows the group before
/// it, or none.
fn group(feed: &LiveFeed, sequence: u64, head: &'static str, begins: bool, whole: bool) {
    {
        let mut inner = feed.lock();
        let previous = if begins { [0; 32] } else { link(sequence - 1, 2) };
        let head = GroupHead { sequence, at_ms: sequence * 1000, previous, head: Bytes::from_static(head.as_bytes()) };
        inner.cache.handle_group(Instant::now(), head, link(sequence, 0)).expect("taken");
        for (number, text) in [(1, format!("{sequence}")), (2, "!".to_owned())].into_iter().take(1 + usize::from(whole))
        {
            let piece = Piece { flags: Flags::default(), signature: [0; SIGNATURE], media: Bytes::from(text) };
            let (frame, media) = (wire::piece(&piece), piece.media.len() as u64);
            let at = usize::from(number) - 1;
            inner.cache.handle_piece(sequence, at, frame, media, link(sequence, number), number == 2).expect("taken");
        }
        inner.cache.trim();
    }
    feed.changed.send_replace(());
}

fn named(files: &[(&str, &str)]) -> Vec<(String, String)> {
    files.iter().map(|(name, text)| (name.replace("TIME", TIME), (*text).to_owned())).collect()
}

#[tokio::test]
async fn complete_groups_are_written_once_and_in_order_across_publishers() {
    let set = Set::new();
    let publisher = set.publish("video/mp2t", |_| {}).expect("let in");
    let feed = Arc::clone(&publisher.feed);
    group(&feed, 1, "h", true, true);
    // The next group overtakes it.
    group(&feed, 3, "h", false, true);
    group(&feed, 2, "h", false, true);
    group(&feed, 4, "h", false, false);
    drop(publisher);
    let mut again = set.publish("video/mp2t", |_| {}).expect("let in");
    group(&feed, 4, "h", false, true);
    // Another publisher takes over and leaves a gap in the numbers with no groups in it.
    let other = |grant: &mut FeedGrant| (grant.publisher, grant.take_over) = (PublisherId(2), true);
    again.feed.lock().cache.handle_stream_end(5);
    group(&feed, 5, "h", false, false);
    let mut second = set.publish("video/mp2t", other).expect("taken over");
    group(&feed, 9, "h", true, true);
    second.finish(10);
    again.finish(10);
    assert_eq!(set.files().await, named(&[("TIME.ts", "h1!h2!h3!h4!h9!")]));
}

#[tokio::test]
async fn mp4_has_one_head_and_another_head_starts_another_file() {
    let set = Set::new();
    let folder = set.dir.path().join("recordings/cam/1");
    fs::create_dir_all(&folder).expect("made");
    fs::write(folder.join(format!("{TIME}.mp4")), "mine").expect("written");
    let mut publisher = set.publish("video/mp4", |_| {}).expect("let in");
    let feed = Arc::clone(&publisher.feed);
    for (sequence, head, begins) in [(1, "a", true), (2, "a", false), (3, "b", false), (4, "b", true), (5, "b", false)]
    {
        group(&feed, sequence, head, begins, true);
    }
    publisher.finish(6);
    let expected = [("TIME-2.mp4", "a1!2!"), ("TIME-3.mp4", "b3!"), ("TIME-4.mp4", "b4!5!"), ("TIME.mp4", "mine")];
    assert_eq!(set.files().await, named(&expected), "existing files stay");
}

#[tokio::test]
async fn groups_evicted_unwritten_are_missing() {
    let set = Set::within(Duration::from_secs(3));
    let mut publisher = set.publish("video/mp2t", |_| {}).expect("let in");
    let feed = Arc::clone(&publisher.feed);
    // Nothing is written before this test yields its thread.
    for sequence in 1..=9 {
        group(&feed, sequence, "", sequence == 1, sequence != 7);
    }
    publisher.finish(10);
    assert_eq!(set.files().await, named(&[("TIME.ts", "6!8!9!")]));
}

#[tokio::test]
async fn a_stopping_node_keeps_written_groups_and_no_empty_file() {
    let set = Set::new();
    let publisher = set.publish("video/mp2t", |_| {}).expect("let in");
    group(&publisher.feed, 1, "", true, true);
    group(&publisher.feed, 2, "", false, false);
    assert_eq!(set.files().await, named(&[("TIME.ts", "1!")]), "its publisher continues elsewhere");

    let set = Set::new();
    let mut publisher = set.publish("video/mp2t", |_| {}).expect("let in");
    group(&publisher.feed, 1, "", true, false);
    publisher.finish(2);
    assert_eq!(set.files().await, []);
}

#[tokio::test]
async fn a_feed_is_recorded_only_when_its_ticket_asks_for_it() {
    let set = Set::new();
    let first = set.publish("video/mp2t", |_| {}).expect("let in");
    let feed = Arc::clone(&first.feed);
    group(&feed, 1, "", true, true);
    let other = |grant: &mut FeedGrant| {
        (grant.publisher, grant.take_over, grant.record) = (PublisherId(2), true, false);
    };
    let mut second = set.publish("video/mp2t", other).expect("taken over");
    group(&feed, 2, "", true, true);
    second.finish(3);
    assert_eq!(set.files().await, named(&[("TIME.ts", "1!")]));
    drop(first);
}

#[tokio::test]
async fn feeds_that_cannot_be_recorded_are_refused() {
    let none = live(Duration::from_secs(60));
    assert_eq!(publish(&none, "video/mp2t", |_| {}).err(), Some(Code::Unequipped));
    assert!(publish(&none, "video/mp2t", |grant| grant.record = false).is_ok());
    assert_eq!(Set::new().publish("text/plain", |_| {}).err(), Some(Code::BadRequest));
}

#[tokio::test]
async fn a_disk_that_fails_ends_the_recording_and_not_the_feed() {
    let set = Set::new();
    fs::write(set.dir.path().join("recordings"), "in the way").expect("written");
    let mut publisher = set.publish("video/mp2t", |_| {}).expect("let in");
    let feed = Arc::clone(&publisher.feed);
    let mut changed = feed.changed.subscribe();
    group(&feed, 1, "", true, true);
    while feed.lock().recording.is_some() {
        tokio::task::yield_now().await;
    }
    group(&feed, 2, "", false, true);
    changed.changed().await.expect("the feed continues");
    assert_eq!(feed.newest(), 2);
    publisher.finish(3);
    assert_eq!(set.files().await, []);
}

#[test]
fn unfinished_recordings_are_recovered() {
    let dir = TempDir::new().expect("a folder");
    let folder = dir.path().join("recordings/a");
    fs::create_dir_all(&folder).expect("made");
    let boxed = |kind: &str, len: usize| {
        [&u32::try_from(len).expect("short").to_be_bytes()[..], kind.as_bytes(), &vec![7; len - 8]].concat()
    };
    let whole = [boxed("moov", 20), boxed("moof", 9), boxed("mdat", 30)].concat();
    let torn = [&whole[..], &boxed("moof", 9), &boxed("mdat", 30)[..29]].concat();
    for (name, data) in [
        ("T.ts.part", vec![0x47; 400]),
        ("T.ts", vec![1]),
        ("U.mp4.part", torn),
        ("V.mp4.part", boxed("moov", 20)),
        ("W.ts.part", Vec::new()),
        ("else.part", vec![1]),
        ("X.ts.part", vec![0x47; 188]),
    ] {
        fs::write(folder.join(name), data).expect("written");
    }
    let held = fs::File::open(folder.join("X.ts.part")).expect("open");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("another node's");
    Recorder::open(dir.path().to_owned()).expect("opened");
    let mut names: Vec<_> = fs::read_dir(&folder)
        .expect("listed")
        .map(|entry| entry.expect("read").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    assert_eq!(names, ["T-2.ts", "T.ts", "U.mp4", "X.ts.part", "else.part"]);
    assert_eq!(fs::read(folder.join("T.ts")).expect("read"), [1]);
    assert_eq!(fs::read(folder.join("T-2.ts")).expect("read").len(), 376);
    assert_eq!(fs::read(folder.join("U.mp4")).expect("read"), whole);
}

#[test]
fn times() {
    assert_eq!(time(1_795_691_280_000), TIME);
    assert_eq!((time(-1), time(i64::MAX)), ("19700101T000000Z".to_owned(), "99991231T235959Z".to_owned()));
}
