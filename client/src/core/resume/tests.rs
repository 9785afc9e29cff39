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

fn ask(exclude: &[&str]) -> Action {
    Action::Resolve { after: Duration::ZERO, exclude: nodes(exclude) }
}

#[test]
fn every_code_has_its_cure() {
    for (code, expected) in [
        (Code::NotFound, Cure::NextSeat),
        (Code::NoCapacity, Cure::NextSeat),
        (Code::Unavailable, Cure::NextSeat),
        (Code::Draining, Cure::NextSeat),
        (Code::Network, Cure::NextSeat),
        (Code::Timeout, Cure::NextSeat),
        (Code::VerificationFailed, Cure::NextSeat),
        (Code::ContentChanged, Cure::NextSeat),
        (Code::Internal, Cure::NextSeat),
        (Code::Cancelled, Cure::NextSeat),
        (Code::TicketExpired, Cure::Resolve),
        (Code::TicketReplayed, Cure::Resolve),
        (Code::TicketInvalid, Cure::Resolve),
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
        match (expected, bench.lost(1, code)) {
            (Cure::NextSeat, action) => assert_eq!(action, Action::Open(1), "{code:?}"),
            (Cure::Resolve, Action::Resolve { exclude, .. }) => assert_eq!(exclude, [], "{code:?}"),
            (Cure::Fail, Action::Fail(reason)) => assert_eq!(reason.code, code),
            (_, other) => panic!("{code:?}: {other:?}"),
        }
    }
}

#[test]
fn all_seats_then_the_master_without_them_then_a_wait() {
    let mut bench = Bench::new();
    bench.at(0, Event::Start);
    bench.at(0, Event::Resolved(&nodes(&["a", "b"])));
    assert_eq!(bench.lost(1, Code::Network), Action::Open(1));
    assert_eq!(bench.lost(2, Code::Network), ask(&["a", "b"]));
    let Action::Resolve { exclude, .. } = bench.at(2, Event::Refused(&fault(Code::NotFound))) else {
        panic!("gave up")
    };
    assert_eq!(exclude, [], "they get another chance");
    // Without suspects the title is simply not there.
    assert_eq!(bench.at(3, Event::Refused(&fault(Code::NotFound))), Action::Fail(fault(Code::Network)));
}

#[test]
fn progress_forgives_and_starts_patience_anew() {
    let mut bench = Bench::new();
    bench.at(0, Event::Start);
    bench.at(0, Event::Resolved(&nodes(&["a"])));
    assert_eq!(bench.lost(29, Code::Network), ask(&["a"]));
    bench.at(29, Event::Resolved(&nodes(&["b"])));
    assert_eq!(bench.at(29, Event::Progress), Action::Continue);
    assert_eq!(bench.lost(58, Code::Network), ask(&["b"]));
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
    assert_eq!(bench.lost(1, Code::VerificationFailed), ask(&["a"]));
    bench.at(1, Event::Progress);
    bench.at(1, Event::Resolved(&nodes(&["b"])));
    assert_eq!(bench.lost(2, Code::Draining), ask(&["a", "b"]));
    let Action::Resolve { exclude, .. } = bench.at(2, Event::Refused(&fault(Code::Unavailable))) else { panic!() };
    assert_eq!(exclude, nodes(&["a"]));
    assert_eq!(bench.at(3, Event::Resolved(&nodes(&["a", "b"]))), Action::Open(1));
    let mut bench = Bench::new();
    bench.at(0, Event::Resolved(&nodes(&["a"])));
    bench.lost(0, Code::VerificationFailed);
    let verdict = bench.at(0, Event::Refused(&fault(Code::Unavailable)));
    assert_eq!(verdict, Action::Fail(fault(Code::VerificationFailed)), "at once, and with the true reason");
}

#[test]
fn tickets_are_renewed_but_not_for_ever() {
    let mut bench = Bench::new();
    for round in 0..3 {
        bench.at(round, Event::Resolved(&nodes(&["a"])));
        let Action::Resolve { exclude, .. } = bench.lost(round, Code::TicketExpired) else { panic!("gave up") };
        assert_eq!(exclude.is_empty(), round < 2, "round {round}");
    }
}

#[test]
fn a_masters_no() {
    for (code, again) in [
        (Code::NotFound, false),
        (Code::Denied, false),
        (Code::BadRequest, false),
        (Code::NoCapacity, false),
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
    assert_eq!(bench.lost(30, Code::Timeout), ask(&["a"]));
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
    let Action::Resolve { exclude, .. } = bench.at(2, Event::Refused(&fault(Code::Network))) else { panic!("gave up") };
    assert_eq!(exclude, nodes(&["a"]));
}
