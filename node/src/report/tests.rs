//! Whole nodes against a fake master.

mod attachments;
mod master;
mod moves;

use std::fs;

use usher_proto::{
    Code, ContentId, NodeName, SessionId, Title,
    pb::v1::prepared::Result as Outcome,
    ticket::{ClusterSecret, Purpose},
};

use master::FakeMaster;

use super::*;
use crate::{
    app::{self, Running},
    media::fixtures::{mp4, put_old, rot},
    settings::Config,
    test_node::{self, SessionEnd, Viewer},
};

#[tokio::test]
async fn a_rechecked_copy_leaves_the_catalog_when_it_is_damaged() {
    let mut master = FakeMaster::start().await;
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

/// A node of two titles, one of them in a subfolder, attached to this master.
async fn node(master: &FakeMaster) -> Running {
    start(master, config(master)).await
}

async fn start(master: &FakeMaster, config: Config) -> Running {
    let films = master.dir.path().join("films");
    put_old(&films.join("a.mp4"), &mp4(1, 200_000));
    put_old(&films.join("deep/b.mp4"), &mp4(2, 200));
    app::start(config, master.identity(test_node::NODE)).await.expect("a node")
}

fn config(master: &FakeMaster) -> Config {
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
async fn a_node_sends_hello_and_its_catalog() {
    let mut master = FakeMaster::start().await;
    let node = start(&master, Config { interface: Some("lo".into()), ..config(&master) }).await;
    let mut call = master.call().await;
    let hello = call.hello.clone();
    assert_eq!((hello.node.as_str(), hello.zone.as_str(), hello.attachment), (test_node::NODE, "z", 1));
    assert_eq!(hello.capacity, Bitrate(1_000_000_000));
    assert_eq!(hello.presence.addresses, [node.local_addr()]);
    let mut titles = call.catalog().await;
    titles.sort_unstable();
    assert_eq!(titles, ["a.mp4", "deep/b.mp4"]);
    node.attached().await;

    // The channel itself is background traffic of the interface.
    call.until(|call| call.last.background > Bitrate(0)).await;

    // A change follows.
    let films = master.dir.path().join("films");
    put_old(&films.join("new.tmp"), &mp4(3, 300));
    fs::rename(films.join("new.tmp"), films.join("c.mp4")).expect("renamed");
    fs::remove_file(films.join("a.mp4")).expect("removed");
    call.until(|call| call.titles.contains("c.mp4") && !call.titles.contains("a.mp4")).await;
    node.shutdown().await;
}

#[tokio::test]
async fn sessions_are_prepared_opened_and_reported() {
    let mut master = FakeMaster::start().await;
    let node = node(&master).await;
    node.library().hashed().await;
    let mut call = master.call().await;
    node.attached().await;
    let key = key(call.hello.boot);
    let mut claims = test_node::claims("a.mp4", None);
    (claims.purpose, claims.rate, claims.end) = (Purpose::Fetch, 5_000_000, Some(70_000));
    let ticket = key.sign(&claims).expect("signs");

    // A ticket is still valid after two Prepares; its range is reported in whole groups.
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
async fn a_new_master_receives_the_active_sessions() {
    let mut master = FakeMaster::start().await;
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
    // It waits for its reader, starts under the first attachment, and continues under the second.
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
    // A session whose reader stalls does not count against the node: its demand is delivered.
    again.until(|call| call.last.committed == Bitrate(1_000_000)).await;
    assert_eq!(again.last.demand, again.last.delivered);
    node.shutdown().await;
}

#[tokio::test]
async fn copies_on_two_disks_share_the_sessions() {
    let mut master = FakeMaster::start().await;
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
    let mut master = FakeMaster::start().await;
    put_old(&master.dir.path().join("films/a.mp4"), &mp4(1, 20_000_000));
    let mut config = config(&master);
    config.capacity = Bitrate(10_000_000);
    config.max_session_rate = Some(Bitrate(8_000_000));
    config.max_sessions = 2;
    config.labels = vec!["isp=north".into()];
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
    assert_eq!(viewer.play(&too_large, None).await, Err(SessionEnd::Refused(Code::Unequipped)));
    let mut stream = viewer.open(&ticket(8_000_000, Purpose::Play).1, None).await;
    stream.read_exact(&mut [0]).await.expect("something");
    let (more, too_much) = ticket(2_000_001, Purpose::Fetch);
    assert_eq!(viewer.play(&too_much, None).await, Err(SessionEnd::Refused(Code::NoCapacity)));
    // A session without a rate uses spare capacity, but it is the last of two.
    let mut other = viewer.open(&ticket(0, Purpose::Fetch).1, None).await;
    other.read_exact(&mut [0]).await.expect("something");
    let (third, one_more) = ticket(0, Purpose::Fetch);
    let refused = call.prepare(1, &one_more).await;
    let Some(Outcome::Refusal(refusal)) = refused.result else { panic!("{refused:?}") };
    assert_eq!((refusal.reason.as_str(), refusal.retry_after_ms), ("NO_CAPACITY", 1000));
    assert!(refusal.message.contains("2 sessions"), "{}", refusal.message);
    assert_eq!(viewer.play(&one_more, None).await, Err(SessionEnd::Refused(Code::NoCapacity)));

    call.until(|call| call.turned().len() == 3).await;
    let turned = call.turned();
    let reasons: Vec<_> = turned.iter().map(|turned| (turned.session, turned.code)).collect();
    assert_eq!(reasons, [(large, Code::Unequipped), (more, Code::NoCapacity), (third, Code::NoCapacity)]);
    assert_eq!((turned[0].limit, turned[1].limit), (None, Some(Bitrate(10_000_000))));
    assert!(turned[2].limit.is_some_and(|limit| limit >= Bitrate(8_000_000)), "the current load");
    node.shutdown().await;
}

/// A seat of this node, with a ticket for a copy.
fn seat(call: &master::AttachCall, title: &str) -> v1::Seat {
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
async fn copies_are_ordered_reported_and_evicted() {
    // Both nodes have the name that the tests' tickets are for; each has its own master.
    let (mut theirs, mut ours) = (FakeMaster::start().await, FakeMaster::start().await);
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
