//! Feeds to nodes that receive, move, refuse or fall silent: nodes receive every group of the input once.

use std::{
    io::{Read, Write as _},
    path::Path,
};

use clap::Parser;
use tokio::sync::mpsc;
use usher_media::cut::Format;
use usher_proto::Bitrate;

use super::{
    ingest::{FIRST, IngestBehaviour, IngestNode, ReceivedGroup},
    *,
};
use crate::{
    cli::{Failure, PublishArgs},
    driver::{MediaInput, Publication, PublishEvent, PublishStats},
};

/// An MPEG-TS packet with a payload.
fn packet(pid: u16, starts: bool, key: bool, payload: &[u8]) -> [u8; 188] {
    let mut packet = [0xff; 188];
    let [high, low] = pid.to_be_bytes();
    let room = 188 - 4 - payload.len();
    packet[..4].copy_from_slice(&[0x47, high | u8::from(starts) << 6, low, 0x30]);
    packet[4] = u8::try_from(room - 1).expect("small");
    packet[5] = u8::from(key) << 6;
    packet[188 - payload.len()..].copy_from_slice(payload);
    packet
}

/// A section with its checksum in a packet.
fn table(pid: u16, section: &[u8]) -> [u8; 188] {
    let crc = section.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 })
    });
    packet(pid, true, false, &[&[0], section, &crc.to_be_bytes()].concat())
}

/// A group of this many packets of pictures, marked with its number, with tables before them.
fn group(number: u8, packets: usize) -> Vec<u8> {
    let pat = table(0, &[0, 0xb0, 13, 0, 1, 0xc1, 0, 0, 0, 1, 0xf0, 0]);
    let pmt = table(0x1000, &[2, 0xb0, 18, 0, 1, 0xc1, 0, 0, 0xe1, 0, 0xf0, 0, 0x1b, 0xe1, 0, 0xf0, 0]);
    let pes = [&[0, 0, 1, 0xe0, 0, 0, 0x80, 0, 0], &[number; 100][..]].concat();
    let rest = (1..packets).flat_map(|at| packet(0x100, false, false, &[number ^ at as u8; 170]));
    pat.into_iter().chain(pmt).chain(packet(0x100, true, true, &pes)).chain(rest).collect()
}

/// Reads from a channel as from a pipe.
struct ChannelReader(std::sync::mpsc::Receiver<Vec<u8>>, Vec<u8>);

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.1.is_empty() {
            self.1 = self.0.recv().unwrap_or_default();
        }
        let len = self.1.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.1[..len]);
        self.1.drain(..len);
        Ok(len)
    }
}

/// A running publisher.
struct RunningPublisher {
    write: Option<std::sync::mpsc::Sender<Vec<u8>>>,
    stop: mpsc::Sender<()>,
    told: Arc<Mutex<Vec<PublishEvent>>>,
    news: Arc<tokio::sync::Notify>,
    task: tokio::task::JoinHandle<Result<PublishStats, Fault>>,
}

impl RunningPublisher {
    fn start(running: &RunningMaster, title: &str, timeout: Duration) -> Self {
        let (write, read) = std::sync::mpsc::channel();
        let (stop, mut stopped) = mpsc::channel(4);
        let client = client(running, timeout);
        let told: Arc<Mutex<Vec<PublishEvent>>> = Arc::default();
        let input = MediaInput::read(ChannelReader(read, Vec::new()), "the test", false).expect("a thread");
        let feed = Publication {
            title: Title::parse(title).expect("a title"),
            publisher: usher_proto::id::PublisherId(77),
            rate: Bitrate(0),
            zone: String::new(),
            take_over: title == "live/mine",
            record: false,
            timeout,
            format: Some(Format::Mpegts),
        };
        let news: Arc<tokio::sync::Notify> = Arc::default();
        let (words, new) = (told.clone(), news.clone());
        let task = tokio::spawn(async move {
            let observer = |word: &PublishEvent| {
                words.lock().expect("not poisoned").push(word.clone());
                new.notify_one();
            };
            let result = client.publish(&feed, input, &mut stopped, &observer).await;
            client.close().await;
            result
        });
        Self { write: Some(write), stop, told, news, task }
    }

    fn write(&self, bytes: Vec<u8>) {
        self.write.as_ref().expect("open").send(bytes).expect("read");
    }

    /// The input ends.
    fn end(&mut self) {
        self.write = None;
    }

