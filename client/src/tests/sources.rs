//! One title from several nodes at once: every byte arrives once and in order, whichever nodes fail.

use std::sync::atomic::Ordering;

use super::*;

/// Whole groups of the title.
const GROUPS: u64 = 60;

struct TestCluster {
    running: RunningMaster,
    nodes: Vec<TestNode>,
    data: Vec<u8>,
}

/// Nodes that all hold the title and behave like this.
async fn cluster(behaviours: &[Behaviour]) -> TestCluster {
    let data = media(GROUPS, 3);
    let titles: Titles = Arc::new(HashMap::from([(TITLE.to_owned(), data.clone())]));
    let nodes: Vec<TestNode> = behaviours
        .iter()
        .enumerate()
        .map(|(at, behaviour)| TestNode::start(&format!("n{at}"), &titles, *behaviour))
        .collect();
    let running = TestMaster::start(&titles, nodes.iter().map(TestSeat::from).collect(), true).await;
    TestCluster { running, nodes, data }
}

impl TestCluster {
    fn client(&self, sources: Option<usize>) -> Client {
        let options = Options { timeout: Duration::from_secs(20), sources, ..Options::default() };
        Client::new(self.running.address.clone(), self.running.authority.clone(), options).expect("good options")
    }

    /// Bytes that all nodes together sent beyond the title's size, in thousandths of it.
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
    let cluster = cluster(&[Behaviour::Slow(2), Behaviour::Slow(2)]).await;
    let (result, bytes, lost) = fetch(&cluster.client(Some(2))).await;
    let outcome = result.expect("fetched");
    assert!(bytes == cluster.data && lost.is_empty());
    assert_eq!(outcome.node.map(|node| node.to_string()).as_deref(), Some("n0"));
    assert_eq!(cluster.sessions(), [1, 1], "one session each, however many ranges");
    assert_eq!(cluster.excluded(), [vec![], vec!["n0".to_owned()]], "the second node comes from a request of its own");
    assert!(cluster.nodes.iter().all(|node| node.sent.load(Ordering::Relaxed) > 8 * GROUP), "both send");
    assert_eq!(cluster.nodes.iter().map(|node| node.finished.load(Ordering::Relaxed)).max(), Some(1));
}

#[tokio::test]
async fn a_lone_node_sends_everything() {
    let cluster = cluster(&[Behaviour::Honest]).await;
    let (result, bytes, lost) = fetch(&cluster.client(Some(3))).await;
    assert!(result.is_ok() && bytes == cluster.data && lost.is_empty());
    assert_eq!(cluster.sessions(), [1]);
    assert_eq!(cluster.nodes[0].finished.load(Ordering::Relaxed), 1, "the session ended well");
    assert!(cluster.overhead() < 5, "{}", cluster.overhead());
}

#[tokio::test]
async fn with_one_source_configured_no_other_is_asked_for() {
    let cluster = cluster(&[Behaviour::Honest, Behaviour::Honest]).await;
    let (result, bytes, _) = fetch(&cluster.client(Some(1))).await;
    assert!(result.is_ok() && bytes == cluster.data);
    assert_eq!((cluster.sessions(), cluster.excluded().len()), (vec![1, 0], 1));
}

#[tokio::test]
async fn groups_of_a_lost_node_come_from_the_others() {
    for (behaviour, code) in [
        (Behaviour::End(9), Code::Network),
        (Behaviour::Reset(9), Code::Unavailable),
        (Behaviour::Corrupt(30), Code::VerificationFailed),
        (Behaviour::WrongHashes, Code::VerificationFailed),
        (Behaviour::Refuse(Code::NoCapacity), Code::NoCapacity),
    ] {
        // As the second source, then as the first.
        for at in [1, 0] {
            let mut behaviours = [Behaviour::Slow(2), Behaviour::Slow(2)];
            behaviours[at] = behaviour;
            let cluster = cluster(&behaviours).await;
            let (result, bytes, lost) = fetch(&cluster.client(Some(2))).await;
            assert!(result.is_ok() && bytes == cluster.data, "{behaviour:?} at {at}: {result:?}");
            // A group that is corrupt at one source may have come from the other; a source that fails at once is tried again
            // when it is the only other.
            let few = lost.len() <= 2 && (!lost.is_empty() || behaviour == Behaviour::Corrupt(30));
            let told = few && lost.iter().all(|fault| fault.code == code);
            assert!(told, "{behaviour:?} at {at}: {lost:?}");
        }
    }
}

