//! Pages of the catalog as values, and whole nodes against a master of this file's own.

mod master;
mod moves;

use std::fs;

use usher_proto::{
    Code, ContentId, NodeName, SessionId, Title,
    model::CatalogCopy,
    pb::v1::prepared::Result as Outcome,
    ticket::{ClusterSecret, Purpose},
};

use master::Master;

use super::{
    catalog::{BadFiles, PAGE, pages, whole},
    *,
};
use crate::{
    app::{self, Running},
    media::{
        Changes, CopyKey,
        fixtures::{mp4, put_old, rot},
    },
    settings::Config,
    test_node::{self, End, Viewer},
};

fn copies(count: usize) -> Vec<CatalogCopy> {
    let copy = |i| CatalogCopy {
        title: Title::parse(&format!("t{i}")).expect("a title"),
        volume: 0,
        content: None,
        size: 1,
        modified_ms: 0,
        bitrate: Bitrate(1),
        duration_ms: 0,
        media_type: "video/mp4".into(),
        streamable: true,
        origin: model::Origin::Operator,
    };
    (0..count).map(copy).collect()
}

/// The page behind a key, of copies in any order.
fn behind(copies: &[CatalogCopy], after: Option<&CopyKey>) -> Vec<CatalogCopy> {
    let at = |(title, volume): &CopyKey| copies.iter().position(|c| c.title == *title && c.volume == *volume);
    let start = after.and_then(at).map_or(0, |at| at + 1);
    copies[start..].iter().take(PAGE).cloned().collect()
}

#[test]
fn a_catalog_has_one_beginning_and_one_end() {
    for (count, lens) in [(0, vec![0]), (1, vec![1]), (PAGE, vec![PAGE, 0]), (2 * PAGE + 1, vec![PAGE, PAGE, 1])] {
        let copies = copies(count);
        let pages: Vec<_> = whole(BadFiles { rejected: 3, damaged: 2 }, |after| behind(&copies, after)).collect();
        assert_eq!(pages.iter().map(|page| page.copies.len()).collect::<Vec<_>>(), lens);
        for (i, page) in pages.iter().enumerate() {
            assert_eq!((page.restart, page.complete), (i == 0, i + 1 == pages.len()), "page {i} of {count}");
            assert_eq!((page.rejected_files, page.damaged_files), (3, 2));
        }
    }
}

#[test]
fn changes_are_complete_in_themselves() {
    let removals = copies(PAGE + 5).into_iter().map(|copy| (copy.title, copy.volume)).collect();
    let changes = Changes { copies: copies(2), removals, damaged_files: 1, ..Changes::default() };
    let pages: Vec<_> = pages(changes).collect();
    assert_eq!(pages.iter().map(|p| (p.copies.len(), p.removals.len())).collect::<Vec<_>>(), [(2, PAGE), (0, 5)]);
    assert!(pages.iter().all(|page| page.complete && !page.restart && page.damaged_files == 1));
}

#[tokio::test]
async fn a_copy_in_doubt_is_hashed_again_and_leaves_the_catalog_when_it_is_damaged() {
    let mut master = Master::start().await;
    let node = node(&master).await;
    node.library().hashed().await;
    let mut call = master.call().await;
    assert_eq!(call.catalog().await, ["a.mp4", "deep/b.mp4"]);
    let recheck = |title: &str, content: ContentId| {
        Order::Recheck(v1::Recheck { title: title.into(), content_id: content.0.to_vec() })
    };
    let content = |data: &[u8]| usher_proto::tree::single(data);
    rot(&master.dir.path().join("films/a.mp4"), 100_000);
    call.reply(recheck("../a.mp4", content(b"nothing"))).await;
    call.reply(recheck("deep/b.mp4", content(&mp4(2, 200)))).await;
    call.reply(recheck("a.mp4", content(&mp4(1, 200_000)))).await;
    call.until(|call| !call.titles.contains("a.mp4") && call.damaged == 1).await;
    assert_eq!(call.titles.iter().collect::<Vec<_>>(), ["deep/b.mp4"]);
    node.shutdown().await;
}

/// A node of two titles, one of them in a folder, attached to this master.
async fn node(master: &Master) -> Running {
    let films = master.dir.path().join("films");
    put_old(&films.join("a.mp4"), &mp4(1, 200_000));
    put_old(&films.join("deep/b.mp4"), &mp4(2, 200));
    app::start(config(master), master.identity(test_node::NODE)).await.expect("a node")
}

