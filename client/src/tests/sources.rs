//! One title from several nodes at once: every byte arrives once and in order, whatever becomes of the nodes.

use std::sync::atomic::Ordering;

use super::*;

/// Groups of the title, and a little.
const GROUPS: u64 = 60;

struct Cluster {
    running: Running,
    nodes: Vec<Node>,
    data: Vec<u8>,
}

/// Nodes that all hold the title and behave so.
async fn cluster(manners: &[Manner]) -> Cluster {
    let data = media(GROUPS, 3);
    let titles: Titles = Arc::new(HashMap::from([(TITLE.to_owned(), data.clone())]));
    let nodes: Vec<Node> =
        manners.iter().enumerate().map(|(at, manner)| Node::start(&format!("n{at}"), &titles, *manner)).collect();
    let running = Master::start(&titles, nodes.iter().map(Seat::from).collect(), true).await;
    Cluster { running, nodes, data }
}

impl Cluster {
    fn client(&self, sources: Option<usize>) -> Client {
        let options = Options { timeout: Duration::from_secs(20), sources, ..Options::default() };
        Client::new(self.running.address.clone(), self.running.authority.clone(), options).expect("good options")
    }

    /// Bytes that all nodes together sent beyond the title itself, in thousandths of it.
    fn overhead(&self) -> u64 {
        let sent: u64 = self.nodes.iter().map(|node| node.sent.load(Ordering::Relaxed)).sum();
        (sent - self.data.len() as u64) * 1000 / self.data.len() as u64
    }

    fn excluded(&self) -> Vec<Vec<String>> {
        let asked = self.running.asked.lock().expect("not poisoned");
        asked.iter().map(|(request, _)| request.exclude.clone()).collect()
    }

    fn sessions(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.starts().len()).collect()
    }
}

#[tokio::test]
async fn two_nodes_share_a_title() {
    let cluster = cluster(&[Manner::Slow(2), Manner::Slow(2)]).await;
    let (result, bytes, lost) = fetch(&cluster.client(Some(2))).await;
    let outcome = result.expect("fetched");
    assert!(bytes == cluster.data && lost.is_empty());
    assert_eq!(outcome.node.map(|node| node.to_string()).as_deref(), Some("n0"));
    assert_eq!(cluster.sessions(), [1, 1], "one session each, however many ranges");
    assert_eq!(cluster.excluded(), [vec![], vec!["n0".to_owned()]], "the second is no alternate of the first");
    assert!(cluster.nodes.iter().all(|node| node.sent.load(Ordering::Relaxed) > 8 * GROUP), "both send");
    assert_eq!(cluster.nodes.iter().map(|node| node.finished.load(Ordering::Relaxed)).max(), Some(1));
}

#[tokio::test]
async fn one_that_is_left_alone_sends_it_all() {
    let cluster = cluster(&[Manner::Honest]).await;
    let (result, bytes, lost) = fetch(&cluster.client(Some(3))).await;
    assert!(result.is_ok() && bytes == cluster.data && lost.is_empty());
    assert_eq!(cluster.sessions(), [1]);
    assert_eq!(cluster.nodes[0].finished.load(Ordering::Relaxed), 1, "the session ended well");
    assert!(cluster.overhead() < 5, "{}", cluster.overhead());
}

#[tokio::test]
async fn told_one_source_none_other_is_asked_for() {
    let cluster = cluster(&[Manner::Honest, Manner::Honest]).await;
    let (result, bytes, _) = fetch(&cluster.client(Some(1))).await;
    assert!(result.is_ok() && bytes == cluster.data);
    assert_eq!((cluster.sessions(), cluster.excluded().len()), (vec![1, 0], 1));
}

#[tokio::test]
async fn what_a_lost_node_owed_comes_from_the_others() {
    for (manner, code) in [
        (Manner::End(9), Code::Network),
        (Manner::Reset(9), Code::Unavailable),
        (Manner::Corrupt(30), Code::VerificationFailed),
        (Manner::WrongHashes, Code::VerificationFailed),
        (Manner::Refuse(Code::NoCapacity), Code::NoCapacity),
    ] {
        // As the second source, then as the first.
        for at in [1, 0] {
            let mut manners = [Manner::Slow(2), Manner::Slow(2)];
            manners[at] = manner;
            let cluster = cluster(&manners).await;
            let (result, bytes, lost) = fetch(&cluster.client(Some(2))).await;
            assert!(result.is_ok() && bytes == cluster.data, "{manner:?} at {at}: {result:?}");
            // A group that is flipped for one source only may have come from the other; one that fails at once is tried
            // again when it is the only other.
            let few = lost.len() <= 2 && (!lost.is_empty() || manner == Manner::Corrupt(30));
            let told = few && lost.iter().all(|fault| fault.code == code);
            assert!(told, "{manner:?} at {at}: {lost:?}");
        }
    }
}

