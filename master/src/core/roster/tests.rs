//! Tables of attachments, reports and silence.

use usher_proto::{Bitrate, model::Equipment};

use super::{node::SUSPECT_HALVES, *};

fn hello(name: &str, boot: u128, attachment: u64) -> Hello {
    Hello {
        node: NodeName::parse(name).expect("a name"),
        boot: BootId(boot),
        version: "test".into(),
        zone: String::new(),
        capacity: Bitrate(1_000_000_000),
        presence: Presence {
            drain_left: std::time::Duration::ZERO,
            addresses: vec![([127, 0, 0, 1], 1).into()],
            certificates: vec![[0; 32]],
            draining: false,
        },
        attachment,
        equipment: Equipment::default(),
        replica_bytes: 0,
    }
}

fn start() -> Now {
    Now { instant: Instant::now(), unix_ms: 1_000_000 }
}

fn report(sequence: u64, uptime_ms: u64) -> Report {
    Report { sequence, uptime_ms, egress: Bitrate(8), elastic: Bitrate(3), ..Report::default() }
}

#[test]
fn attachments_are_fenced() {
    let now = start();
    let later = now.after(LEASE);
    // (when, boot, attachment, accepted): each row follows a first attachment (boot 1, attachment 5) at `now`.
    for (when, boot, attachment, taken) in [
        (now, 1, 6, true),
        (now, 1, 5, false),
        (now, 1, 4, false),
        (now, 2, 1, false),
        (later, 2, 1, true),
        (later, 1, 4, false),
    ] {
        let mut roster = Roster::default();
        let (first, fresh) = roster.handle_attach(now, hello("n", 1, 5)).expect("the first");
        assert!(fresh);
        let second = roster.handle_attach(when, hello("n", boot, attachment));
        assert_eq!(second.is_ok(), taken, "boot {boot} attachment {attachment}");
        assert_eq!(roster.is_current(first), !taken);
        if let Ok((attachment, fresh)) = second {
            assert_eq!((attachment.node, fresh), (first.node, boot != 1));
            assert_eq!(roster.handle_report(when, first, report(1, 1)), Err(Ignored::Superseded));
            assert!(!roster.handle_detach(when, first) && roster.attached(attachment.node));
        }
    }
    let mut roster = Roster::default();
    let (first, _) = roster.handle_attach(now, hello("n", 1, 1)).expect("the first");
    roster.handle_detach(now, first);
    assert!(roster.handle_attach(now, hello("n", 2, 1)).is_ok(), "a closed channel frees the name");
    let error = roster.handle_attach(now, hello("n", 3, 1)).expect_err("taken").to_string();
    assert!(error.contains(&BootId(2).to_string()) && error.contains(&BootId(3).to_string()), "{error}");
    assert!(error.contains("127.0.0.1:1"), "{error}");
}

#[test]
fn old_and_repeated_reports_renew_nothing() {
    let now = start();
    let mut roster = Roster::default();
    let (attachment, _) = roster.handle_attach(now, hello("n", 1, 1)).expect("attached");
    for (second, sequence, uptime, taken) in
        [(1, 5, 1000, true), (2, 5, 2000, false), (3, 4, 2000, false), (3, 6, 999, false), (4, 7, 1000, true)]
    {
        let at = now.after(Duration::from_secs(second));
        assert_eq!(roster.handle_report(at, attachment, report(sequence, uptime)).is_ok(), taken, "second {second}");
        let node = roster.node(attachment.node).expect("known");
        assert_eq!(node.measured(), 5);
        let renewed = node.lease_end() == at.instant + LEASE;
        assert_eq!(renewed, taken, "second {second}");
    }
    // A new process starts its sequence over, and keeps the history of its name.
    let at = now.after(LEASE * 2);
    let (attachment, fresh) = roster.handle_attach(at, hello("n", 2, 1)).expect("attached");
    assert!(fresh && roster.handle_report(at, attachment, report(1, 1)).is_ok());
    assert_eq!(roster.node(attachment.node).map(|node| node.history.samples().count()), Some(3));
}

#[test]
fn silence() {
    let now = start();
    let mut roster = Roster::default();
    let (attachment, _) = roster.handle_attach(now, hello("n", 1, 1)).expect("attached");
    let id = attachment.node;
    roster.current(attachment).expect("attached").catalog_known = true;
    let can = |roster: &Roster, at: Now| roster.node(id).is_some_and(|node| node.can_serve(at.instant));
    assert!(can(&roster, now));
    let well = now.after(REPORT_INTERVAL * SUSPECT_HALVES / 2 - Duration::from_millis(1));
    assert!(
        can(&roster, well) && !can(&roster, well.after(Duration::from_millis(1))),
        "suspect before its lease is over"
    );
    let almost = now.after(LEASE - Duration::from_millis(1));
    assert!(roster.handle_timeout(almost).is_empty());
    let out = now.after(LEASE);
    assert_eq!(roster.next_timeout(), Some(out.instant));
    assert!(!can(&roster, out), "the lease counts, not when it was noticed");
    assert_eq!(roster.handle_timeout(out), [(id, RosterChange::State(NodeState::Stale))]);
    assert!(roster.handle_timeout(out).is_empty() && roster.next_timeout().is_none());
    assert_eq!(
        roster.handle_presence(now.instant, attachment, hello("n", 1, 1).presence),
        None,
        "only a report ends staleness"
    );
    assert_eq!(roster.handle_report(out, attachment, report(1, 1)), Ok(Some(NodeState::Serving)));
    assert!(can(&roster, out));

    assert!(roster.handle_detach(out, attachment) && !can(&roster, out));
    let void = out.after(LEASE + GRACE);
    assert_eq!(roster.next_timeout(), Some(void.instant));
    assert!(roster.handle_timeout(void.after(Duration::ZERO)).contains(&(id, RosterChange::CopiesVoid)));
    assert!(roster.handle_timeout(void).is_empty());
    let end = out.after(RECORD);
    assert_eq!(roster.next_timeout(), Some(end.instant));
    assert_eq!(roster.handle_timeout(end), [(id, RosterChange::Forgotten)]);
    assert!(roster.node(id).is_none() && roster.next_timeout().is_none());
    let (again, _) = roster.handle_attach(end, hello("n", 1, 1)).expect("attached");
    assert_ne!(again.node, id);
}

#[test]
fn draining_and_unknown_load() {
    let now = start();
    let mut roster = Roster::default();
    let mut draining = hello("n", 1, 1);
    draining.presence.draining = true;
    let (attachment, _) = roster.handle_attach(now, draining.clone()).expect("attached");
    assert_eq!(roster.node(attachment.node).map(|node| node.state), Some(NodeState::Draining));
    assert_eq!(roster.handle_report(now, attachment, report(1, 1)), Ok(None));
    assert_eq!(roster.handle_presence(now.instant, attachment, hello("n", 1, 1).presence), Some(NodeState::Serving));
    assert_eq!(roster.handle_presence(now.instant, attachment, draining.presence), Some(NodeState::Draining));

    // A process that served another master before is not chosen until it has reported its load.
    let (attachment, _) = roster.handle_attach(now, hello("m", 1, 2)).expect("attached");
    let can = |roster: &Roster| roster.node(attachment.node).is_some_and(|node| node.can_serve(now.instant));
    assert!(!can(&roster));
    assert_eq!(roster.handle_report(now, attachment, report(1, 1)), Ok(None));
    assert!(!can(&roster), "nor until it has sent its catalog");
    roster.current(attachment).expect("attached").catalog_known = true;
    assert!(can(&roster));
}