fn config(master: &Master) -> Config {
    let state = master.dir.path().join("state");
    let films = master.dir.path().join("films");
    fs::create_dir_all(&films).expect("a folder");
    let mut config = Config::new(vec![master.address.into()], vec![films], state);
    config.listen = vec![([127, 0, 0, 1], 0).into()];
    config.zone = "z".into();
    config
}

fn key(boot: BootId) -> Key {
    ClusterSecret::new([3; 32]).node_key(&NodeName::parse(test_node::NODE).expect("a name"), boot)
}

#[tokio::test]
async fn a_node_introduces_itself_and_tells_what_it_has() {
    let mut master = Master::start().await;
    let node = node(&master).await;
    let mut call = master.call().await;
    let hello = call.hello.clone();
    assert_eq!((hello.node.as_str(), hello.zone.as_str(), hello.attachment), (test_node::NODE, "z", 1));
    assert_eq!(hello.capacity, Bitrate(1_000_000_000));
    assert_eq!(hello.presence.addresses, [node.local_addr()]);
    let mut titles = call.catalog().await;
    titles.sort_unstable();
    assert_eq!(titles, ["a.mp4", "deep/b.mp4"]);
    node.attached().await;

    // A change follows by itself.
    let films = master.dir.path().join("films");
    put_old(&films.join("new.tmp"), &mp4(3, 300));
    fs::rename(films.join("new.tmp"), films.join("c.mp4")).expect("renamed");
    fs::remove_file(films.join("a.mp4")).expect("removed");
    call.until(|call| call.titles.contains("c.mp4") && !call.titles.contains("a.mp4")).await;
    node.shutdown().await;
}

#[tokio::test]
async fn sessions_are_prepared_opened_and_reported() {
    let mut master = Master::start().await;
    let node = node(&master).await;
    node.library().hashed().await;
    let mut call = master.call().await;
    node.attached().await;
    let key = key(call.hello.boot);
    let mut claims = test_node::claims("a.mp4", None);
    (claims.purpose, claims.rate, claims.end) = (Purpose::Fetch, 5_000_000, Some(70_000));
    let ticket = key.sign(&claims).expect("signs");

    // Prepared twice, the ticket is still good; its range is told in whole groups.
    for id in [7, 8] {
        let prepared = call.prepare(id, &ticket).await;
        let Some(Outcome::Setup(setup)) = prepared.result else { panic!("{prepared:?}") };
        assert_eq!((prepared.id, setup.title.as_str()), (id, "a.mp4"));
        assert_eq!(setup.range, Some(v1::ByteRange { start: 0, end: 131_072 }));
    }
    let refused = call.prepare(9, "nonsense").await;
    let Some(Outcome::Refusal(refusal)) = refused.result else { panic!("{refused:?}") };
    assert_eq!((refused.id, refusal.reason.as_str()), (9, "TICKET_INVALID"));

    let viewer = Viewer::dial(node.local_addr(), call.hello.presence.certificates.clone()).await;
    let got = viewer.play(&ticket, None).await.expect("plays");
    assert_eq!(got.data.len(), 131_072);
    let id = claims.jti.parse().expect("an id");
    call.until(|call| call.last.sent_bytes > 131_072 && call.last.sessions == 0).await;
    call.until(|call| call.told.iter().any(|told| told.ended.contains(&id))).await;
    let begun: Vec<_> = call.told.iter().flat_map(|told| told.begun.clone()).collect();
    let content = call.told.iter().flat_map(|told| &told.begun).find_map(|begun| begun.content);
    let (title, rate) = (Title::parse("a.mp4").expect("a title"), Bitrate(5_000_000));
    assert!(content.is_some(), "it was hashed");
    assert_eq!(begun, [model::Begun { session: id, title, content, rate, purpose: Purpose::Fetch }]);
    assert!(call.runs.is_empty() && call.told.last().is_some_and(|told| told.committed == Bitrate(0)));
    assert_eq!(call.last.background, Bitrate(0), "no interface is watched");
    node.shutdown().await;
}

