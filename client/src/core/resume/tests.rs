//! Tables: which failure leads where, and when patience ends.

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

/// A machine and its clock.
struct Bench {
    resume: Resume,
    now: Instant,
    rng: SmallRng,
}

impl Bench {
    fn new() -> Self {
        Self { resume: Resume::new(TIMEOUT), now: Instant::now(), rng: SmallRng::seed_from_u64(7) }
    }

    fn at(&mut self, seconds: u64, event: Event<'_>) -> Action {
        self.resume.handle(self.now + Duration::from_secs(seconds), event, &mut self.rng)
    }

    fn lost(&mut self, seconds: u64, code: Code) -> Action {
        self.at(seconds, Event::Lost(&fault(code)))
    }
}

/// The master is asked at once, and told of these seats.
fn ask(failed: &[(&str, Code)]) -> Action {
    ask_without(&[], failed)
}

fn ask_without(exclude: &[&str], failed: &[(&str, Code)]) -> Action {
    let failed = failed.iter().map(|(name, code)| Failed { node: node(name), code: *code }).collect();
    Action::Resolve { after: Duration::ZERO, exclude: nodes(exclude), failed }
}

/// The nodes that an action keeps the master from.
fn out(action: &Action) -> Vec<String> {
    let Action::Resolve { exclude, failed, .. } = action else { panic!("{action:?}") };
    exclude.iter().chain(failed.iter().map(|failed| &failed.node)).map(ToString::to_string).collect()
}

#[test]
fn every_code_has_its_cure() {
    for (code, expected) in [
        (Code::NotFound, Cure::NextSeat),
        (Code::NoCapacity, Cure::NextSeat),
        (Code::Unavailable, Cure::NextSeat),
        (Code::Draining, Cure::NextSeat),
        (Code::Unequipped, Cure::NextSeat),
        (Code::Network, Cure::NextSeat),
        (Code::Timeout, Cure::NextSeat),
        (Code::VerificationFailed, Cure::NextSeat),
        (Code::ContentChanged, Cure::NextSeat),
        (Code::Internal, Cure::NextSeat),
        (Code::Cancelled, Cure::NextSeat),
        (Code::TicketExpired, Cure::NewTicket),
        (Code::TicketReplayed, Cure::NewTicket),
        (Code::TicketInvalid, Cure::NewTicket),
        (Code::TicketMismatch, Cure::Fail),
        (Code::Denied, Cure::Fail),
        (Code::BadRequest, Cure::Fail),
        (Code::BadRange, Cure::Fail),
        (Code::Disk, Cure::NextSeat),
        (Code::Interrupted, Cure::NextSeat),
        (Code::Exists, Cure::NextSeat),
        (Code::Usage, Cure::NextSeat),
    ] {
        assert_eq!(cure(code), expected, "{code:?}");
        let mut bench = Bench::new();
        assert_eq!(bench.at(0, Event::Start), ask(&[]));
        assert_eq!(bench.at(0, Event::Resolved(&nodes(&["a", "b"]))), Action::Open(0));
        if expected == Cure::Fail {
            assert_eq!(bench.lost(1, code), Action::Fail(fault(code)));
            continue;
        }
        // The alternate at once, then the master at once, which is told what either did.
        assert_eq!(bench.lost(1, code), Action::Open(1), "{code:?}");
        assert_eq!(bench.lost(1, Code::Network), ask(&[("a", code), ("b", Code::Network)]), "{code:?}");
    }
}

#[test]
fn all_seats_then_the_master_without_them_then_a_wait() {
    let mut bench = Bench::new();
    bench.at(0, Event::Start);
    bench.at(0, Event::Resolved(&nodes(&["a", "b"])));
    assert_eq!(bench.lost(1, Code::Network), Action::Open(1));
    assert_eq!(bench.lost(2, Code::NoCapacity), ask(&[("a", Code::Network), ("b", Code::NoCapacity)]));
    let action = bench.at(2, Event::Refused(&fault(Code::NotFound)));
    assert!(out(&action).is_empty(), "they get another chance");
    // Without suspects the title is simply not there.
    assert_eq!(bench.at(3, Event::Refused(&fault(Code::NotFound))), Action::Fail(fault(Code::NoCapacity)));
}