#[tokio::test]
async fn when_all_are_gone_the_next_seat_goes_on_where_they_stopped() {
    let cluster = cluster(&[Manner::End(20), Manner::End(10), Manner::Honest]).await;
    let (result, bytes, _) = fetch(&cluster.client(Some(2))).await;
    assert!(result.is_ok() && bytes == cluster.data, "{result:?}");
    let starts = cluster.nodes[2].starts();
    assert!(starts.iter().all(|start| *start > 0), "{starts:?}");
}

#[tokio::test]
async fn a_moved_source_goes_on_at_its_new_seat() {
    let cluster = cluster(&[Manner::Slow(2), Manner::Move(5), Manner::Honest]).await;
    cluster.nodes[1].sends_to(Seat::from(&cluster.nodes[2]).to_pb(""));
    let (result, bytes, lost) = fetch(&cluster.client(Some(2))).await;
    assert!(result.is_ok() && bytes == cluster.data && lost.is_empty(), "{result:?} {lost:?}");
    assert_eq!(cluster.sessions(), [1, 1, 1]);
    // The first one, while it is alone.
    let cluster = self::cluster(&[Manner::Move(5), Manner::Honest]).await;
    cluster.nodes[0].sends_to(Seat::from(&cluster.nodes[1]).to_pb(""));
    let (result, bytes, _) = fetch(&cluster.client(None)).await;
    assert!(result.is_ok() && bytes == cluster.data, "{result:?}");
}

#[tokio::test]
async fn ranges_stay_within_what_was_asked_for() {
    let cluster = cluster(&[Manner::Slow(1), Manner::Slow(1)]).await;
    let client = cluster.client(Some(2));
    for (start, end) in [(5, None), (3 * GROUP - 1, Some(40 * GROUP + 1)), (GROUP, Some(3 * GROUP))] {
        let what = What::Title(Title::parse(TITLE).expect("valid"));
        let order = client.order(what, Purpose::Fetch, Range { start, end });
        let mut bytes = Vec::new();
        client.fetch_order(&order, &mut PipeSink::new(&mut bytes), &|_| (), None).await.expect("fetched");
        let end = end.map_or(cluster.data.len(), |end| end as usize);
        assert!(bytes == cluster.data[start as usize..end], "{start} to {end}");
    }
    let within = |start: &u64| *start >= 5;
    assert!(cluster.nodes.iter().all(|node| node.starts().iter().all(within)), "the ticket's range is kept to");
}

#[tokio::test]
async fn a_file_resumes_after_several_sources() {
    let cluster = cluster(&[Manner::Stall(20), Manner::Stall(20)]).await;
    let folder = tempfile::tempdir().expect("temp");
    let target = folder.path().join("b.mp4");
    let title = Title::parse(TITLE).expect("valid");
    let client = cluster.client(Some(2));
    let enough = tokio::sync::Notify::new();
    let observer = |progress: &FetchEvent| {
        if matches!(progress, FetchEvent::Progress { verified, .. } if *verified >= 8 * GROUP) {
            enough.notify_one();
        }
    };
    let mut sink = FileSink::new(target.clone(), false);
    tokio::select! {
        result = client.fetch_to(&title, &mut sink, &observer) => panic!("it ended: {result:?}"),
        () = enough.notified() => {}
    }
    sink.pause().await.expect("room");
    drop(sink);
    let again = self::cluster(&[Manner::Honest, Manner::Honest]).await;
    let mut sink = FileSink::new(target.clone(), false);
    let outcome = again.client(Some(2)).fetch_to(&title, &mut sink, &|_| ()).await.expect("fetched");
    assert!(outcome.resumed >= 8 * GROUP, "{}", outcome.resumed);
    assert!(std::fs::read(&target).is_ok_and(|bytes| bytes == again.data));
}

#[tokio::test]
async fn nodes_that_know_no_further_ranges_serve_as_before() {
    let cluster = cluster(&[Manner::OneRange]).await;
    let (result, bytes, _) = fetch(&cluster.client(Some(2))).await;
    assert!(result.is_ok() && bytes == cluster.data, "{result:?}");
    assert_eq!(cluster.sessions(), [2], "the second one brings all that is left");
    for manners in [[Manner::OneRange; 2], [Manner::Slow(2), Manner::OneRange], [Manner::OneRange, Manner::Slow(2)]] {
        let cluster = self::cluster(&manners).await;
        let (result, bytes, _) = fetch(&cluster.client(Some(2))).await;
        assert!(result.is_ok() && bytes == cluster.data, "{manners:?}: {result:?}");
    }
}

#[tokio::test]
async fn viewers_have_one_source() {
    let cluster = cluster(&[Manner::Honest, Manner::Honest]).await;
    let client = cluster.client(Some(2));
    let order = client.order(What::Title(Title::parse(TITLE).expect("valid")), Purpose::Play, Range::default());
    let mut bytes = Vec::new();
    client.fetch_order(&order, &mut PipeSink::new(&mut bytes), &|_| (), None).await.expect("played");
    assert!(bytes == cluster.data);
    assert_eq!(cluster.sessions(), [1, 0]);
}