    async fn result(mut self) -> Result<PublishStats, Fault> {
        self.end();
        tokio::time::timeout(Duration::from_secs(20), self.task).await.expect("it ends").expect("no panic")
    }

    /// Waits for an event.
    async fn until(&self, what: &str, holds: impl Fn(&PublishEvent) -> bool) {
        let told = async {
            while !self.told.lock().expect("not poisoned").iter().any(&holds) {
                self.news.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), told).await.unwrap_or_else(|_| panic!("{what}"));
    }

    /// Waits until at most this many bytes are not acknowledged.
    async fn until_waiting(&self, most: u64) {
        let waits = |told: &PublishEvent| matches!(told, PublishEvent::Progress(status) if status.waiting <= most);
        self.until("acknowledged", waits).await;
    }

    fn lost(&self) -> Vec<Code> {
        let told = self.told.lock().expect("not poisoned");
        told.iter()
            .filter_map(|told| if let PublishEvent::SeatFailed(fault) = told { Some(fault.code) } else { None })
            .collect()
    }
}

async fn master(nodes: &[&IngestNode]) -> RunningMaster {
    TestMaster::start(&Titles::default(), nodes.iter().map(|node| TestSeat::from(*node)).collect(), true).await
}

/// These groups, numbered from the first, each after the other.
fn check(got: &[ReceivedGroup], wanted: &[Vec<u8>]) {
    assert_eq!(got.len(), wanted.len(), "{:?}", got.iter().map(|got| got.head.sequence).collect::<Vec<_>>());
    for (at, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        assert_eq!(got.head.sequence, FIRST + at as u64);
        assert!([&got.head.head[..], &got.media].concat() == *wanted, "group {at}");
    }
}

#[tokio::test]
async fn the_input_arrives_group_by_group() {
    let node = IngestNode::start("n1", IngestBehaviour::Takes);
    let running = master(&[&node]).await;
    let publisher = RunningPublisher::start(&running, "live/later", Duration::from_secs(10));
    let groups: Vec<_> = (0..3).map(|number| group(number, 700)).collect();
    // Media arrives before its group is complete.
    publisher.write(groups[0].clone());
    let whole = |received: &ingest::Received| {
        let received = received.groups.lock().expect("not poisoned");
        received.get(&FIRST).is_some_and(|got| got.media.len() == 700 * 188 && !got.ended)
    };
    node.received.until("the first group's media", whole).await;
    publisher.write(groups[1..].concat());
    assert_eq!(publisher.lost(), [Code::Unavailable], "the master is asked twice");
    let status = publisher.result().await.expect("published");
    check(&node.received.whole(), &groups);
    assert_eq!((status.groups, status.waiting, status.bytes), (3, 0, groups.concat().len() as u64));
    assert_eq!(node.received.finished.load(std::sync::atomic::Ordering::Relaxed), 1);
    let offers = node.received.offers.lock().expect("not poisoned");
    let [offer] = &offers[..] else { panic!("{offers:?}") };
    assert_eq!(
        (offer.media_type.as_str(), offer.tracks.len(), offer.tracks[0].codec.as_str()),
        ("video/mp2t", 1, "h264")
    );
    let got = node.received.whole();
    assert!(got[0].head.at_ms >= offer.started_ms as u64 && got.is_sorted_by_key(|got| got.head.at_ms));
    assert_eq!(got[0].head.previous, [0; 32]);
    let published = running.published.lock().expect("not poisoned");
    assert!(published.iter().all(|request| request.publisher_id == 77_u128.to_be_bytes()));
}

