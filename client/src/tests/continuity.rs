//! What nobody who watches may notice: nodes that send a session on, fall silent, come back, or never answer.

use super::*;
use crate::driver::Order;

const PATIENCE: Duration = Duration::from_secs(20);

/// Plays the title; gives what came and what was tried. `each` sees everything that is told.
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

struct Pair {
    running: Running,
    from: Node,
    to: Node,
    data: Vec<u8>,
}

/// A node that sends sessions on to another, which alone the master does not know. What the first holds back comes once the
/// second is open.
async fn pair(manner: Manner, then: Manner) -> Pair {
    let (titles, data) = one();
    let (from, to) = (Node::start("from", &titles, manner), Node::start("to", &titles, then));
    from.sends_to(Seat::from(&to).to_pb(""));
    to.opens(&from.gate);
    let running = Master::start(&titles, vec![Seat::from(&from)], true).await;
    Pair { running, from, to, data }
}

#[tokio::test]
async fn a_move_makes_before_it_breaks() {
    for (after, until) in [(0, 1), (0, 4), (2, 4), (3, 4), (1, 5)] {
        let pair = pair(Manner::Notice(after, until), Manner::Honest).await;
        let (result, bytes, lost) = play(&client(&pair.running, PATIENCE), |_| ()).await;
        let outcome = result.expect("played");
        assert!(bytes == pair.data, "{after} until {until}");
        // The first would never have sent its last group, had the second not been opened before.
        assert_eq!((pair.from.starts(), pair.to.starts()), (vec![0], vec![until * GROUP]));
        assert_eq!((outcome.reason.as_str(), lost.as_slice()), ("moved there by from", &[][..]));
        assert_eq!(pair.running.asked.lock().expect("not poisoned").len(), 1, "the master is not asked");
        let sent = pair.from.sent.load(std::sync::atomic::Ordering::Relaxed)
            + pair.to.sent.load(std::sync::atomic::Ordering::Relaxed);
        assert!(sent < pair.data.len() as u64 + 8 * 1024, "nothing came twice: {sent}");
    }
}

#[tokio::test]
async fn a_node_that_dies_before_it_has_sent_what_it_meant_to_leaves_no_hole() {
    let (titles, data) = one();
    let from = Node::start("from", &titles, Manner::Vanish(1, 4));
    let (to, good) = (Node::start("to", &titles, Manner::Honest), Node::start("good", &titles, Manner::Honest));
    from.sends_to(Seat::from(&to).to_pb(""));
    to.opens(&from.gate);
    let running = Master::start(&titles, vec![Seat::from(&from), Seat::from(&good)], true).await;
    let (result, bytes, lost) = play(&client(&running, PATIENCE), |_| ()).await;
    assert!(result.is_ok() && bytes == data, "{result:?}");
    assert_eq!((to.starts(), lost), (vec![4 * GROUP], vec![Code::Network]));
    // The new seat's ticket was used for what comes later.
    assert_eq!(good.starts(), [3 * GROUP]);
}

#[tokio::test]
async fn a_move_to_a_seat_that_does_not_serve_goes_on_elsewhere() {
    let (titles, data) = one();
    let from = Node::start("from", &titles, Manner::Notice(1, 4));
    let to = Node::start("to", &titles, Manner::Refuse(Code::NoCapacity));
    let good = Node::start("good", &titles, Manner::Honest);
    from.sends_to(Seat::from(&to).to_pb(""));
    good.opens(&from.gate);
    let running = Master::start(&titles, vec![Seat::from(&from), Seat::from(&good)], true).await;
    let (result, bytes, lost) = play(&client(&running, PATIENCE), |_| ()).await;
    assert!(result.is_ok() && bytes == data, "{result:?}");
    assert_eq!((good.starts(), lost), (vec![4 * GROUP], vec![Code::NoCapacity]), "still made before it was broken");
}

#[tokio::test]
async fn a_silent_node_is_left_for_one_that_sends() {
    for silent in [Manner::Stall(3), Manner::Silent] {
        let (running, bad, good, data) = two(silent, true).await;
        let (result, bytes, lost) = play(&client(&running, PATIENCE), |_| ()).await;
        assert!(result.is_ok() && bytes == data, "{silent:?}: {result:?}");
        assert_eq!((bad.starts().len(), lost), (1, vec![Code::Timeout]), "{silent:?}");
        assert_eq!(good.starts(), [if silent == Manner::Silent { 0 } else { 3 * GROUP }]);
    }
}