#[tokio::test]
async fn when_all_sources_are_lost_the_next_seat_continues_where_they_stopped() {
    let cluster = cluster(&[Behaviour::End(20), Behaviour::End(10), Behaviour::Honest]).await;
    let (result, bytes, _) = fetch(&cluster.client(Some(2))).await;
    assert!(result.is_ok() && bytes == cluster.data, "{result:?}");
    let starts = cluster.nodes[2].starts();
    assert!(starts.iter().all(|start| *start > 0), "{starts:?}");
}

#[tokio::test]
async fn a_moved_source_continues_at_its_new_seat() {
    let cluster = cluster(&[Behaviour::Slow(2), Behaviour::Move(5), Behaviour::Honest]).await;
    cluster.nodes[1].sends_to(TestSeat::from(&cluster.nodes[2]).to_pb(""));
    let (result, bytes, lost) = fetch(&cluster.client(Some(2))).await;
    assert!(result.is_ok() && bytes == cluster.data && lost.is_empty(), "{result:?} {lost:?}");
    assert_eq!(cluster.sessions(), [1, 1, 1]);
    // The first source, while it is alone.
    let cluster = self::cluster(&[Behaviour::Move(5), Behaviour::Honest]).await;
    cluster.nodes[0].sends_to(TestSeat::from(&cluster.nodes[1]).to_pb(""));
    let (result, bytes, _) = fetch(&cluster.client(None)).await;
    assert!(result.is_ok() && bytes == cluster.data, "{result:?}");
}

#[tokio::test]
async fn ranges_stay_within_what_was_asked_for() {
    let cluster = cluster(&[Behaviour::Slow(1), Behaviour::Slow(1)]).await;
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
    assert!(
        cluster.nodes.iter().all(|node| node.starts().iter().all(within)),
        "no node sends bytes outside the ticket's range"
    );
}

#[tokio::test]
async fn a_file_resumes_after_several_sources() {
    let cluster = cluster(&[Behaviour::Stall(20), Behaviour::Stall(20)]).await;
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
    let again = self::cluster(&[Behaviour::Honest, Behaviour::Honest]).await;
    let mut sink = FileSink::new(target.clone(), false);
    let outcome = again.client(Some(2)).fetch_to(&title, &mut sink, &|_| ()).await.expect("fetched");
    assert!(outcome.resumed >= 8 * GROUP, "{}", outcome.resumed);
    assert!(std::fs::read(&target).is_ok_and(|bytes| bytes == again.data));
}

#[tokio::test]
async fn nodes_that_serve_one_range_a_session_are_used_one_at_a_time() {
    let cluster = cluster(&[Behaviour::OneRange]).await;
    let (result, bytes, _) = fetch(&cluster.client(Some(2))).await;
    assert!(result.is_ok() && bytes == cluster.data, "{result:?}");
    assert_eq!(cluster.sessions(), [2], "the second session asks for all missing bytes");
    for behaviours in
        [[Behaviour::OneRange; 2], [Behaviour::Slow(2), Behaviour::OneRange], [Behaviour::OneRange, Behaviour::Slow(2)]]
    {
        let cluster = self::cluster(&behaviours).await;
        let (result, bytes, _) = fetch(&cluster.client(Some(2))).await;
        assert!(result.is_ok() && bytes == cluster.data, "{behaviours:?}: {result:?}");
    }
}

#[tokio::test]
async fn viewers_have_one_source() {
    let cluster = cluster(&[Behaviour::Honest, Behaviour::Honest]).await;
    let client = cluster.client(Some(2));
    let order = client.order(What::Title(Title::parse(TITLE).expect("valid")), Purpose::Play, Range::default());
    let mut bytes = Vec::new();
    client.fetch_order(&order, &mut PipeSink::new(&mut bytes), &|_| (), None).await.expect("played");
    assert!(bytes == cluster.data);
    assert_eq!(cluster.sessions(), [1, 0]);
}
