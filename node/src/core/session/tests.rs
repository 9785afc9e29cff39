//! Which ranges a ticket opens, and which frames follow in which order.

use proptest::prelude::*;
use usher_proto::{SessionId, Title, ticket::Purpose, tree};

use super::*;

const ID: ContentId = ContentId([7; 32]);

fn ticket(start: u64, end: Option<u64>) -> Ticket {
    Ticket {
        until: None,
        feed: None,
        viewer: None,
        token: None,
        session: SessionId(1),
        title: Title::parse("a.mp4").expect("a title"),
        content: Some(ID),
        start,
        end,
        purpose: Purpose::Play,
        rate: 1,
        forget_at: 0,
        request_id: String::new(),
        burst: false,
    }
}

fn range(start: u64, end: u64) -> Option<ByteRange> {
    Some(ByteRange { start, end })
}

fn open(ticket: Ticket, wanted: Option<ByteRange>, size: u64) -> Result<Range<u64>, Code> {
    let facts = TitleFacts { size, content: Some(ID) };
    SessionPlan::new(ticket, wanted, false).handle_opened(facts).map_err(|fault| fault.code)
}

#[test]
fn a_range_lies_within_ticket_and_title() {
    let size = 10 * GROUP + 5;
    let (two, three) = (2 * GROUP, 3 * GROUP);
    let table = [
        (ticket(0, None), None, Ok(0..size)),
        (ticket(0, None), range(0, 0), Ok(0..size)),
        (ticket(0, None), range(two + 9, two + 10), Ok(two..three)),
        (ticket(0, None), range(size - 1, 0), Ok(10 * GROUP..size)),
        (ticket(0, Some(u64::MAX)), range(0, u64::MAX), Ok(0..size)),
        (ticket(two + 9, Some(three - 1)), None, Ok(two..three)),
        // By less than a group on either side.
        (ticket(two + 9, Some(three - 1)), range(two, three), Ok(two..three)),
        (ticket(two + 9, Some(three - 1)), range(two - 1, three), Err(Code::TicketMismatch)),
        (ticket(two + 9, Some(three - 1)), range(two, three + 1), Err(Code::TicketMismatch)),
        (ticket(two + 9, Some(three - 1)), range(two, 0), Err(Code::TicketMismatch)),
        (ticket(0, None), range(size, 0), Err(Code::BadRange)),
        (ticket(0, None), range(size + 5, size + 9), Err(Code::BadRange)),
        (ticket(0, None), range(9, 9), Err(Code::BadRange)),
        (ticket(0, None), range(9, 3), Err(Code::BadRange)),
        (ticket(0, None), range(u64::MAX, 0), Err(Code::BadRange)),
        (ticket(size, None), None, Err(Code::BadRange)),
        (ticket(5, Some(5)), None, Err(Code::BadRange)),
    ];
    for (ticket, wanted, result) in table {
        assert_eq!(open(ticket.clone(), wanted, size), result, "{:?} {wanted:?}", (ticket.start, ticket.end));
    }
}

#[test]
fn bytes_of_other_content_are_not_sent() {
    let other = ContentId([8; 32]);
    let mut session = SessionPlan::new(ticket(0, None), None, false);
    let fault = session.handle_opened(TitleFacts { size: 9, content: Some(other) }).expect_err("other bytes");
    assert_eq!((fault.code, session.poll_step(8)), (Code::ContentChanged, None));

    let mut late = SessionPlan::new(ticket(0, None), None, false);
    assert_eq!(late.handle_opened(TitleFacts { size: 9, content: None }), Ok(0..9));
    assert_eq!(late.handle_hashed(other).map_err(|fault| fault.code), Err(Code::ContentChanged));
    assert_eq!(late.handle_hashed(ID), Ok(()));
    assert!(late.handle_opened(TitleFacts { size: 9, content: None }).is_err(), "opened twice");
}

