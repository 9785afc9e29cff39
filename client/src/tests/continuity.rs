//! Failures that a viewer must not notice: nodes that move a session, fall silent, recover, or never answer.

use super::*;
use crate::driver::Order;

const PATIENCE: Duration = Duration::from_secs(20);

/// Plays the title; returns the result, the received bytes and the failures. `each` receives every event.
async fn play(
    client: &Client,
    each: impl Fn(&FetchEvent) + Send + Sync,
) -> (Result<Outcome, Fault>, Vec<u8>, Vec<Code>) {
    let (mut bytes, lost) = (Vec::new(), Mutex::new(Vec::new()));
    let observer = |progress: &FetchEvent| {
        if let FetchEvent::SeatFailed(fault) = progress {
            lost.lock().expect("not poisoned").push(fault.code);
        }
        each(progress);
    };
    let what = What::Title(Title::parse(TITLE).expect("valid"));
    let order: Order = client.order(what, Purpose::Play, Range::default());
    let result = client.fetch_order(&order, &mut PipeSink::new(&mut bytes), &observer, None).await;
    (result, bytes, lost.into_inner().expect("not poisoned"))
}

struct HandoverPair {
    running: RunningMaster,
    from: TestNode,
    to: TestNode,
    data: Vec<u8>,
}

/// A node that moves sessions to another, which the master does not know. The first node sends its last groups once the
/// second has a session.
async fn pair(behaviour: Behaviour, then: Behaviour) -> HandoverPair {
    let (titles, data) = one();
    let (from, to) = (TestNode::start("from", &titles, behaviour), TestNode::start("to", &titles, then));
    from.sends_to(TestSeat::from(&to).to_pb(""));
    to.opens(&from.gate);
    let running = TestMaster::start(&titles, vec![TestSeat::from(&from)], true).await;
    HandoverPair { running, from, to, data }
}

#[tokio::test]
async fn a_move_makes_before_it_breaks() {
    for (after, until) in [(0, 1), (0, 4), (2, 4), (3, 4), (1, 5)] {
        let pair = pair(Behaviour::Notice(after, until), Behaviour::Honest).await;
        let (result, bytes, lost) = play(&client(&pair.running, PATIENCE), |_| ()).await;
        let outcome = result.expect("played");
        assert!(bytes == pair.data, "{after} until {until}");
        // The first node sends its last group only after the second has a session.
        assert_eq!((pair.from.starts(), pair.to.starts()), (vec![0], vec![until * GROUP]));
        assert_eq!((outcome.reason.as_str(), lost.as_slice()), ("moved there by from", &[][..]));
        assert_eq!(pair.running.asked.lock().expect("not poisoned").len(), 1, "the master is not asked");
        let sent = pair.from.sent.load(std::sync::atomic::Ordering::Relaxed)
            + pair.to.sent.load(std::sync::atomic::Ordering::Relaxed);
        assert!(sent < pair.data.len() as u64 + 8 * 1024, "no byte was sent twice: {sent}");
    }
}

#[tokio::test]
async fn a_node_that_dies_during_a_move_leaves_no_gap() {
    let (titles, data) = one();
    let from = TestNode::start("from", &titles, Behaviour::Vanish(1, 4));
    let (to, good) =
        (TestNode::start("to", &titles, Behaviour::Honest), TestNode::start("good", &titles, Behaviour::Honest));
    from.sends_to(TestSeat::from(&to).to_pb(""));
    to.opens(&from.gate);
    let running = TestMaster::start(&titles, vec![TestSeat::from(&from), TestSeat::from(&good)], true).await;
    let (result, bytes, lost) = play(&client(&running, PATIENCE), |_| ()).await;
    assert!(result.is_ok() && bytes == data, "{result:?}");
    assert_eq!((to.starts(), lost), (vec![4 * GROUP], vec![Code::Network]));
    // The new seat's ticket was used for the later bytes.
    assert_eq!(good.starts(), [3 * GROUP]);
}

#[tokio::test]
async fn a_move_to_a_full_seat_continues_elsewhere() {
    let (titles, data) = one();
    let from = TestNode::start("from", &titles, Behaviour::Notice(1, 4));
    let to = TestNode::start("to", &titles, Behaviour::Refuse(Code::NoCapacity));
    let good = TestNode::start("good", &titles, Behaviour::Honest);
    from.sends_to(TestSeat::from(&to).to_pb(""));
    good.opens(&from.gate);
    let running = TestMaster::start(&titles, vec![TestSeat::from(&from), TestSeat::from(&good)], true).await;
    let (result, bytes, lost) = play(&client(&running, PATIENCE), |_| ()).await;
    assert!(result.is_ok() && bytes == data, "{result:?}");
    assert_eq!((good.starts(), lost), (vec![4 * GROUP], vec![Code::NoCapacity]), "still made before it was broken");
}

#[tokio::test]
async fn a_silent_node_is_replaced() {
    for silent in [Behaviour::Stall(3), Behaviour::Silent] {
        let (running, bad, good, data) = two(silent, true).await;
        let (result, bytes, lost) = play(&client(&running, PATIENCE), |_| ()).await;
        assert!(result.is_ok() && bytes == data, "{silent:?}: {result:?}");
        assert_eq!((bad.starts().len(), lost), (1, vec![Code::Timeout]), "{silent:?}");
        assert_eq!(good.starts(), [if silent == Behaviour::Silent { 0 } else { 3 * GROUP }]);
    }
}