#[tokio::test]
async fn incomplete_groups_of_a_dead_node_go_to_the_next() {
    let (bad, good) =
        (IngestNode::start("bad", IngestBehaviour::Deaf(2)), IngestNode::start("good", IngestBehaviour::Takes));
    let running = master(&[&bad, &good]).await;
    let publisher = RunningPublisher::start(&running, "live/a", Duration::from_secs(10));
    let groups: Vec<_> = (0..5).map(|number| group(number, 300)).collect();
    publisher.write(groups[..3].concat());
    bad.received.until("two groups", |received| received.whole().len() == 2).await;
    publisher.until_waiting(300 * 188).await;
    bad.received.die(&bad.endpoint);
    publisher.write(groups[3..].concat());
    let all = |received: &ingest::Received| received.groups.lock().expect("not poisoned").contains_key(&(FIRST + 4));
    good.received.until("the fifth group", all).await;
    publisher.result().await.expect("published");
    let numbers: Vec<u64> = good.received.whole().iter().map(|got| got.head.sequence - FIRST).collect();
    assert_eq!(numbers, [2, 3, 4], "complete groups are not sent again");
    let mut both = bad.received.whole();
    both.retain(|got| got.head.sequence < FIRST + 2);
    both.extend(good.received.whole().into_iter().filter(|got| got.head.sequence >= FIRST + 2));
    check(&both, &groups);
    // Both nodes have the same heads.
    for got in good.received.whole() {
        let before = bad.received.groups.lock().expect("not poisoned").get(&got.head.sequence).cloned();
        assert!(before.is_none_or(|before| before.head == got.head));
    }
    assert_eq!(good.received.finished.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_node_that_refuses_drains_or_moves_is_replaced() {
    for (behaviour, lost) in [
        (IngestBehaviour::Refuses(Code::Draining), Some(Code::Draining)),
        (IngestBehaviour::Refuses(Code::NoCapacity), Some(Code::NoCapacity)),
        (IngestBehaviour::Ends(2, Code::Draining), Some(Code::Draining)),
        (IngestBehaviour::Moves(2), None),
    ] {
        let (bad, good) = (IngestNode::start("bad", behaviour), IngestNode::start("good", IngestBehaviour::Takes));
        let running = master(&[&bad, &good]).await;
        bad.sends_to(TestSeat::from(&good).to_pb("live/a"));
        let publisher = RunningPublisher::start(&running, "live/a", Duration::from_secs(10));
        let groups: Vec<_> = (0..4).map(|number| group(number, 30)).collect();
        publisher.write(groups[..3].concat());
        let third =
            |received: &ingest::Received| received.groups.lock().expect("not poisoned").contains_key(&(FIRST + 2));
        good.received.until("the third group", third).await;
        publisher.write(groups[3].clone());
        assert_eq!(publisher.lost(), lost.into_iter().collect::<Vec<_>>(), "{behaviour:?}");
        publisher.result().await.expect("published");
        let mut both: std::collections::BTreeMap<_, _> =
            bad.received.whole().into_iter().map(|got| (got.head.sequence, got)).collect();
        both.extend(good.received.whole().into_iter().map(|got| (got.head.sequence, got)));
        check(&both.into_values().collect::<Vec<_>>(), &groups);
        assert_eq!(good.received.finished.load(std::sync::atomic::Ordering::Relaxed), 1, "{behaviour:?}");
    }
}

#[tokio::test]
async fn waiting_groups_are_sent_a_few_at_a_time() {
    let (bad, good) =
        (IngestNode::start("bad", IngestBehaviour::Deaf(0)), IngestNode::start("good", IngestBehaviour::Takes));
    let running = master(&[&bad, &good]).await;
    let publisher = RunningPublisher::start(&running, "live/a", Duration::from_secs(10));
    let groups: Vec<_> = (0..40).map(|number| group(number, 400)).collect();
    publisher.write(groups.concat());
    publisher.until_waiting(u64::MAX).await;
    bad.received.die(&bad.endpoint);
    publisher.result().await.expect("published");
    check(&good.received.whole(), &groups);
    let (_, most) = *good.received.in_flight.lock().expect("not poisoned");
    assert!(most <= 6, "a node cuts the oldest of more than 8: {most}");
}

#[tokio::test]
async fn a_silent_node_is_replaced_and_one_that_recovers_is_kept() {
    for others in [true, false] {
        let (bad, good) =
            (IngestNode::start("bad", IngestBehaviour::Takes), IngestNode::start("good", IngestBehaviour::Takes));
        let relay = usher_relay::UdpRelay::start(Default::default(), Default::default());
        let entrance = relay.entrance().await.expect("a port");
        entrance.forward_to(bad.address);
        let far = TestSeat { addresses: vec![entrance.address().to_string()], ..TestSeat::from(&bad) };
        let seats = if others { vec![far, TestSeat::from(&good)] } else { vec![far] };
        let running = TestMaster::start(&Titles::default(), seats, true).await;
        let title = if others { "live/a" } else { "live/once" };
        let publisher = RunningPublisher::start(&running, title, Duration::from_secs(20));
        let groups: Vec<_> = (0..3).map(|number| group(number, 30)).collect();
        publisher.write(groups[..1].concat());
        let first = |received: &ingest::Received| received.groups.lock().expect("not poisoned").contains_key(&FIRST);
        bad.received.until("the first group", first).await;
        let hole = |hole| {
            relay.set_hole(usher_relay::Direction::Up, hole);
            relay.set_hole(usher_relay::Direction::Down, hole);
        };
        hole(true);
        publisher.write(groups[1..].concat());
        let silent =
            |told: &PublishEvent| matches!(told, PublishEvent::SeatFailed(fault) if fault.code == Code::Timeout);
        publisher.until("it was noticed", silent).await;
        if others {
            let all =
                |received: &ingest::Received| received.groups.lock().expect("not poisoned").contains_key(&(FIRST + 2));
            good.received.until("the third group", all).await;
        }
        hole(false);
        publisher.result().await.expect("published");
        let mut all: std::collections::BTreeMap<_, _> =
            bad.received.whole().into_iter().map(|got| (got.head.sequence, got)).collect();
        all.extend(good.received.whole().into_iter().map(|got| (got.head.sequence, got)));
        check(&all.into_values().collect::<Vec<_>>(), &groups);
        if !others {
            assert_eq!(bad.received.tickets.lock().expect("not poisoned").len(), 1, "the first session continued");
        }
    }
}

#[tokio::test]
async fn a_publisher_that_is_taken_over_ends() {
    let node = IngestNode::start("n1", IngestBehaviour::Ends(1, Code::Exists));
    let running = master(&[&node]).await;
    let publisher = RunningPublisher::start(&running, "live/mine", Duration::from_secs(3600));
    publisher.write([group(0, 3), group(1, 3)].concat());
    let fault = loop {
        if publisher.task.is_finished() {
            break publisher.result().await.expect_err("taken over");
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((fault.code, fault.code.exit()), (Code::Exists, 13));
    assert!(fault.message.contains("another publisher has taken live/mine over"), "{fault}");
    let published = running.published.lock().expect("not poisoned");
    assert_eq!(
        published.iter().map(|request| request.take_over).collect::<Vec<_>>(),
        [true],
        "it does not take over again"
    );
}

#[tokio::test]
async fn groups_that_a_node_stops_are_not_sent_again() {
    let node = IngestNode::start("n1", IngestBehaviour::Stops);
    let running = master(&[&node]).await;
    let publisher = RunningPublisher::start(&running, "live/a", Duration::from_secs(10));
    publisher.write([group(0, 3), group(1, 3)].concat());
    publisher.result().await.expect("published");
    assert_eq!(*node.received.streams.lock().expect("not poisoned"), [FIRST, FIRST + 1]);
}

#[tokio::test]
async fn without_a_node_a_feed_fails_after_the_timeout() {
    let running = master(&[]).await;
    let publisher = RunningPublisher::start(&running, "live/a", Duration::from_millis(50));
    publisher.write(group(0, 3));
    let fault = publisher.result().await.expect_err("no node");
    assert_eq!((fault.code, fault.message.as_str()), (Code::Unavailable, "no node takes feeds"));
}

#[tokio::test]
async fn a_request_to_stop_ends_the_feed_well_and_a_second_one_at_once() {
    let node = IngestNode::start("n1", IngestBehaviour::Takes);
    let running = master(&[&node]).await;
    let publisher = RunningPublisher::start(&running, "live/a", Duration::from_secs(10));
    publisher.write(group(0, 3));
    node.received.until("a group", |received| !received.groups.lock().expect("not poisoned").is_empty()).await;
    publisher.stop.send(()).await.expect("runs");
    node.received.until("the end", |received| received.finished.load(std::sync::atomic::Ordering::Relaxed) == 1).await;
    assert_eq!(node.received.whole().len(), 1);
    assert!(publisher.task.await.expect("no panic").is_ok());

    let deaf = IngestNode::start("n2", IngestBehaviour::Deaf(0));
    let running = master(&[&deaf]).await;
    let publisher = RunningPublisher::start(&running, "live/a", Duration::from_secs(3600));
    publisher.write(group(0, 3000));
    deaf.received.until("a session", |received| !received.offers.lock().expect("not poisoned").is_empty()).await;
    publisher.stop.send(()).await.expect("runs");
    publisher.stop.send(()).await.expect("runs");
    let fault = publisher.task.await.expect("no panic").expect_err("interrupted");
    assert_eq!((fault.code, fault.code.exit()), (Code::Interrupted, 7));
}

#[tokio::test]
async fn bad_input_ends_the_feed_after_its_good_part() {
    let node = IngestNode::start("n1", IngestBehaviour::Takes);
    let running = master(&[&node]).await;
    let publisher = RunningPublisher::start(&running, "live/a", Duration::from_secs(10));
    publisher.write([group(0, 3), vec![0; 2 << 20]].concat());
    let fault = publisher.result().await.expect_err("bad input");
    assert!(fault.code == Code::BadRequest && fault.message.contains("no MPEG-TS packet"), "{fault}");
    check(&node.received.whole(), &[group(0, 3)]);
    assert_eq!(node.received.finished.load(std::sync::atomic::Ordering::Relaxed), 1);
    // Input that is bad from the beginning opens no session.
    let publisher = RunningPublisher::start(&running, "live/a", Duration::from_secs(10));
    publisher.write(b"hello".repeat(20_000));
    assert_eq!(publisher.result().await.expect_err("bad input").code, Code::BadRequest);
    assert_eq!(node.received.tickets.lock().expect("not poisoned").len(), 1);
}

#[derive(Parser)]
enum PublishCommand {
    Publish(PublishArgs),
}

async fn run(running: &RunningMaster, folder: &Path, words: &[&str]) -> Result<(), Failure> {
    let ca = folder.join("ca.pem");
    std::fs::write(&ca, &running.authority.pem).expect("writes");
    let (ca, master) = (ca.display().to_string(), running.address.to_string());
    let own = ["--ca", &ca, "--master", &master, "--timeout", "5s", "--progress", "none"];
    match PublishCommand::try_parse_from([&["usher", "publish"], words, &own].concat()) {
        Ok(PublishCommand::Publish(args)) => args.run(|| mpsc::channel(1).1).await,
        Err(error) => Err(Failure { code: Code::Usage, message: error.to_string() }),
    }
}

#[tokio::test]
async fn as_a_user_types_it() {
    let node = IngestNode::start("n1", IngestBehaviour::Takes);
    let running = master(&[&node]).await;
    let folder = tempfile::tempdir().expect("temp");
    let clip = folder.path().join("clip.ts");
    let groups: Vec<_> = (0..3).map(|number| group(number, 3)).collect();
    std::fs::write(&clip, groups.concat()).expect("writes");
    let clip = clip.display().to_string();
    run(&running, folder.path(), &["live/cam1", "-i", &clip, "--json"]).await.expect("published");
    check(&node.received.whole(), &groups);

    // The master is named twice: that of the URL counts.
    let url = format!("usher://{}/live/cam2", running.address);
    run(&running, folder.path(), &[&url, "--input", &clip, "--format", "mpegts", "--record"]).await.expect("published");
    {
        let published = running.published.lock().expect("not poisoned");
        assert_eq!(published.last().map(|request| (request.title.as_str(), request.record)), Some(("live/cam2", true)));
    }

    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).expect("makes");
    let (path, bytes) = (fifo.clone(), groups.concat());
    let writer = std::thread::spawn(move || {
        std::fs::OpenOptions::new().write(true).open(path).and_then(|mut fifo| fifo.write_all(&bytes))
    });
    run(&running, folder.path(), &["live/cam3", "-i", &fifo.display().to_string()]).await.expect("published");
    writer.join().expect("no panic").expect("written");
    assert_eq!(node.received.finished.load(std::sync::atomic::Ordering::Relaxed), 3);

    for (words, code, says) in [
        (&["cam1", "-i", &clip][..], Code::Usage, "live/NAME"),
        (&["live/a", "-i", "/nonexistent.ts"], Code::Usage, "/nonexistent.ts"),
        (&["live/a", "-i", "/"], Code::Usage, "folder"),
        (&["live/a", "file.ts"], Code::Usage, "invalid value"),
        (&["live/taken", "-i", &clip], Code::Exists, "--take-over"),
        (&["live/foreign", "-i", &clip], Code::Unauthenticated, "--cert FILE --key FILE"),
        (&["live/a", "-i", &clip, "--format", "fmp4"], Code::BadRequest, "--format"),
    ] {
        let failure = run(&running, folder.path(), words).await.expect_err("refused");
        assert!(failure.code == code && failure.message.contains(says), "{words:?}: {failure:?}");
    }
    run(&running, folder.path(), &["live/taken", "-i", &clip, "--take-over"]).await.expect("published");
}