/// All steps, as a client would see them; hashes come when asked for.
fn steps(size: u64, content: Option<ContentId>, wanted: Option<ByteRange>) -> Vec<SendStep> {
    let mut session = SessionPlan::new(ticket(0, None), wanted, false);
    session.handle_opened(TitleFacts { size, content }).expect("a good range");
    let mut steps = Vec::new();
    while let Some(step) = session.poll_step(8) {
        if step == SendStep::AwaitHashes {
            session.handle_hashed(ID).expect("the ticket's content");
        }
        steps.push(step);
    }
    assert!(session.is_done());
    steps
}

#[test]
fn hashes_precede_their_groups() {
    use SendStep::{AwaitHashes, Finish, Groups, Hashes, Pages};
    assert_eq!(steps(9, Some(ID), None), [Groups(0..1), Finish(ID)]);
    assert_eq!(steps(9, None, None), [Groups(0..1), AwaitHashes, Finish(ID)]);
    assert_eq!(steps(GROUP + 1, Some(ID), None), [Hashes(0), Groups(0..2), Finish(ID)]);
    assert_eq!(steps(GROUP + 1, None, None), [Groups(0..2), AwaitHashes, Hashes(0), Finish(ID)]);
    let size = PAGE + 9 * GROUP + 1;
    let wanted = range(254 * GROUP, 0);
    assert_eq!(
        steps(size, Some(ID), wanted),
        [Pages, Hashes(0), Groups(254..256), Hashes(1), Groups(256..264), Groups(264..266), Finish(ID)]
    );
    assert_eq!(
        steps(size, None, wanted),
        [Groups(254..256), Groups(256..264), Groups(264..266), AwaitHashes, Pages, Hashes(0), Hashes(1), Finish(ID)]
    );
    // A range within the second page needs no values of the first.
    assert_eq!(steps(size, Some(ID), range(PAGE + 1, PAGE + 2)), [Pages, Hashes(1), Groups(256..257), Finish(ID)]);
    assert_eq!(steps(2 * PAGE, Some(ID), range(0, 1)), [Pages, Hashes(0), Groups(0..1), Finish(ID)]);
}

#[test]
fn further_ranges_follow_in_order_each_with_its_hashes() {
    use SendStep::{AwaitRange, Finish, Groups, Hashes, Pages};
    let ask = |start, end| ByteRange { start, end };
    let open = |size, more| {
        let mut session = SessionPlan::new(ticket(0, Some(2 * PAGE)), range(0, 1), more);
        session.handle_opened(TitleFacts { size, content: Some(ID) }).expect("a good range");
        session
    };
    let next = |session: &mut SessionPlan| session.poll_step(8).expect("a step");
    let mut session = open(3 * PAGE, true);
    session.handle_range(ask(PAGE - 1, PAGE + GROUP)).expect("good");
    session.handle_range(ask(0, GROUP)).expect("they may overlap");
    let first: Vec<SendStep> = (0..3).map(|_| next(&mut session)).collect();
    assert_eq!(first, [Pages, Hashes(0), Groups(0..1)]);
    let second: Vec<SendStep> = (0..4).map(|_| next(&mut session)).collect();
    assert_eq!(second, [Hashes(0), Groups(255..256), Hashes(1), Groups(256..257)]);
    assert_eq!((next(&mut session), next(&mut session)), (Hashes(0), Groups(0..1)));
    assert_eq!((next(&mut session), next(&mut session)), (AwaitRange, AwaitRange), "until there is one");
    session.handle_range(ask(9, 10)).expect("good");
    session.handle_last_range();
    assert_eq!((next(&mut session), next(&mut session)), (Hashes(0), Groups(0..1)));
    assert_eq!((next(&mut session), session.poll_step(8)), (Finish(ID), None));

    // An invalid request changes nothing.
    let mut session = open(3 * PAGE, true);
    let code = |asked: Result<(), Fault>| asked.map_err(|fault| fault.code);
    assert_eq!(code(session.handle_range(ask(2 * PAGE, 2 * PAGE + 1))), Err(Code::TicketMismatch));
    assert_eq!(code(session.handle_range(ask(5, 5))), Err(Code::BadRange));
    assert_eq!(code(session.handle_range(ask(3 * PAGE, 0))), Err(Code::BadRange));
    for _ in 0..MAX_WAITING {
        assert_eq!(code(session.handle_range(ask(0, 1))), Ok(()));
    }
    assert_eq!(code(session.handle_range(ask(0, 1))), Err(Code::BadRequest));
    assert_eq!(code(open(3 * PAGE, false).handle_range(ask(0, 1))), Err(Code::BadRequest));
    let mut late = SessionPlan::new(ticket(0, None), None, true);
    late.handle_opened(TitleFacts { size: PAGE, content: None }).expect("a good range");
    assert_eq!(code(late.handle_range(ask(0, 1))), Err(Code::BadRequest), "not hashed");

    let mut small = open(9, true);
    small.handle_range(ask(3, 4)).expect("good");
    small.handle_last_range();
    let steps: Vec<SendStep> = std::iter::from_fn(|| small.poll_step(8)).collect();
    assert_eq!(steps, [Groups(0..1), Groups(0..1), Finish(ID)]);
}