#[tokio::test]
async fn a_node_that_sends_again_keeps_the_session() {
    let (titles, data) = one();
    let node = TestNode::start("lone", &titles, Behaviour::Gate(2));
    let running = TestMaster::start(&titles, vec![TestSeat::from(&node)], true).await;
    let gate = node.gate.clone();
    // No other node has the title. The node continues once the client has reported it.
    let each = move |progress: &FetchEvent| {
        if matches!(progress, FetchEvent::SeatFailed(_)) {
            gate.add_permits(1);
        }
    };
    let (result, bytes, lost) = play(&client(&running, PATIENCE), each).await;
    assert!(result.is_ok() && bytes == data, "{result:?}");
    assert!(!lost.is_empty());
    assert_eq!(node.starts(), [0], "the first session continued");
}

#[tokio::test]
async fn a_seat_that_never_answers_delays_no_session() {
    let (titles, data) = one();
    // A host that drops every packet.
    let deaf = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
    let address = deaf.local_addr().expect("bound").to_string();
    let good = TestNode::start("good", &titles, Behaviour::Honest);
    let dead = TestSeat { node: "dead".into(), addresses: vec![address], pin: [3; 32] };
    let running = TestMaster::start(&titles, vec![dead, TestSeat::from(&good)], true).await;
    let (result, bytes, lost) = play(&client(&running, PATIENCE), |_| ()).await;
    assert!(result.is_ok() && bytes == data, "{result:?}");
    // A late seat is not reported; only a dial that timed out would be.
    assert_eq!(lost, []);
}

#[tokio::test]
async fn a_seat_that_answers_late_is_still_used() {
    let (titles, data) = one();
    // Each sends its set-up information once the other has a session: neither answers in time.
    let (one, two) =
        (TestNode::start("one", &titles, Behaviour::Late), TestNode::start("two", &titles, Behaviour::Late));
    one.opens(&two.gate);
    two.opens(&one.gate);
    let running = TestMaster::start(&titles, vec![TestSeat::from(&one), TestSeat::from(&two)], true).await;
    let (result, bytes, lost) = play(&client(&running, PATIENCE), |_| ()).await;
    assert!(result.is_ok() && bytes == data && lost.is_empty(), "{result:?}");
    assert_eq!((one.starts(), two.starts()), (vec![0], vec![0]));
}

#[tokio::test]
async fn a_ticket_is_renewed_before_it_runs_out() {
    let (titles, data) = one();
    // It sends its last groups after the third renewal.
    let node = TestNode::start("short-lived", &titles, Behaviour::Trickle(3));
    let running = TestMaster::start(&titles, vec![TestSeat::from(&node)], true).await;
    let (result, bytes, lost) = fetch(&client(&running, PATIENCE)).await;
    assert!(result.is_ok() && bytes == data && lost.is_empty(), "{result:?} {lost:?}");
    let renewed = node.renewed.lock().expect("not poisoned").clone();
    // After the refused renewal, the ticket before it is renewed again.
    let plus = |count: usize| format!("{TITLE}{}", "+".repeat(count));
    assert_eq!(renewed.get(..3), Some(&[plus(1), plus(1), plus(2)][..]));
}

#[tokio::test]
async fn a_fetch_from_one_source_that_falls_silent_goes_on_at_another() {
    let data = media(60, 3);
    let titles: Titles = Arc::new(HashMap::from([(TITLE.to_owned(), data.clone())]));
    let (bad, good) =
        (TestNode::start("bad", &titles, Behaviour::Stall(20)), TestNode::start("good", &titles, Behaviour::Honest));
    for alone_at_first in [true, false] {
        let seats =
            if alone_at_first { vec![TestSeat::from(&bad), TestSeat::from(&good)] } else { vec![TestSeat::from(&bad)] };
        let running = TestMaster::start(&titles, seats, true).await;
        let options = Options { timeout: Duration::from_secs(4), sources: Some(3), ..Options::default() };
        let client = Client::new(running.address.clone(), running.authority.clone(), options).expect("good options");
        let (result, bytes, _) = fetch(&client).await;
        if alone_at_first {
            assert!(result.is_ok() && bytes == data, "{result:?}");
        } else {
            assert_eq!(result.expect_err("no other node").code, Code::Timeout);
        }
    }
}

#[tokio::test]
async fn sources_that_move_their_sessions_are_followed() {
    let data = media(60, 3);
    let titles: Titles = Arc::new(HashMap::from([(TITLE.to_owned(), data.clone())]));
    // The first run has eight groups.
    let from = TestNode::start("from", &titles, Behaviour::Notice(2, 5));
    let to = TestNode::start("to", &titles, Behaviour::Honest);
    from.sends_to(TestSeat::from(&to).to_pb(""));
    to.opens(&from.gate);
    let running = TestMaster::start(&titles, vec![TestSeat::from(&from)], true).await;
    let options = Options { timeout: PATIENCE, sources: Some(2), ..Options::default() };
    let client = Client::new(running.address.clone(), running.authority.clone(), options).expect("good options");
    let (result, bytes, lost) = fetch(&client).await;
    assert!(result.is_ok() && bytes == data, "{result:?}");
    assert_eq!((lost.len(), to.starts()), (0, vec![5 * GROUP]), "{lost:?}");
}
