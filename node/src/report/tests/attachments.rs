//! Masters that come, go, order a drain or refuse the node.

use super::*;

#[tokio::test]
async fn presence_follows_drain_and_a_drained_node_ends() {
    let mut master = FakeMaster::start().await;
    let films = master.dir.path().join("films");
    put_old(&films.join("a.mp4"), &mp4(1, 2_000_000));
    let (ask, requests) = mpsc::channel(2);
    let serving = tokio::spawn(app::serve(config(&master), master.identity(test_node::NODE), requests));
    let mut call = master.call().await;
    call.until(|call| call.titles.contains("a.mp4")).await;
    let address = call.hello.presence.addresses[0];
    let viewer = Viewer::dial(address, call.hello.presence.certificates.clone()).await;
    // A slow reader delays the end of the node.
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
async fn a_node_drains_when_ordered_and_the_next_master_learns_of_it() {
    let mut master = FakeMaster::start().await;
    let node = node(&master).await;
    let mut call = master.call().await;
    call.until(|call| call.complete).await;
    assert!(!call.hello.presence.draining);
    let hour = Duration::from_secs(3600);
    call.reply(Order::Drain(v1::Drain { deadline_ms: 3_600_000 })).await;
    call.until(|call| call.draining).await;
    assert!(!call.drain_left.is_zero() && call.drain_left <= hour, "{:?}", call.drain_left);
    // The node owns the drain: a new master learns of it at once.
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
async fn a_lost_master_is_found_again_and_sessions_do_not_notice() {
    let mut master = FakeMaster::start().await;
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
    let mut master = FakeMaster::start().await;
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
async fn a_wrong_certificate_is_refused_at_once() {
    let master = FakeMaster::start().await;
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
