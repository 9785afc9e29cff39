//! Criteria of a request, exclusions, and the fallbacks when no node fits.

use super::*;

#[test]
fn each_verdict() {
    let mut nodes = nodes(&[(0, 0); 4]);
    let excluded = [NodeId(0)];
    assert_eq!(nodes.verdict(&SeatCriteria { exclude: &excluded, ..need(1) }, 0), Verdict::Excluded);
    assert_eq!(nodes.verdict(&SeatCriteria { full: &excluded, ..need(1) }, 0), Verdict::Full);
    assert_eq!(nodes.verdict(&need(1), 0), Verdict::Fit);
    assert_eq!(nodes.verdict(&need(1001), 0), Verdict::Small);
    nodes.report(0, 1000, 0);
    assert_eq!(nodes.verdict(&need(1), 0), Verdict::Full);
    nodes.rank(&need(1), &[1]);
    assert_eq!(nodes.ranked.iter().find(|one| one.node.0 == 1).map(|one| one.verdict), Some(Verdict::Growing));
    // Fails twice within ten minutes.
    for _ in 0..2 {
        nodes.roster.handle_detach(nodes.now, nodes.attachments[2]);
        let old = nodes.roster.node(NodeId(2)).expect("known").hello.clone();
        let hello = Hello { boot: usher_proto::BootId(old.boot.0 + 100), ..old };
        let attachment = nodes.roster.handle_attach(nodes.now, hello).expect("attached").0;
        nodes.roster.current(attachment).expect("attached").catalog_known = true;
        nodes.attachments[2] = attachment;
    }
    assert_eq!(nodes.verdict(&need(1), 2), Verdict::Held);
    for (millis, verdict) in [(2500, Verdict::Unsure), (1000, Verdict::Suspect), (1500, Verdict::Down)] {
        nodes.now = nodes.now.after(Duration::from_millis(millis));
        assert_eq!(nodes.verdict(&need(1), 3), verdict);
    }
}

#[test]
fn any_number_may_be_excluded() {
    let mut nodes = nodes(&[(0, 0); 80]);
    let most: Vec<NodeId> = (0..64).map(NodeId).collect();
    let order = nodes.order(&SeatCriteria { exclude: &most, ..need(1) });
    assert!(order.len() == 16 && order.iter().all(|node| *node >= 64));
    let all: Vec<NodeId> = (0..10_000).map(NodeId).collect();
    let count = nodes.rank(&SeatCriteria { exclude: &all, ..need(1) }, &[]);
    assert_eq!(count.refuse(Bitrate(1)), NoChoice::Excluded(80));
}

#[test]
fn only_equipped_nodes_are_chosen() {
    let label = |label: &str| Requirements { labels: vec![label.to_owned()], ..Requirements::default() };
    let mut nodes = nodes(&[(0, 0)]);
    nodes.attach(1, |hello| {
        hello.equipment = Equipment { labels: vec!["ssd".into()], live_ingest: true, ..Equipment::default() };
    });
    nodes.report(1, 990, 0);
    for (needs, order) in [
        (Requirements::default(), vec![0, 1]),
        (label("ssd"), vec![1]),
        (Requirements { live_ingest: true, ..Requirements::default() }, vec![1]),
        (Requirements { protocol: Some("usher/1".into()), ..Requirements::default() }, vec![0, 1]),
        (label("tape"), vec![]),
    ] {
        assert_eq!(nodes.order(&SeatCriteria { needs: &needs, ..need(1) }), order, "{needs:?}");
    }
    let tape = label("tape");
    let none = nodes.rank(&SeatCriteria { needs: &tape, ..need(1) }, &[]).refuse(Bitrate(1));
    assert!(matches!(none, NoChoice::Unequipped(HolderCounts { unequipped: 2, .. })), "{none}");
    let ssd = label("ssd");
    let full = nodes.rank(&SeatCriteria { needs: &ssd, ..need(11) }, &[]).refuse(Bitrate(1));
    assert!(matches!(full, NoChoice::Full { count: HolderCounts { unequipped: 1, full: 1, .. }, .. }), "{full}");
}

#[test]
fn a_session_may_be_limited_below_the_capacity() {
    let mut nodes = nodes(&[]);
    nodes.attach(0, |hello| hello.equipment.max_session = Some(Bitrate(CAPACITY / 10)));
    nodes.report(0, 0, 0);
    assert_eq!([nodes.verdict(&need(100), 0), nodes.verdict(&need(101), 0)], [Verdict::Fit, Verdict::Small]);
    let rate = Bitrate(101_000_000);
    let refused = nodes.rank(&need(101), &[]).refuse(rate);
    assert_eq!(refused, NoChoice::TooFast { rate, largest: Bitrate(CAPACITY / 10) });
}

