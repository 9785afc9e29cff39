//! Tables: the action after each failure, and when the timeout ends a session.

use rand::{SeedableRng as _, rngs::SmallRng};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(30);

fn node(name: &str) -> NodeName {
    NodeName::parse(name).expect("valid")
}

fn nodes(names: &[&str]) -> Vec<NodeName> {
    names.iter().map(|name| node(name)).collect()
}

fn fault(code: Code) -> Fault {
    Fault::new(code, format!("{code:?}"))
}

/// A policy and its clock.
struct Fixture {
    policy: FailoverPolicy,
    now: Instant,
    rng: SmallRng,
}

impl Fixture {
    fn new() -> Self {
        Self { policy: FailoverPolicy::new(TIMEOUT), now: Instant::now(), rng: SmallRng::seed_from_u64(7) }
    }

    fn at(&mut self, seconds: u64, event: SeatEvent<'_>) -> Action {
        self.policy.handle_event(self.now + Duration::from_secs(seconds), event, &mut self.rng)
    }

    fn lost(&mut self, seconds: u64, code: Code) -> Action {
        self.at(seconds, SeatEvent::Lost(&fault(code)))
    }
}

/// The master is asked at once, and receives these failures.
fn ask(failed: &[(&str, Code)]) -> Action {
    ask_without(&[], failed)
}

fn ask_without(exclude: &[&str], failed: &[(&str, Code)]) -> Action {
    let failed = failed.iter().map(|(name, code)| Failed::new(node(name), *code)).collect();
    Action::Resolve { after: Duration::ZERO, exclude: nodes(exclude), failed }
}

/// The nodes that the master must not choose.
fn out(action: &Action) -> Vec<String> {
    let Action::Resolve { exclude, failed, .. } = action else { panic!("{action:?}") };
    exclude.iter().chain(failed.iter().map(|failed| &failed.node)).map(ToString::to_string).collect()
}

#[test]
fn every_code_has_its_remedy() {
    for (code, expected) in [
        (Code::NotFound, Remedy::NextSeat),
        (Code::NoCapacity, Remedy::NextSeat),
        (Code::BudgetExceeded, Remedy::NextSeat),
        (Code::Unavailable, Remedy::NextSeat),
        (Code::Draining, Remedy::NextSeat),
        (Code::Unequipped, Remedy::NextSeat),
        (Code::Network, Remedy::NextSeat),
        (Code::Timeout, Remedy::NextSeat),
        (Code::VerificationFailed, Remedy::NextSeat),
        (Code::ContentChanged, Remedy::NextSeat),
        (Code::Internal, Remedy::NextSeat),
        (Code::Cancelled, Remedy::NextSeat),
        (Code::TicketExpired, Remedy::NewTicket),
        (Code::TicketReplayed, Remedy::NewTicket),
        (Code::TicketInvalid, Remedy::NewTicket),
        (Code::TicketMismatch, Remedy::Fail),
        (Code::Denied, Remedy::Fail),
        (Code::BadRequest, Remedy::Fail),
        (Code::BadRange, Remedy::Fail),
        (Code::Disk, Remedy::NextSeat),
        (Code::Interrupted, Remedy::NextSeat),
        (Code::Exists, Remedy::NextSeat),
        (Code::Usage, Remedy::NextSeat),
    ] {
        assert_eq!(remedy(code), expected, "{code:?}");
        let mut fixture = Fixture::new();
        assert_eq!(fixture.at(0, SeatEvent::Start), ask(&[]));
        assert_eq!(fixture.at(0, SeatEvent::Resolved(&nodes(&["a", "b"]))), Action::Open(0));
        if expected == Remedy::Fail {
            assert_eq!(fixture.lost(1, code), Action::Fail(fault(code)));
            continue;
        }
        // The alternate at once, then the master at once, which receives both failures.
        assert_eq!(fixture.lost(1, code), Action::Open(1), "{code:?}");
        assert_eq!(fixture.lost(1, Code::Network), ask(&[("a", code), ("b", Code::Network)]), "{code:?}");
    }
}