#[test]
fn a_full_node_named_again_in_vain_makes_it_wait() {
    let mut bench = Bench::new();
    bench.at(0, Event::Start);
    bench.at(0, Event::Resolved(&nodes(&["a"])));
    let full = [("a", Code::NoCapacity)];
    assert_eq!(bench.lost(1, Code::NoCapacity), ask(&full));
    for second in 1..4 {
        assert_eq!(bench.at(second, Event::Resolved(&nodes(&["a"]))), Action::Open(0));
        let action = bench.lost(second, Code::NoCapacity);
        let Action::Resolve { after, .. } = &action else { panic!("{action:?}") };
        assert!(*after > Duration::ZERO, "{action:?}");
        assert_eq!(out(&action), ["a"]);
    }
    // With another seat there is no need to wait.
    assert_eq!(bench.at(4, Event::Resolved(&nodes(&["a", "b"]))), Action::Open(0));
    assert_eq!(bench.lost(4, Code::NoCapacity), Action::Open(1));
    assert_eq!(bench.lost(4, Code::NoCapacity), ask(&[("a", Code::NoCapacity), ("b", Code::NoCapacity)]));
    // Patience ends all the same.
    assert_eq!(bench.at(5, Event::Resolved(&nodes(&["b"]))), Action::Open(0));
    assert_eq!(bench.lost(31, Code::NoCapacity), Action::Fail(fault(Code::NoCapacity)));
}

#[test]
fn progress_forgives_and_starts_patience_anew() {
    let mut bench = Bench::new();
    bench.at(0, Event::Start);
    bench.at(0, Event::Resolved(&nodes(&["a"])));
    assert_eq!(bench.lost(29, Code::Network), ask(&[("a", Code::Network)]));
    bench.at(29, Event::Resolved(&nodes(&["b"])));
    assert_eq!(bench.at(29, Event::Progress), Action::Continue);
    assert_eq!(bench.lost(58, Code::Network), ask(&[("b", Code::Network)]));
    bench.at(58, Event::Resolved(&nodes(&["a"])));
    assert_eq!(bench.lost(59, Code::Timeout), Action::Fail(fault(Code::Timeout)));
    // A title that was there once is waited for.
    let mut bench = Bench::new();
    bench.at(0, Event::Resolved(&nodes(&["a"])));
    bench.at(0, Event::Progress);
    assert!(matches!(bench.at(1, Event::Refused(&fault(Code::NotFound))), Action::Resolve { .. }));
}

#[test]
fn who_sends_wrong_bytes_is_not_asked_again() {
    let mut bench = Bench::new();
    bench.at(0, Event::Start);
    bench.at(0, Event::Resolved(&nodes(&["a"])));
    assert_eq!(bench.lost(1, Code::VerificationFailed), ask(&[("a", Code::VerificationFailed)]));
    bench.at(1, Event::Progress);
    bench.at(1, Event::Resolved(&nodes(&["b"])));
    assert_eq!(bench.lost(2, Code::Draining), ask_without(&["a"], &[("b", Code::Draining)]));
    assert_eq!(out(&bench.at(2, Event::Refused(&fault(Code::Unavailable)))), ["a"]);
    assert_eq!(bench.at(3, Event::Resolved(&nodes(&["a", "b"]))), Action::Open(1));
    let mut bench = Bench::new();
    bench.at(0, Event::Resolved(&nodes(&["a"])));
    bench.lost(0, Code::VerificationFailed);
    let verdict = bench.at(0, Event::Refused(&fault(Code::Unavailable)));
    assert_eq!(verdict, Action::Fail(fault(Code::VerificationFailed)), "at once, and with the true reason");
}