#[tokio::test]
async fn a_node_that_sends_again_keeps_the_session() {
    let (titles, data) = one();
    let node = Node::start("lone", &titles, Manner::Gate(2));
    let running = Master::start(&titles, vec![Seat::from(&node)], true).await;
    let gate = node.gate.clone();
    // Nobody else has it. The node goes on once the client has given it up.
    let each = move |progress: &FetchEvent| {
        if matches!(progress, FetchEvent::SeatFailed(_)) {
            gate.add_permits(1);
        }
    };
    let (result, bytes, lost) = play(&client(&running, PATIENCE), each).await;
    assert!(result.is_ok() && bytes == data, "{result:?}");
    assert!(!lost.is_empty());
    assert_eq!(node.starts(), [0], "one session all along");
}

#[tokio::test]
async fn a_seat_that_never_answers_holds_nobody_up() {
    let (titles, data) = one();
    // A host that drops what comes.
    let deaf = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
    let address = deaf.local_addr().expect("bound").to_string();
    let good = Node::start("good", &titles, Manner::Honest);
    let dead = Seat { node: "dead".into(), addresses: vec![address], pin: [3; 32] };
    let running = Master::start(&titles, vec![dead, Seat::from(&good)], true).await;
    let (result, bytes, lost) = play(&client(&running, PATIENCE), |_| ()).await;
    assert!(result.is_ok() && bytes == data, "{result:?}");
    // What is late is not lost; a dial that ran its time would be.
    assert_eq!(lost, []);
}

#[tokio::test]
async fn a_seat_that_answers_late_is_taken_all_the_same() {
    let (titles, data) = one();
    // Each sends its set-up information once the other was asked too: neither answers in time.
    let (one, two) = (Node::start("one", &titles, Manner::Late), Node::start("two", &titles, Manner::Late));
    one.opens(&two.gate);
    two.opens(&one.gate);
    let running = Master::start(&titles, vec![Seat::from(&one), Seat::from(&two)], true).await;
    let (result, bytes, lost) = play(&client(&running, PATIENCE), |_| ()).await;
    assert!(result.is_ok() && bytes == data && lost.is_empty(), "{result:?}");
    assert_eq!((one.starts(), two.starts()), (vec![0], vec![0]));
}

#[tokio::test]
async fn a_ticket_is_renewed_before_it_runs_out() {
    let (titles, data) = one();
    // It sends its last groups after the third renewal.
    let node = Node::start("short-lived", &titles, Manner::Trickle(3));
    let running = Master::start(&titles, vec![Seat::from(&node)], true).await;
    let (result, bytes, lost) = fetch(&client(&running, PATIENCE)).await;
    assert!(result.is_ok() && bytes == data && lost.is_empty(), "{result:?} {lost:?}");
    let renewed = node.renewed.lock().expect("not poisoned").clone();
    // The refused one is asked for again with the ticket before it.
    let plus = |count: usize| format!("{TITLE}{}", "+".repeat(count));
    assert_eq!(renewed.get(..3), Some(&[plus(1), plus(1), plus(2)][..]));
}

#[tokio::test]
async fn a_fetch_from_one_source_that_falls_silent_goes_on_at_another() {
    let data = media(60, 3);
    let titles: Titles = Arc::new(HashMap::from([(TITLE.to_owned(), data.clone())]));
    let (bad, good) = (Node::start("bad", &titles, Manner::Stall(20)), Node::start("good", &titles, Manner::Honest));
    for alone_at_first in [true, false] {
        let seats = if alone_at_first { vec![Seat::from(&bad), Seat::from(&good)] } else { vec![Seat::from(&bad)] };
        let running = Master::start(&titles, seats, true).await;
        let options = Options { timeout: Duration::from_secs(4), sources: Some(3), ..Options::default() };
        let client = Client::new(running.address.clone(), running.authority.clone(), options).expect("good options");
        let (result, bytes, _) = fetch(&client).await;
        if alone_at_first {
            assert!(result.is_ok() && bytes == data, "{result:?}");
        } else {
            assert_eq!(result.expect_err("nobody else").code, Code::Timeout);
        }
    }
}

#[tokio::test]
async fn sources_that_send_their_sessions_on_are_followed() {
    let data = media(60, 3);
    let titles: Titles = Arc::new(HashMap::from([(TITLE.to_owned(), data.clone())]));
    // The first run is of eight groups.
    let from = Node::start("from", &titles, Manner::Notice(2, 5));
    let to = Node::start("to", &titles, Manner::Honest);
    from.sends_to(Seat::from(&to).to_pb(""));
    to.opens(&from.gate);
    let running = Master::start(&titles, vec![Seat::from(&from)], true).await;
    let options = Options { timeout: PATIENCE, sources: Some(2), ..Options::default() };
    let client = Client::new(running.address.clone(), running.authority.clone(), options).expect("good options");
    let (result, bytes, lost) = fetch(&client).await;
    assert!(result.is_ok() && bytes == data, "{result:?}");
    assert_eq!((lost.len(), to.starts()), (0, vec![5 * GROUP]), "{lost:?}");
}