#[test]
fn all_seats_then_the_master_without_them_then_a_wait() {
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Start);
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a", "b"])));
    assert_eq!(fixture.lost(1, Code::Network), Action::Open(1));
    assert_eq!(fixture.lost(2, Code::NoCapacity), ask(&[("a", Code::Network), ("b", Code::NoCapacity)]));
    let action = fixture.at(2, SeatEvent::Refused(&fault(Code::NotFound)));
    assert!(out(&action).is_empty(), "suspects are tried again");
    // Without suspects the title does not exist.
    assert_eq!(fixture.at(3, SeatEvent::Refused(&fault(Code::NotFound))), Action::Fail(fault(Code::NoCapacity)));
}

#[test]
fn a_full_node_named_again_in_vain_makes_it_wait() {
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Start);
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a"])));
    let full = [("a", Code::NoCapacity)];
    assert_eq!(fixture.lost(1, Code::NoCapacity), ask(&full));
    for second in 1..4 {
        assert_eq!(fixture.at(second, SeatEvent::Resolved(&nodes(&["a"]))), Action::Open(0));
        let action = fixture.lost(second, Code::NoCapacity);
        let Action::Resolve { after, .. } = &action else { panic!("{action:?}") };
        assert!(*after > Duration::ZERO, "{action:?}");
        assert_eq!(out(&action), ["a"]);
    }
    // With another seat there is no need to wait.
    assert_eq!(fixture.at(4, SeatEvent::Resolved(&nodes(&["a", "b"]))), Action::Open(0));
    assert_eq!(fixture.lost(4, Code::NoCapacity), Action::Open(1));
    assert_eq!(fixture.lost(4, Code::NoCapacity), ask(&[("a", Code::NoCapacity), ("b", Code::NoCapacity)]));
    // The timeout still applies.
    assert_eq!(fixture.at(5, SeatEvent::Resolved(&nodes(&["b"]))), Action::Open(0));
    assert_eq!(fixture.lost(31, Code::NoCapacity), Action::Fail(fault(Code::NoCapacity)));
}

#[test]
fn progress_clears_suspects_and_restarts_the_timeout() {
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Start);
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a"])));
    assert_eq!(fixture.lost(29, Code::Network), ask(&[("a", Code::Network)]));
    fixture.at(29, SeatEvent::Resolved(&nodes(&["b"])));
    assert_eq!(fixture.at(29, SeatEvent::Progress), Action::Continue);
    assert_eq!(fixture.lost(58, Code::Network), ask(&[("b", Code::Network)]));
    fixture.at(58, SeatEvent::Resolved(&nodes(&["a"])));
    assert_eq!(fixture.lost(59, Code::Timeout), Action::Fail(fault(Code::Timeout)));
    // A title that existed is waited for.
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a"])));
    fixture.at(0, SeatEvent::Progress);
    assert!(matches!(fixture.at(1, SeatEvent::Refused(&fault(Code::NotFound))), Action::Resolve { .. }));
}

#[test]
fn a_node_that_sends_wrong_bytes_is_not_asked_again() {
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Start);
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a"])));
    assert_eq!(fixture.lost(1, Code::VerificationFailed), ask(&[("a", Code::VerificationFailed)]));
    fixture.at(1, SeatEvent::Progress);
    fixture.at(1, SeatEvent::Resolved(&nodes(&["b"])));
    assert_eq!(fixture.lost(2, Code::Draining), ask_without(&["a"], &[("b", Code::Draining)]));
    assert_eq!(out(&fixture.at(2, SeatEvent::Refused(&fault(Code::Unavailable)))), ["a"]);
    assert_eq!(fixture.at(3, SeatEvent::Resolved(&nodes(&["a", "b"]))), Action::Open(1));
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a"])));
    fixture.lost(0, Code::VerificationFailed);
    let verdict = fixture.at(0, SeatEvent::Refused(&fault(Code::Unavailable)));
    assert_eq!(verdict, Action::Fail(fault(Code::VerificationFailed)), "at once, and with the original reason");
}