#[tokio::test]
async fn who_attaches_is_told_who_runs() {
    let mut master = Master::start().await;
    put_old(&master.dir.path().join("films/a.mp4"), &mp4(1, 20_000_000));
    let node = app::start(config(&master), master.identity(test_node::NODE)).await.expect("a node");
    let call = master.call().await;
    node.attached().await;
    let (boot, pins) = (call.hello.boot, call.hello.presence.certificates.clone());
    let viewer = Viewer::dial(node.local_addr(), pins).await;
    let open = async |viewer: &Viewer| {
        let claims = test_node::claims("a.mp4", None);
        let mut stream = viewer.open(&key(boot).sign(&claims).expect("signs"), None).await;
        stream.read_exact(&mut [0]).await.expect("something");
        (claims.jti.parse::<SessionId>().expect("an id"), stream)
    };
    // It waits for its reader, begins under the first attachment, and runs on under the second.
    let (first, mut stream) = open(&viewer).await;
    drop(call);
    let mut again = master.call().await;
    again.until(|call| !call.told.is_empty()).await;
    let list = &again.told[0];
    assert_eq!((list.restart, list.complete, list.committed), (true, true, Bitrate(1_000_000)));
    assert_eq!(list.begun.iter().map(|begun| begun.session).collect::<Vec<_>>(), [first]);
    again.probe(5).await;
    // Then each change.
    let (second, _stream) = open(&viewer).await;
    again.until(|call| call.runs.contains(&second)).await;
    assert_eq!(again.told.last().map(|told| told.committed), Some(Bitrate(2_000_000)));
    stream.stop(0_u32.into()).expect("stopped");
    again.until(|call| !call.runs.contains(&first)).await;
    // Whom nobody reads is not the node's fault: what is demanded is delivered.
    again.until(|call| call.last.committed == Bitrate(1_000_000)).await;
    assert_eq!(again.last.demand, again.last.delivered);
    node.shutdown().await;
}

#[tokio::test]
async fn copies_on_two_disks_share_the_sessions() {
    let mut master = Master::start().await;
    let mut config = config(&master);
    config.media.push(master.dir.path().join("more"));
    for folder in &config.media {
        put_old(&folder.join("a.mp4"), &mp4(1, 20_000_000));
    }
    let node = app::start(config, master.identity(test_node::NODE)).await.expect("a node");
    node.library().scanned().await;
    node.library().hashed().await;
    let call = master.call().await;
    node.attached().await;
    let viewer = Viewer::dial(node.local_addr(), call.hello.presence.certificates.clone()).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let ticket = key(call.hello.boot).sign(&test_node::claims("a.mp4", None)).expect("signs");
        let mut stream = viewer.open(&ticket, None).await;
        stream.read_exact(&mut [0]).await.expect("something");
        streams.push(stream);
    }
    let loads = node.services.context.meter().volumes().clone();
    assert_eq!((loads.of(0), loads.of(1)), (2_000_000, 2_000_000));
    node.shutdown().await;
}

#[tokio::test]
async fn a_full_node_refuses_and_says_so() {
    let mut master = Master::start().await;
    put_old(&master.dir.path().join("films/a.mp4"), &mp4(1, 20_000_000));
    let mut config = config(&master);
    config.capacity = Bitrate(10_000_000);
    config.max_session_rate = Some(Bitrate(8_000_000));
    config.max_sessions = 2;
    config.labels = vec!["isp=north".into()];
    config.interface = Some("lo".into());
    let node = app::start(config, master.identity(test_node::NODE)).await.expect("a node");
    let mut call = master.call().await;
    let equipment = &call.hello.equipment;
    assert_eq!((&equipment.labels, equipment.max_session), (&vec!["isp=north".into()], Some(Bitrate(8_000_000))));
    assert_eq!(equipment.protocols, ["usher/1"]);
    call.until(|call| call.complete && !call.told.is_empty()).await;
    let key = key(call.hello.boot);
    let ticket = |rate, purpose| {
        let claims = usher_proto::ticket::Claims { rate, purpose, ..test_node::claims("a.mp4", None) };
        (claims.jti.parse::<SessionId>().expect("an id"), key.sign(&claims).expect("signs"))
    };
    let viewer = Viewer::dial(node.local_addr(), call.hello.presence.certificates.clone()).await;
    let (large, too_large) = ticket(8_000_001, Purpose::Play);
    assert_eq!(viewer.play(&too_large, None).await, Err(End::Refused(Code::Unequipped)));
    let mut stream = viewer.open(&ticket(8_000_000, Purpose::Play).1, None).await;
    stream.read_exact(&mut [0]).await.expect("something");
    let (more, too_much) = ticket(2_000_001, Purpose::Fetch);
    assert_eq!(viewer.play(&too_much, None).await, Err(End::Refused(Code::NoCapacity)));
    // A session without a rate takes what is left, but it is the last of two.
    let mut other = viewer.open(&ticket(0, Purpose::Fetch).1, None).await;
    other.read_exact(&mut [0]).await.expect("something");
    let (third, one_more) = ticket(0, Purpose::Fetch);
    let refused = call.prepare(1, &one_more).await;
    let Some(Outcome::Refusal(refusal)) = refused.result else { panic!("{refused:?}") };
    assert_eq!((refusal.reason.as_str(), refusal.retry_after_ms), ("NO_CAPACITY", 1000));
    assert!(refusal.message.contains("2 sessions"), "{}", refusal.message);
    assert_eq!(viewer.play(&one_more, None).await, Err(End::Refused(Code::NoCapacity)));

    call.until(|call| call.turned().len() == 3).await;
    let turned = call.turned();
    let reasons: Vec<_> = turned.iter().map(|turned| (turned.session, turned.code)).collect();
    assert_eq!(reasons, [(large, Code::Unequipped), (more, Code::NoCapacity), (third, Code::NoCapacity)]);
    assert_eq!((turned[0].limit, turned[1].limit), (None, Some(Bitrate(10_000_000))));
    assert!(turned[2].limit.is_some_and(|limit| limit >= Bitrate(8_000_000)), "what is taken");
    node.shutdown().await;
}