#[test]
fn a_moving_session_ends_at_the_announced_byte() {
    use SendStep::{AwaitRange, Groups, Hashes, Pages};
    let ask = |start, end| ByteRange { start, end };
    let size = 2 * PAGE;
    let open = |wanted, more, content| {
        let mut session = SessionPlan::new(ticket(0, None), wanted, more);
        session.handle_opened(TitleFacts { size, content }).expect("a good range");
        session
    };
    let rest = |session: &mut SessionPlan| std::iter::from_fn(|| session.poll_step(8)).collect::<Vec<_>>();
    let all = size / GROUP;

    // Over the edge of a page; unsent groups follow again.
    let mut session = open(range(240 * GROUP, 0), false, Some(ID));
    let first: Vec<SendStep> = (0..4).filter_map(|_| session.poll_step(8)).collect();
    assert_eq!(first, [Pages, Hashes(0), Groups(240..248), Groups(248..256)]);
    session.handle_unsent(&(248..256));
    assert_eq!(session.handle_move(12, all), Some(260 * GROUP));
    assert_eq!(rest(&mut session), [Groups(248..256), Hashes(1), Groups(256..260)]);
    assert!(session.is_done());

    // No further than the available groups; not at all without any.
    for (here, until, steps) in [(250, 250 * GROUP, vec![Groups(248..250)]), (248, 0, vec![]), (9, 0, vec![])] {
        let mut session = open(range(240 * GROUP, 0), false, Some(ID));
        let first: Vec<SendStep> = (0..3).filter_map(|_| session.poll_step(8)).collect();
        assert_eq!(first, [Pages, Hashes(0), Groups(240..248)]);
        assert_eq!(session.handle_move(12, here), Some(until), "{here}");
        assert_eq!(rest(&mut session), steps, "{here}");
    }

    // One that has little left stays; with more to come, it ends with its range.
    for (more, lead, until) in [(false, 3, None), (false, 2, Some(2 * GROUP)), (true, 3, Some(3 * GROUP))] {
        let mut session = open(range(0, 3 * GROUP), more, Some(ID));
        assert_eq!(session.handle_move(lead, all), until, "{more} {lead}");
        let ends_well = rest(&mut session).contains(&SendStep::Finish(ID));
        assert_eq!(ends_well, until.is_none());
    }

    // Waiting and later ranges are not served; between ranges nothing is sent.
    let mut session = open(range(0, GROUP), true, Some(ID));
    session.handle_range(ask(PAGE, PAGE + 1)).expect("good");
    assert_eq!(session.handle_move(9, all), Some(GROUP));
    session.handle_range(ask(5, 5)).expect("what it asks for now is for another node");
    assert_eq!(rest(&mut session), [Pages, Hashes(0), Groups(0..1)]);
    let mut session = open(range(0, GROUP), true, Some(ID));
    let first: Vec<SendStep> = (0..4).filter_map(|_| session.poll_step(8)).collect();
    assert_eq!(first, [Pages, Hashes(0), Groups(0..1), AwaitRange]);
    assert_eq!((session.handle_move(9, all), session.poll_step(8)), (Some(0), None));
    let mut session = open(range(0, GROUP), true, Some(ID));
    session.handle_last_range();
    assert_eq!(session.handle_move(9, all), None, "no more will be asked for");

    // Nothing that is not hashed is of use without its end.
    let mut session = open(None, false, None);
    assert_eq!(session.poll_step(8), Some(Groups(0..8)));
    assert_eq!((session.handle_move(9, all), session.poll_step(8)), (Some(0), None));
}