#[test]
fn a_lone_nodes_ticket_is_renewed_but_not_for_ever() {
    let mut bench = Bench::new();
    for round in 0..3 {
        bench.at(round, Event::Resolved(&nodes(&["a"])));
        assert_eq!(out(&bench.lost(round, Code::TicketExpired)).is_empty(), round < 2, "round {round}");
    }
}

#[test]
fn a_masters_no() {
    for (code, again) in [
        (Code::NotFound, false),
        (Code::Denied, false),
        (Code::BadRequest, false),
        (Code::NoCapacity, false),
        (Code::Unequipped, false),
        (Code::Unavailable, true),
        (Code::Network, true),
        (Code::Timeout, true),
    ] {
        let mut bench = Bench::new();
        bench.at(0, Event::Start);
        let action = bench.at(0, Event::Refused(&fault(code)));
        assert_eq!(matches!(action, Action::Resolve { .. }), again, "{code:?}");
        assert_eq!(bench.at(30, Event::Refused(&fault(code))), Action::Fail(fault(code)), "{code:?}");
    }
    let mut bench = Bench::new();
    bench.at(0, Event::Start);
    let wait = Duration::from_secs(9);
    let Action::Resolve { after, .. } = bench.at(0, Event::Refused(&fault(Code::NoCapacity).after(wait))) else {
        panic!("gave up")
    };
    assert_eq!(after, wait, "the master's own word is kept");
    let late = bench.at(22, Event::Refused(&fault(Code::NoCapacity).after(wait)));
    assert_eq!(late, Action::Fail(fault(Code::NoCapacity).after(wait)), "no wait past the end of patience");
    assert!(matches!(bench.at(0, Event::Resolved(&[])), Action::Resolve { .. }));
}

#[test]
fn a_silence_as_long_as_patience_still_leaves_the_others_a_chance() {
    let mut bench = Bench::new();
    bench.at(0, Event::Start);
    bench.at(0, Event::Resolved(&nodes(&["a"])));
    assert_eq!(bench.lost(30, Code::Timeout), ask(&[("a", Code::Timeout)]));
    let mut other = Bench::new();
    other.at(0, Event::Resolved(&nodes(&["a"])));
    other.lost(30, Code::Timeout);
    assert_eq!(other.at(30, Event::Resolved(&nodes(&["b"]))), Action::Open(0));
    assert_eq!(other.at(31, Event::Progress), Action::Continue);
    // No one else has it: the verdict is about the node that was silent.
    let refused = bench.at(30, Event::Refused(&fault(Code::Unavailable)));
    assert_eq!(refused, Action::Fail(fault(Code::Timeout)));
    assert_eq!(bench.lost(60, Code::Timeout), Action::Fail(fault(Code::Timeout)));
}

#[test]
fn a_master_that_is_not_heard_clears_no_one() {
    let mut bench = Bench::new();
    bench.at(0, Event::Start);
    bench.at(0, Event::Resolved(&nodes(&["a"])));
    bench.lost(1, Code::Network);
    let Action::Resolve { failed, .. } = bench.at(2, Event::Refused(&fault(Code::Network))) else { panic!("gave up") };
    assert_eq!(failed, [Failed { node: node("a"), code: Code::Network }], "it has not been told");
}

#[test]
fn no_exclusion_lasts() {
    let patient = || Bench { resume: Resume::new(Duration::from_secs(3600)), ..Bench::new() };
    let mut bench = patient();
    bench.at(0, Event::Resolved(&nodes(&["a"])));
    assert_eq!(out(&bench.lost(0, Code::NoCapacity)), ["a"]);
    bench.at(20, Event::Resolved(&nodes(&["b"])));
    // Told once, but still a suspect.
    assert_eq!(bench.lost(20, Code::Draining), ask_without(&["a"], &[("b", Code::Draining)]));
    bench.at(31, Event::Resolved(&nodes(&["c"])));
    assert_eq!(bench.lost(31, Code::Network), ask_without(&["b"], &[("c", Code::Network)]));
    // Progress forgives, yet a failure that an alternate made good is news to the master.
    let mut bench = patient();
    bench.at(0, Event::Resolved(&nodes(&["a", "b"])));
    bench.lost(0, Code::Timeout);
    bench.at(1, Event::Progress);
    assert_eq!(bench.lost(2, Code::Network), ask(&[("a", Code::Timeout), ("b", Code::Network)]));
    let mut bench = patient();
    bench.at(0, Event::Resolved(&nodes(&["a", "b"])));
    bench.lost(0, Code::Timeout);
    bench.at(1, Event::Progress);
    assert_eq!(bench.lost(40, Code::Network), ask(&[("b", Code::Network)]), "but not old news");
}