#[tokio::test]
async fn a_lost_master_is_found_again_and_sessions_do_not_notice() {
    let mut master = Master::start().await;
    let node = node(&master).await;
    let call = master.call().await;
    node.attached().await;
    let (boot, pins) = (call.hello.boot, call.hello.presence.certificates.clone());
    // The master closes the channel; the node comes back with its whole catalog, as the same start.
    drop(call);
    let mut again = master.call().await;
    assert_eq!((again.hello.boot, again.hello.attachment), (boot, 2));
    assert_eq!(again.catalog().await.len(), 2);
    // Without any master, tickets are still honoured.
    master.stop().await;
    let viewer = Viewer::dial(node.local_addr(), pins).await;
    let ticket = key(boot).sign(&test_node::claims("a.mp4", None)).expect("signs");
    let played = viewer.play(&ticket, None).await.map(|got| got.data.len());
    assert!(played.as_ref().is_ok_and(|len| *len > 200_000), "{played:?}");
    node.shutdown().await;
}

#[tokio::test]
async fn a_master_that_comes_late_is_found_and_a_list_is_tried_in_turn() {
    let mut master = Master::start().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = nobody.local_addr().expect("an address");
    drop(nobody);
    let mut config = config(&master);
    config.masters.insert(0, address.into());
    let node = app::start(config, master.identity(test_node::NODE)).await.expect("starts without a master");
    let mut call = master.call().await;
    assert_eq!(call.hello.attachment, 2, "the first of the list was tried before");
    assert!(call.catalog().await.is_empty());
    node.attached().await;
    node.shutdown().await;
}