#[test]
fn a_lone_nodes_ticket_is_renewed_but_not_for_ever() {
    let mut fixture = Fixture::new();
    for round in 0..3 {
        fixture.at(round, SeatEvent::Resolved(&nodes(&["a"])));
        assert_eq!(out(&fixture.lost(round, Code::TicketExpired)).is_empty(), round < 2, "round {round}");
    }
}

#[test]
fn refusals_of_the_master() {
    for (code, again) in [
        (Code::NotFound, false),
        (Code::Denied, false),
        (Code::BadRequest, false),
        (Code::NoCapacity, false),
        (Code::BudgetExceeded, false),
        (Code::Unequipped, false),
        (Code::Unavailable, true),
        (Code::Network, true),
        (Code::Timeout, true),
    ] {
        let mut fixture = Fixture::new();
        fixture.at(0, SeatEvent::Start);
        let action = fixture.at(0, SeatEvent::Refused(&fault(code)));
        assert_eq!(matches!(action, Action::Resolve { .. }), again, "{code:?}");
        assert_eq!(fixture.at(30, SeatEvent::Refused(&fault(code))), Action::Fail(fault(code)), "{code:?}");
    }
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Start);
    let wait = Duration::from_secs(9);
    let Action::Resolve { after, .. } = fixture.at(0, SeatEvent::Refused(&fault(Code::NoCapacity).after(wait))) else {
        panic!("gave up")
    };
    assert_eq!(after, wait, "the master's time is kept");
    let late = fixture.at(22, SeatEvent::Refused(&fault(Code::NoCapacity).after(wait)));
    assert_eq!(late, Action::Fail(fault(Code::NoCapacity).after(wait)), "no wait past the timeout");
    assert!(matches!(fixture.at(0, SeatEvent::Resolved(&[])), Action::Resolve { .. }));
}

#[test]
fn a_silence_as_long_as_the_timeout_still_leaves_other_nodes_a_chance() {
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Start);
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a"])));
    assert_eq!(fixture.lost(30, Code::Timeout), ask(&[("a", Code::Timeout)]));
    let mut other = Fixture::new();
    other.at(0, SeatEvent::Resolved(&nodes(&["a"])));
    other.lost(30, Code::Timeout);
    assert_eq!(other.at(30, SeatEvent::Resolved(&nodes(&["b"]))), Action::Open(0));
    assert_eq!(other.at(31, SeatEvent::Progress), Action::Continue);
    // No other node holds it: the verdict names the silent node.
    let refused = fixture.at(30, SeatEvent::Refused(&fault(Code::Unavailable)));
    assert_eq!(refused, Action::Fail(fault(Code::Timeout)));
    assert_eq!(fixture.lost(60, Code::Timeout), Action::Fail(fault(Code::Timeout)));
}

#[test]
fn an_unreachable_master_clears_no_suspect() {
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Start);
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a"])));
    fixture.lost(1, Code::Network);
    let Action::Resolve { failed, .. } = fixture.at(2, SeatEvent::Refused(&fault(Code::Network))) else {
        panic!("gave up")
    };
    assert_eq!(failed, [Failed::new(node("a"), Code::Network)], "the master has not received it");
}

#[test]
fn no_exclusion_lasts() {
    let patient = || Fixture { policy: FailoverPolicy::new(Duration::from_secs(3600)), ..Fixture::new() };
    let mut fixture = patient();
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a"])));
    assert_eq!(out(&fixture.lost(0, Code::NoCapacity)), ["a"]);
    fixture.at(20, SeatEvent::Resolved(&nodes(&["b"])));
    // Reported once, but still a suspect.
    assert_eq!(fixture.lost(20, Code::Draining), ask_without(&["a"], &[("b", Code::Draining)]));
    fixture.at(31, SeatEvent::Resolved(&nodes(&["c"])));
    assert_eq!(fixture.lost(31, Code::Network), ask_without(&["b"], &[("c", Code::Network)]));
    // Progress clears suspects, yet the master learns of a failure that an alternate made good.
    let mut fixture = patient();
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a", "b"])));
    fixture.lost(0, Code::Timeout);
    fixture.at(1, SeatEvent::Progress);
    assert_eq!(fixture.lost(2, Code::Network), ask(&[("a", Code::Timeout), ("b", Code::Network)]));
    let mut fixture = patient();
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a", "b"])));
    fixture.lost(0, Code::Timeout);
    fixture.at(1, SeatEvent::Progress);
    assert_eq!(fixture.lost(40, Code::Network), ask(&[("b", Code::Network)]), "but not an old failure");
}