#[test]
fn no_more_is_told_than_a_request_may_hold() {
    let names: Vec<String> = (0..40).map(|at| format!("n{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut bench = Bench::new();
    bench.at(0, Event::Resolved(&nodes(&names)));
    for seat in 1..40 {
        assert_eq!(bench.lost(0, Code::NoCapacity), Action::Open(seat));
    }
    let action = bench.lost(0, Code::NoCapacity);
    assert_eq!(out(&action).len(), 40, "no one is forgotten");
    let Action::Resolve { failed, .. } = action else { panic!("gave up") };
    assert_eq!((failed.len(), failed.last().map(|one| one.node.as_str())), (MAX_FAILED, Some("n39")), "the latest");
}

#[test]
fn alternates_are_tried_while_their_tickets_last() {
    let mut bench = Bench::new();
    bench.at(0, Event::Resolved(&nodes(&["a", "b"])));
    bench.at(LIFETIME_SECS, Event::Progress);
    assert_eq!(bench.lost(LIFETIME_SECS, Code::Network), ask(&[("a", Code::Network)]));
}

#[test]
fn a_move_is_no_failure() {
    let mut bench = Bench::new();
    bench.at(0, Event::Resolved(&nodes(&["a", "b"])));
    bench.at(0, Event::Progress);
    assert_eq!(bench.at(1, Event::Moved(&node("c"))), Action::Open(0), "in the place of a");
    bench.at(1, Event::Progress);
    // The alternates are those of before, and a is no suspect.
    assert_eq!(bench.lost(2, Code::Network), Action::Open(1));
    assert_eq!(bench.lost(2, Code::Network), ask(&[("c", Code::Network), ("b", Code::Network)]));
}

#[test]
fn a_seat_that_a_session_was_sent_to_in_vain() {
    // Even what would end a session elsewhere does not: it is not the master's answer.
    for code in [Code::NoCapacity, Code::Network, Code::TicketInvalid, Code::Denied, Code::BadRange] {
        let mut bench = Bench::new();
        bench.at(0, Event::Resolved(&nodes(&["a", "b"])));
        bench.at(0, Event::Moved(&node("c")));
        assert_eq!(bench.lost(0, code), Action::Open(1), "{code:?}");
        let mut bench = Bench::new();
        bench.at(0, Event::Resolved(&nodes(&["a"])));
        bench.at(0, Event::Moved(&node("c")));
        assert_eq!(bench.lost(0, code), ask(&[("c", code)]), "{code:?}: a may be chosen again");
    }
    // To one that sent wrong bytes it does not go at all.
    let mut bench = Bench::new();
    bench.at(0, Event::Resolved(&nodes(&["a", "b"])));
    bench.lost(0, Code::VerificationFailed);
    let told = [("a", Code::VerificationFailed), ("b", Code::Unavailable)];
    assert_eq!(bench.at(0, Event::Moved(&node("a"))), ask(&told));
}

#[test]
fn moves_without_progress_end() {
    let mut bench = Bench::new();
    bench.at(0, Event::Resolved(&nodes(&["a", "z"])));
    let there_and_back = ["b", "a"].into_iter().cycle();
    for to in there_and_back.clone().take(MOVES as usize) {
        assert_eq!(bench.at(0, Event::Moved(&node(to))), Action::Open(0));
    }
    bench.at(0, Event::Progress);
    for to in there_and_back.clone().take(MOVES as usize) {
        assert_eq!(bench.at(0, Event::Moved(&node(to))), Action::Open(0), "progress allows them anew");
    }
    assert_eq!(bench.at(0, Event::Moved(&node("b"))), Action::Open(1), "one too many is a failure of a");
    assert_eq!(bench.at(1, Event::Moved(&node("a"))), ask(&[("a", Code::Unavailable), ("z", Code::Unavailable)]));
    // With nobody else, patience ends it.
    bench.at(1, Event::Refused(&fault(Code::Unavailable)));
    bench.at(29, Event::Resolved(&nodes(&["a"])));
    bench.at(30, Event::Moved(&node("b")));
    let Action::Fail(reason) = bench.at(30, Event::Refused(&fault(Code::Unavailable))) else { panic!("goes on") };
    assert!(reason.code == Code::Unavailable && reason.message.contains("sent on to node b"), "{reason}");
}

#[test]
fn who_answers_late_or_again_has_the_session() {
    let mut bench = Bench::new();
    bench.at(0, Event::Resolved(&nodes(&["a", "b", "c"])));
    assert_eq!(bench.lost(1, Code::Timeout), Action::Open(1));
    assert_eq!(bench.at(1, Event::Seated(&node("a"))), Action::Continue, "it was only late");
    bench.at(2, Event::Progress);
    assert_eq!(bench.lost(3, Code::Network), Action::Open(1), "b was not tried");
    // One that no answer named: it is the last seat, and what it does is told of it.
    bench.at(3, Event::Seated(&node("z")));
    bench.at(4, Event::Progress);
    assert_eq!(bench.lost(5, Code::Network), ask(&[("a", Code::Network), ("z", Code::Network)]));
}

#[test]
fn an_honest_node_that_is_away_is_waited_for() {
    let mut bench = Bench::new();
    bench.at(0, Event::Start);
    bench.at(0, Event::Resolved(&nodes(&["honest", "liar"])));
    assert_eq!(bench.lost(1, Code::Draining), Action::Open(1));
    assert!(matches!(bench.lost(1, Code::VerificationFailed), Action::Resolve { .. }));
    for second in 1..10 {
        let action = bench.at(second, Event::Refused(&fault(Code::Unavailable)));
        assert_eq!(out(&action), ["liar"], "at {second} s");
    }
    assert_eq!(bench.at(10, Event::Resolved(&nodes(&["honest"]))), Action::Open(0));
    // Had it lied too, nobody would be left.
    bench.lost(11, Code::VerificationFailed);
    assert!(matches!(bench.at(11, Event::Refused(&fault(Code::Unavailable))), Action::Fail(_)));
}

#[test]
fn an_old_seat_of_a_node_that_was_started_again_is_no_failure_of_the_node() {
    let mut bench = Bench::new();
    bench.at(0, Event::Resolved(&nodes(&["a", "b"])));
    bench.at(20, Event::Progress);
    assert_eq!(bench.lost(20, Code::Timeout), Action::Open(1));
    assert_eq!(bench.lost(20, Code::TicketInvalid), ask(&[("a", Code::Timeout)]), "b may be chosen again");
    // That of a new answer is.
    bench.at(20, Event::Resolved(&nodes(&["b", "c"])));
    bench.lost(20, Code::TicketInvalid);
    assert_eq!(bench.lost(20, Code::Network), ask_without(&["a"], &[("b", Code::TicketInvalid), ("c", Code::Network)]));
}

#[test]
fn who_was_left_out_is_asked_for_again_before_the_master_thinks_it_worth_it() {
    let mut bench = Bench::new();
    bench.at(0, Event::Resolved(&nodes(&["a"])));
    bench.lost(1, Code::Unavailable);
    let no = fault(Code::Unavailable).after(Duration::from_secs(2));
    let Action::Resolve { after, .. } = bench.at(1, Event::Refused(&no)) else { panic!("gives up") };
    assert!(after <= FIRST_WAIT, "{after:?}");
    let Action::Resolve { after, .. } = bench.at(2, Event::Refused(&no)) else { panic!("gives up") };
    assert!(after >= Duration::from_secs(2), "{after:?}");
}