#[tokio::test]
async fn presence_follows_drain_and_a_drained_node_ends() {
    let mut master = Master::start().await;
    let films = master.dir.path().join("films");
    put_old(&films.join("a.mp4"), &mp4(1, 2_000_000));
    let (ask, requests) = mpsc::channel(2);
    let serving = tokio::spawn(app::serve(config(&master), master.identity(test_node::NODE), requests));
    let mut call = master.call().await;
    call.until(|call| call.titles.contains("a.mp4")).await;
    let address = call.hello.presence.addresses[0];
    let viewer = Viewer::dial(address, call.hello.presence.certificates.clone()).await;
    // A slow reader holds the node up.
    let mut fetch = test_node::claims("a.mp4", None);
    fetch.rid.clear();
    let mut stream = viewer.open(&key(call.hello.boot).sign(&fetch).expect("signs"), None).await;
    stream.read_exact(&mut [0]).await.expect("something");
    ask.send(()).await.expect("asked");
    call.until(|call| call.draining).await;
    assert!(!serving.is_finished());
    // A second request does not wait for it.
    ask.send(()).await.expect("asked");
    serving.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_node_drains_at_its_masters_word_and_the_next_master_hears_of_it() {
    let mut master = Master::start().await;
    let node = node(&master).await;
    let mut call = master.call().await;
    call.until(|call| call.complete).await;
    assert!(!call.hello.presence.draining);
    let hour = Duration::from_secs(3600);
    call.reply(Order::Drain(v1::Drain { deadline_ms: 3_600_000 })).await;
    call.until(|call| call.draining).await;
    assert!(!call.drain_left.is_zero() && call.drain_left <= hour, "{:?}", call.drain_left);
    // The drain is the node's own: a master that knows nothing learns of it at once.
    drop(call);
    let mut again = master.call().await;
    let presence = &again.hello.presence;
    assert!(presence.draining && !presence.drain_left.is_zero() && presence.drain_left <= hour);
    again.reply(Order::Drain(v1::Drain { deadline_ms: 0 })).await;
    again.until(|call| call.draining && call.drain_left.is_zero()).await;
    again.reply(Order::Undrain(v1::Undrain {})).await;
    again.until(|call| !call.draining).await;
    let viewer = Viewer::dial(node.local_addr(), again.hello.presence.certificates.clone()).await;
    let ticket = key(again.hello.boot).sign(&test_node::claims("a.mp4", None)).expect("signs");
    assert!(viewer.play(&ticket, None).await.is_ok());
    node.shutdown().await;
}

#[tokio::test]
async fn a_wrong_certificate_is_refused_at_once() {
    let master = Master::start().await;
    let wrong = master.identity_of(usher_certs::Role::Admin, "boss");
    let error = app::start(config(&master), wrong).await.err().expect("refused").to_string();
    assert!(error.contains("is for the role admin"), "{error}");

    let first = app::start(config(&master), master.identity(test_node::NODE)).await.expect("a node");
    let taken = Config { listen: vec![first.local_addr()], ..config(&master) };
    let taken = Config { state: Some(master.dir.path().join("other")), ..taken };
    let error = app::start(taken, master.identity(test_node::NODE)).await.err().expect("in use").to_string();
    assert!(error.contains("in use") && error.contains(&first.local_addr().to_string()), "{error}");
    first.shutdown().await;
}

/// A seat of this node, with a ticket for a copy.
fn seat(call: &master::Call, title: &str) -> v1::Seat {
    let presence = call.hello.presence.clone();
    let mut claims = test_node::claims(title, None);
    (claims.purpose, claims.rate) = (Purpose::Fetch, 0);
    v1::Seat {
        lifetime_s: 0,
        node: test_node::NODE.into(),
        addresses: presence.addresses.iter().map(ToString::to_string).collect(),
        certificate_sha256: presence.certificates.iter().map(|pin| ContentId(*pin).to_string()).collect(),
        ticket: key(call.hello.boot).sign(&claims).expect("signs"),
        zone: String::new(),
    }
}

#[tokio::test]
async fn copies_are_ordered_told_of_and_evicted() {
    // Both nodes have the name that the tests' tickets are for; each has its own master.
    let (mut theirs, mut ours) = (Master::start().await, Master::start().await);
    let source = node(&theirs).await;
    source.library().hashed().await;
    let from = theirs.call().await;
    let mut config = config(&ours);
    config.replica_quota = Some(50_000_000);
    let target = app::start(config, ours.identity(test_node::NODE)).await.expect("a node");
    let mut call = ours.call().await;
    assert_eq!(call.hello.replica_bytes, 50_000_000);
    call.until(|call| call.last.replica_free == 50_000_000).await;

    let title = Title::parse("a.mp4").expect("a title");
    let copy = source.library().find(&title, None).expect("a copy");
    let content_id = copy.content.expect("hashed").0.to_vec();
    let order = |id, source| {
        let content_id = content_id.clone();
        let title = title.to_string();
        v1::Replicate { id, title, content_id, size: copy.size, source, rate_bps: 0, request_id: "r".into() }
    };
    call.reply(Order::Replicate(order(1, None))).await;
    call.until(|call| call.replicated.len() == 1).await;
    let refused = call.replicated.pop().expect("just came");
    assert_eq!((refused.id, refused.refusal.map(|no| no.reason)), (1, Some("BAD_REQUEST".to_owned())));

    call.reply(Order::Replicate(order(2, Some(seat(&from, "a.mp4"))))).await;
    call.until(|call| !call.replicated.is_empty() && call.titles.contains("a.mp4")).await;
    assert_eq!(call.replicated, [v1::Replicated { id: 2, refusal: None }]);
    call.until(|call| call.last.replica_free < 50_000_000 - copy.size).await;
    call.reply(Order::Evict(v1::Evict { title: title.to_string(), content_id: content_id.clone() })).await;
    call.until(|call| call.titles.is_empty() && call.last.replica_free == 50_000_000).await;
    target.shutdown().await;
    source.shutdown().await;
}