/// Of several reasons, a refusal names the one that the client can act on.
#[test]
fn a_refusal_names_the_most_useful_reason() {
    let rate = Bitrate(5);
    let count = HolderCounts { holders: 4, largest: 10, ..HolderCounts::default() };
    for (given, expected) in [
        (HolderCounts::default(), NoChoice::NotFound),
        (HolderCounts { excluded: 4, ..count }, NoChoice::Excluded(4)),
        (
            HolderCounts { excluded: 3, down: 1, ..count },
            NoChoice::Down(HolderCounts { excluded: 3, down: 1, ..count }),
        ),
        (HolderCounts { unsure: 1, full: 3, ..count }, NoChoice::Probing(HolderCounts { unsure: 1, full: 3, ..count })),
        (
            HolderCounts { full: 1, down: 3, ..count },
            NoChoice::Full { rate, count: HolderCounts { full: 1, down: 3, ..count } },
        ),
        (HolderCounts { growing: 4, ..count }, NoChoice::Full { rate, count: HolderCounts { growing: 4, ..count } }),
        (HolderCounts { small: 4, largest: 4, ..count }, NoChoice::TooFast { rate, largest: Bitrate(4) }),
        (HolderCounts { unequipped: 4, ..count }, NoChoice::Unequipped(HolderCounts { unequipped: 4, ..count })),
        (
            HolderCounts { unequipped: 3, held: 1, ..count },
            NoChoice::Down(HolderCounts { unequipped: 3, held: 1, ..count }),
        ),
    ] {
        assert_eq!(given.refuse(rate), expected);
    }
}

fn candidate(node: u32, verdict: Verdict, room: u64) -> Candidate {
    let available = Available { rate: 1000, ..Available::default() };
    let (level, margin) = (1000 - room, room as i64);
    Candidate { node: NodeId(node), verdict, available, level, margin, cost: 0, lot: 0 }
}

#[test]
fn the_best_suspect_node_is_the_fallback() {
    let criteria = SeatCriteria { rate: 100, ..need(0) };
    let held = candidate(0, Verdict::Held, 500);
    let suspect = candidate(1, Verdict::Suspect, 600);
    let (down, draining) = (candidate(2, Verdict::Down, 0), candidate(3, Verdict::Draining, 900));
    let (full, unsure) = (candidate(4, Verdict::Full, 50), candidate(5, Verdict::Unsure, 900));
    for (ranked, chosen) in [
        (vec![held, suspect, down, draining], Some(1)),
        (vec![down, held], Some(1)),
        (vec![candidate(0, Verdict::Held, 99)], None),
        (vec![candidate(0, Verdict::Held, 99), candidate(1, Verdict::Held, 100)], Some(1)),
        (vec![held, full], None),
        (vec![held, unsure], None),
        (vec![down, draining], None),
        (vec![], None),
    ] {
        assert_eq!(panic_choice(&criteria, &ranked), chosen, "{ranked:?}");
    }
}

#[test]
fn the_warm_up_reserve_is_the_last_resort() {
    let young = |node, room, cold| {
        let one = candidate(node, Verdict::Cold, room);
        Candidate { available: Available { warm_up: cold, ..one.available }, ..one }
    };
    let ranked = [candidate(0, Verdict::Full, 0), young(1, 10, 500), young(2, 40, 600)];
    assert_eq!(
        (reserve_choice(&ranked), reserve_choice(&ranked[..2]), reserve_choice(&ranked[..1])),
        (Some(2), Some(1), None)
    );
}

/// Background traffic takes 4 % for ten minutes, then a quarter.
#[test]
fn a_burst_of_other_traffic_admits_a_tenth_more_at_most() {
    let mut nodes = nodes(&[(800, 40)]);
    for _ in 0..600 {
        nodes.now = nodes.now.after(Duration::from_secs(1));
        nodes.report(0, 800, 40);
    }
    let mut chosen = Vec::new();
    for background in [150, 185, 195, 250, 270, 290] {
        nodes.report(0, 800, background);
        nodes.rank(&need(10), &[]);
        let Nodes { now, roster, ledger, rule, zones, common, ranked, .. } = &nodes;
        let view = ClusterView { now: now.instant, roster, ledger, common: *common, rule: *rule, zones, copying: &[] };
        let fits = ranked[0].level + need(10).rate <= ranked[0].available.rate * 11 / 10;
        chosen.push((background, ranked[0].verdict, fits, burst_choice(&view, &need(10), ranked).is_some()));
    }
    let (fit, cold, full) = (Verdict::Fit, Verdict::Cold, Verdict::Full);
    // A rate that fits into the capacity needs the variance reserve, not the burst rule.
    assert_eq!(chosen[..2], [(150, fit, true, false), (185, cold, true, false)]);
    assert_eq!(chosen[2..4], [(195, full, true, true), (250, full, true, true)]);
    assert_eq!(chosen[4..], [(270, full, false, false), (290, full, false, false)]);
    // A node filled by sessions is not a burst.
    nodes.report(0, 1000, 40);
    nodes.rank(&need(10), &[]);
    let Nodes { now, roster, ledger, rule, zones, common, ranked, .. } = &nodes;
    let view = ClusterView { now: now.instant, roster, ledger, common: *common, rule: *rule, zones, copying: &[] };
    assert_eq!(burst_choice(&view, &need(10), ranked), None);
}