#[test]
fn a_request_holds_a_bounded_number_of_failures() {
    let names: Vec<String> = (0..40).map(|at| format!("n{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Resolved(&nodes(&names)));
    for seat in 1..40 {
        assert_eq!(fixture.lost(0, Code::NoCapacity), Action::Open(seat));
    }
    let action = fixture.lost(0, Code::NoCapacity);
    assert_eq!(out(&action).len(), 40, "no node is forgotten");
    let Action::Resolve { failed, .. } = action else { panic!("gave up") };
    assert_eq!((failed.len(), failed.last().map(|one| one.node.as_str())), (MAX_FAILED, Some("n39")), "the latest");
}

#[test]
fn alternates_are_tried_while_their_tickets_last() {
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a", "b"])));
    fixture.at(LIFETIME_SECS, SeatEvent::Progress);
    assert_eq!(fixture.lost(LIFETIME_SECS, Code::Network), ask(&[("a", Code::Network)]));
}

#[test]
fn a_move_is_no_failure() {
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a", "b"])));
    fixture.at(0, SeatEvent::Progress);
    assert_eq!(fixture.at(1, SeatEvent::Moved(&node("c"))), Action::Open(0), "in the place of a");
    fixture.at(1, SeatEvent::Progress);
    // The alternates are those of before, and a is no suspect.
    assert_eq!(fixture.lost(2, Code::Network), Action::Open(1));
    assert_eq!(fixture.lost(2, Code::Network), ask(&[("c", Code::Network), ("b", Code::Network)]));
}

#[test]
fn a_seat_that_a_session_was_moved_to_fails() {
    // Codes that otherwise end a session do not: the seat is not from the master's answer.
    for code in [Code::NoCapacity, Code::Network, Code::TicketInvalid, Code::Denied, Code::BadRange] {
        let mut fixture = Fixture::new();
        fixture.at(0, SeatEvent::Resolved(&nodes(&["a", "b"])));
        fixture.at(0, SeatEvent::Moved(&node("c")));
        assert_eq!(fixture.lost(0, code), Action::Open(1), "{code:?}");
        let mut fixture = Fixture::new();
        fixture.at(0, SeatEvent::Resolved(&nodes(&["a"])));
        fixture.at(0, SeatEvent::Moved(&node("c")));
        assert_eq!(fixture.lost(0, code), ask(&[("c", code)]), "{code:?}: a may be chosen again");
    }
    // A node that sent wrong bytes is not tried at all.
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a", "b"])));
    fixture.lost(0, Code::VerificationFailed);
    let told = [("a", Code::VerificationFailed), ("b", Code::Unavailable)];
    assert_eq!(fixture.at(0, SeatEvent::Moved(&node("a"))), ask(&told));
}

#[test]
fn moves_without_progress_end() {
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a", "z"])));
    let there_and_back = ["b", "a"].into_iter().cycle();
    for to in there_and_back.clone().take(MOVES as usize) {
        assert_eq!(fixture.at(0, SeatEvent::Moved(&node(to))), Action::Open(0));
    }
    fixture.at(0, SeatEvent::Progress);
    for to in there_and_back.clone().take(MOVES as usize) {
        assert_eq!(fixture.at(0, SeatEvent::Moved(&node(to))), Action::Open(0), "progress allows them anew");
    }
    assert_eq!(fixture.at(0, SeatEvent::Moved(&node("b"))), Action::Open(1), "one too many is a failure of a");
    assert_eq!(fixture.at(1, SeatEvent::Moved(&node("a"))), ask(&[("a", Code::Unavailable), ("z", Code::Unavailable)]));
    // Without another node, the timeout ends it.
    fixture.at(1, SeatEvent::Refused(&fault(Code::Unavailable)));
    fixture.at(29, SeatEvent::Resolved(&nodes(&["a"])));
    fixture.at(30, SeatEvent::Moved(&node("b")));
    let Action::Fail(reason) = fixture.at(30, SeatEvent::Refused(&fault(Code::Unavailable))) else { panic!("goes on") };
    assert!(reason.code == Code::Unavailable && reason.message.contains("moved to node b"), "{reason}");
}

#[test]
fn a_node_that_answers_late_or_again_keeps_the_session() {
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a", "b", "c"])));
    assert_eq!(fixture.lost(1, Code::Timeout), Action::Open(1));
    assert_eq!(fixture.at(1, SeatEvent::Seated(&node("a"))), Action::Continue, "it was only late");
    fixture.at(2, SeatEvent::Progress);
    assert_eq!(fixture.lost(3, Code::Network), Action::Open(1), "b was not tried");
    // A node that no answer named becomes the last seat, and its failure is reported.
    fixture.at(3, SeatEvent::Seated(&node("z")));
    fixture.at(4, SeatEvent::Progress);
    assert_eq!(fixture.lost(5, Code::Network), ask(&[("a", Code::Network), ("z", Code::Network)]));
}

#[test]
fn an_absent_node_is_waited_for_unless_it_sent_wrong_bytes() {
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Start);
    fixture.at(0, SeatEvent::Resolved(&nodes(&["honest", "forger"])));
    assert_eq!(fixture.lost(1, Code::Draining), Action::Open(1));
    assert!(matches!(fixture.lost(1, Code::VerificationFailed), Action::Resolve { .. }));
    for second in 1..10 {
        let action = fixture.at(second, SeatEvent::Refused(&fault(Code::Unavailable)));
        assert_eq!(out(&action), ["forger"], "at {second} s");
    }
    assert_eq!(fixture.at(10, SeatEvent::Resolved(&nodes(&["honest"]))), Action::Open(0));
    // Once it has sent wrong bytes too, no node is left.
    fixture.lost(11, Code::VerificationFailed);
    assert!(matches!(fixture.at(11, SeatEvent::Refused(&fault(Code::Unavailable))), Action::Fail(_)));
}

#[test]
fn an_old_seat_of_a_restarted_node_is_no_failure_of_the_node() {
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a", "b"])));
    fixture.at(20, SeatEvent::Progress);
    assert_eq!(fixture.lost(20, Code::Timeout), Action::Open(1));
    assert_eq!(fixture.lost(20, Code::TicketInvalid), ask(&[("a", Code::Timeout)]), "b may be chosen again");
    // A seat of a new answer is.
    fixture.at(20, SeatEvent::Resolved(&nodes(&["b", "c"])));
    fixture.lost(20, Code::TicketInvalid);
    assert_eq!(
        fixture.lost(20, Code::Network),
        ask_without(&["a"], &[("b", Code::TicketInvalid), ("c", Code::Network)])
    );
}

#[test]
fn excluded_nodes_are_asked_for_again_before_the_masters_retry_time() {
    let mut fixture = Fixture::new();
    fixture.at(0, SeatEvent::Resolved(&nodes(&["a"])));
    fixture.lost(1, Code::Unavailable);
    let no = fault(Code::Unavailable).after(Duration::from_secs(2));
    let Action::Resolve { after, .. } = fixture.at(1, SeatEvent::Refused(&no)) else { panic!("gives up") };
    assert!(after <= FIRST_WAIT, "{after:?}");
    let Action::Resolve { after, .. } = fixture.at(2, SeatEvent::Refused(&no)) else { panic!("gives up") };
    assert!(after >= Duration::from_secs(2), "{after:?}");
}