proptest! {
    #[test]
    fn a_session_moves_at_the_edge_of_a_group_and_never_before_sent_bytes(
        size in 1_u64..4 * PAGE,
        at in any::<prop::sample::Index>(),
        len in 1_u64..3 * PAGE,
        more in any::<bool>(),
        taken in 0_usize..40,
        back in any::<bool>(),
        lead in 1_u64..300,
        here in 0_u64..1200,
    ) {
        let start = at.index(size as usize) as u64;
        let mut session = SessionPlan::new(ticket(0, None), Some(ByteRange { start, end: start + len }), more);
        let range = session.handle_opened(TitleFacts { size, content: Some(ID) }).expect("a good range");
        let (mut next, mut known, mut over) = (range.start / GROUP, None, false);
        for _ in 0..taken {
            match session.poll_step(8) {
                Some(SendStep::Groups(groups)) if back => session.handle_unsent(&groups),
                Some(SendStep::Groups(groups)) => next = groups.end,
                Some(SendStep::Hashes(page)) => known = Some(page),
                Some(SendStep::Pages | SendStep::AwaitRange) => {}
                _ => over = true,
            }
        }
        let sent = (next * GROUP).min(size);
        let end = range.end;
        let left = end.div_ceil(GROUP) - next;
        match session.handle_move(lead, here) {
            None => prop_assert!(over || !more && left <= lead),
            Some(until) => {
                prop_assert!(!over && (more || left > lead));
                prop_assert!(until.is_multiple_of(GROUP) || until == end);
                prop_assert!(until == 0 || until > sent && until <= end && until <= sent + lead * GROUP);
                while let Some(step) = session.poll_step(8) {
                    match step {
                        SendStep::Groups(groups) => {
                            prop_assert_eq!(groups.start, next);
                            prop_assert!(size <= GROUP || known == Some(groups.start / PAGE_GROUPS));
                            next = groups.end;
                        }
                        SendStep::Hashes(page) => known = Some(page),
                        SendStep::Pages => {}
                        other => prop_assert!(false, "{:?} of a session that leaves", other),
                    }
                }
                prop_assert_eq!((next * GROUP).min(size), until.max(sent));
                prop_assert!(session.is_done());
            }
        }
    }

    #[test]
    fn every_group_comes_once_and_after_its_hashes(
        size in 1_u64..4 * PAGE,
        at in any::<prop::sample::Index>(),
        len in 1_u64..3 * PAGE,
        hashed in any::<bool>(),
    ) {
        let start = at.index(size as usize) as u64;
        let wanted = ByteRange { start, end: start + len };
        let steps = steps(size, hashed.then_some(ID), Some(wanted));
        let mut next = start / GROUP;
        let mut known = None;
        let mut bytes = 0;
        for step in &steps {
            match step {
                SendStep::Hashes(page) => known = Some(*page),
                SendStep::Groups(groups) => {
                    prop_assert_eq!(groups.start, next);
                    prop_assert!(groups.end - groups.start <= 8);
                    prop_assert_eq!(groups.start / PAGE_GROUPS, (groups.end - 1) / PAGE_GROUPS);
                    prop_assert!(!hashed || size <= GROUP || known == Some(groups.start / PAGE_GROUPS));
                    bytes += groups.clone().map(|group| tree::group_len(size, group)).sum::<u64>();
                    next = groups.end;
                }
                _ => {}
            }
        }
        let end = (start + len).min(size);
        prop_assert_eq!(next, end.div_ceil(GROUP));
        prop_assert_eq!(bytes, (next * GROUP).min(size) - start / GROUP * GROUP);
        prop_assert_eq!(steps.last(), Some(&SendStep::Finish(ID)));
    }
}
