//! Viewers with tokens: what a token opens at each service, and what is refused without one.

use std::{path::Path, time::Duration};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::{Value, json};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use usher_certs::Role;
use usher_master::{Config, settings::Lifetime};
use usher_proto::{
    NodeName,
    pb::v1::{
        self, catalog_client::CatalogClient, cluster_client::ClusterClient, resolve_result,
        tickets_client::TicketsClient,
    },
    ticket,
};

use crate::harness::{Master, Node, begun, request};

/// An identity provider: a key of its own.
pub(crate) struct Issuer(EncodingKey);

impl Issuer {
    /// Makes a key, and sets up a master to accept its tokens.
    pub(crate) fn of(config: &mut Config, dir: &Path) -> Self {
        let pair = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let keys = dir.join("token.pem");
        std::fs::write(&keys, pair.public_key_pem()).expect("written");
        config.token_keys = Some(keys);
        Self(EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).expect("a key"))
    }

    /// A token with these claims beside the usual ones.
    pub(crate) fn token(&self, claims: Value) -> String {
        let now = now();
        let mut all = json!({ "sub": "alice", "aud": "usher", "iat": now, "exp": now + 60 });
        let changes = claims.as_object().expect("an object").clone();
        all.as_object_mut().expect("an object").extend(changes);
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &all, &self.0).expect("signed")
    }

    /// A token of `sub` for titles with a prefix.
    pub(crate) fn viewer(&self, sub: &str, prefix: &str) -> String {
        self.token(json!({ "sub": sub, "usher": { "prefixes": [prefix] } }))
    }
}

fn now() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs()
}

/// A request with a token.
pub(crate) fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("text"));
    request
}

async fn master() -> (Master, Issuer) {
    let mut issuer = None;
    let dir = tempfile::tempdir().expect("a directory");
    let master = Master::with(|config| issuer = Some(Issuer::of(config, dir.path()))).await;
    (master, issuer.expect("made"))
}

fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn titles_are_resolved_for_tokens_that_cover_them() {
    let (master, issuer) = master().await;
    let node = master.node("node-1", &["films/a", "films/b", "series/c"]).await;
    let mut tickets = master.tickets().await;
    let films = issuer.viewer("alice", "films/");
    let fetch = |title: &str| v1::ResolveRequest { purpose: v1::Purpose::Fetch.into(), ..request(title) };
    let usher = |usher: Value| issuer.token(json!({ "usher": usher }));
    for (token, request, expected) in [
        (films.clone(), request("films/a"), Code::Ok),
        (films.clone(), fetch("films/a"), Code::Ok),
        (films.clone(), request("series/c"), Code::PermissionDenied),
        // Nothing is said about titles that a token does not cover.
        (films.clone(), request("series/none"), Code::PermissionDenied),
        (films.clone(), request("films/none"), Code::NotFound),
        (usher(json!({ "prefixes": [""] })), request("series/c"), Code::Ok),
        (usher(json!({ "prefixes": [""], "actions": ["play"] })), fetch("films/a"), Code::PermissionDenied),
        (usher(json!({ "prefixes": [""], "actions": [] })), request("films/a"), Code::PermissionDenied),
        (issuer.token(json!({})), request("films/a"), Code::Unauthenticated),
        (issuer.token(json!({ "exp": 9, "usher": { "prefixes": [""] } })), request("films/a"), Code::Unauthenticated),
        ("a.b.c".to_owned(), request("films/a"), Code::Unauthenticated),
    ] {
        assert_eq!(code(tickets.resolve(with(&token, request.clone())).await), expected, "{request:?}");
    }
    let none = tickets.resolve(request("films/a")).await.expect_err("no token");
    assert!(none.code() == Code::Unauthenticated && none.message().contains("--token"), "{none}");
    for value in ["Basic YTpi", "Bearer", "x"] {
        let mut asked = Request::new(request("films/a"));
        asked.metadata_mut().insert("authorization", value.parse().expect("text"));
        assert_eq!(code(tickets.resolve(asked).await), Code::Unauthenticated, "{value}");
    }
    let mut operator = TicketsClient::new(master.dial_as(Role::Admin, "ann").await);
    assert_eq!(code(operator.resolve(request("series/c")).await), Code::Ok);
    let mut stranger = TicketsClient::new(master.dial_as(Role::Node, "node-9").await);
    assert_eq!(code(stranger.resolve(request("films/a")).await), Code::Unauthenticated);

    let many = v1::ResolveManyRequest { requests: vec![request("films/a"), request("series/c"), request("films/b")] };
    let results = tickets.resolve_many(with(&films, many)).await.expect("answered").into_inner().results;
    let reasons: Vec<String> = results
        .into_iter()
        .map(|result| match result.result.expect("set") {
            resolve_result::Result::Ok(answer) => answer.title,
            resolve_result::Result::Failure(failure) => failure.reason,
        })
        .collect();
    assert_eq!(reasons, ["films/a", "DENIED", "films/b"]);

    // The viewer and the token are in the ticket, as hashes.
    let token = issuer.token(json!({ "jti": "t1", "usher": { "prefixes": [""], "zone": "north" } }));
    let answer = tickets.resolve(with(&token, request("films/a"))).await.expect("resolved").into_inner();
    let good = verified(&node, &answer.seats[0].ticket);
    assert!(good.viewer.is_some() && good.token.is_some());
    assert!(!answer.seats[0].ticket.contains("alice"));
    let answer = tickets.resolve(with(&films, request("films/a"))).await.expect("resolved").into_inner();
    let again = verified(&node, &answer.seats[0].ticket);
    assert_eq!((again.viewer, again.token), (good.viewer, None), "the same subject");
}

fn verified(node: &Node, token: &str) -> ticket::Ticket {
    let name = NodeName::parse("node-1").expect("a name");
    ticket::verify(&node.keys(), &name, now(), token).expect("good")
}

#[tokio::test]
async fn a_content_is_served_under_a_covered_name_only() {
    let (master, issuer) = master().await;
    // Contents of the harness are the first letter of the title.
    let _node = master.node("node-1", &["fa/a", "fb/b", "c"]).await;
    let mut tickets = master.tickets().await;
    let content = |letter: u8| v1::ResolveRequest {
        what: Some(v1::resolve_request::What::ContentId(hex::encode([letter; 32]))),
        ..Default::default()
    };
    let token = issuer.viewer("alice", "fb/");
    let answer = tickets.resolve(with(&token, content(b'f'))).await.expect("resolved").into_inner();
    assert_eq!(answer.title, "fb/b");
    assert_eq!(code(tickets.resolve(with(&token, content(b'c'))).await), Code::NotFound);
    let mut catalog = master.catalog().await;
    let locate =
        |letter: u8| v1::LocateRequest { what: Some(v1::locate_request::What::ContentId(hex::encode([letter; 32]))) };
    let versions = catalog.locate(with(&token, locate(b'f'))).await.expect("found").into_inner().versions;
    let titles: Vec<String> = versions.into_iter().filter_map(|version| Some(version.title?.title)).collect();
    assert_eq!(titles, ["fb/b"]);
    assert_eq!(code(catalog.locate(with(&token, locate(b'c'))).await), Code::NotFound);
}

#[tokio::test]
async fn listings_have_the_titles_of_the_token_only() {
    let (master, issuer) = master().await;
    let _node = master.node("node-1", &["a", "films/a", "films/b", "films/c", "series/d", "z/e"]).await;
    let mut catalog = CatalogClient::new(master.viewer().await);
    assert_eq!(code(catalog.list_titles(v1::ListTitlesRequest::default()).await), Code::Unauthenticated);
    let token = issuer.token(json!({ "usher": { "prefixes": ["z/", "films/b", "films/c", "films/"] } }));
    for (prefix, page_size, expected) in [
        ("", 0, vec!["films/a", "films/b", "films/c", "z/e"]),
        ("", 1, vec!["films/a", "films/b", "films/c", "z/e"]),
        ("", 3, vec!["films/a", "films/b", "films/c", "z/e"]),
        ("films/b", 2, vec!["films/b"]),
        ("f", 2, vec!["films/a", "films/b", "films/c"]),
        ("series/", 0, vec![]),
        ("a", 0, vec![]),
    ] {
        let (mut titles, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListTitlesRequest { prefix: prefix.into(), page_size, page_token };
            let page = catalog.list_titles(with(&token, request)).await.expect("listed").into_inner();
            assert!(page_size == 0 || page.titles.len() <= page_size as usize);
            titles.extend(page.titles.into_iter().map(|title| title.title));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(titles, expected, "{prefix} {page_size}");
    }
    let locate = |title: &str| v1::LocateRequest { what: Some(v1::locate_request::What::Title(title.to_owned())) };
    assert_eq!(code(catalog.locate(with(&token, locate("z/e"))).await), Code::Ok);
    assert_eq!(code(catalog.locate(with(&token, locate("series/d"))).await), Code::PermissionDenied);
    let explain = |title: &str| v1::ExplainRequest { about: Some(v1::explain_request::About::Request(request(title))) };
    let mut cluster = ClusterClient::new(master.viewer().await);
    assert_eq!(code(cluster.explain(with(&token, explain("z/e"))).await), Code::Ok);
    assert_eq!(code(cluster.explain(with(&token, explain("series/d"))).await), Code::PermissionDenied);
    assert_eq!(code(cluster.explain(explain("z/e")).await), Code::Unauthenticated);
}

#[tokio::test]
async fn a_ticket_is_renewed_for_its_viewer_while_its_token_lasts() {
    let (master, issuer) = master().await;
    let _node = master.node("node-1", &["films/a"]).await;
    let mut tickets = master.tickets().await;
    let alice = issuer.viewer("alice", "films/");
    let answer = tickets.resolve(with(&alice, request("films/a"))).await.expect("resolved").into_inner();
    let renew = || v1::RenewRequest { node: "node-1".into(), ticket: answer.seats[0].ticket.clone() };
    for (token, expected) in [
        (alice.clone(), Code::Ok),
        (issuer.viewer("alice", ""), Code::Ok),
        (issuer.viewer("bob", "films/"), Code::PermissionDenied),
        (issuer.viewer("alice", "series/"), Code::PermissionDenied),
        (issuer.token(json!({ "exp": 9, "usher": { "prefixes": [""] } })), Code::Unauthenticated),
    ] {
        assert_eq!(code(tickets.renew(with(&token, renew())).await), expected);
    }
    assert_eq!(code(tickets.renew(renew()).await), Code::Unauthenticated);
}

#[tokio::test]
async fn without_a_lifetime_a_session_ends_with_the_token() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut issuer = None;
    let master = Master::with(|config| {
        config.session_lifetime = Lifetime(None);
        issuer = Some(Issuer::of(config, dir.path()));
    })
    .await;
    let issuer = issuer.expect("made");
    let node = master.node("node-1", &["a"]).await;
    let expires = now() + 40;
    let token = issuer.token(json!({ "exp": expires, "usher": { "prefixes": [""] } }));
    let mut tickets = master.tickets().await;
    let answer = tickets.resolve(with(&token, request("a"))).await.expect("resolved").into_inner();
    assert_eq!(verified(&node, &answer.seats[0].ticket).until, Some(expires));
}

#[tokio::test]
async fn a_token_permits_to_publish_beside_certificates() {
    let (master, issuer) = master().await;
    let mut tickets = master.tickets().await;
    let publish = |title: &str| v1::PublishRequest {
        title: title.into(),
        publisher_id: vec![1; 16],
        ..v1::PublishRequest::default()
    };
    let token = issuer.token(json!({ "usher": { "prefixes": ["live/cam"], "actions": ["publish"] } }));
    // No node takes feeds here: a refusal for lack of nodes is past the check of rights.
    for (token, title, expected) in [
        (Some(token.as_str()), "live/cam1", Code::Unavailable),
        (Some(token.as_str()), "live/other", Code::PermissionDenied),
        (Some(issuer.viewer("alice", "").as_str()), "live/cam1", Code::PermissionDenied),
        (Some("a.b.c"), "live/cam1", Code::Unauthenticated),
        (None, "live/cam1", Code::Unauthenticated),
    ] {
        let asked = token.map_or_else(|| Request::new(publish(title)), |token| with(token, publish(title)));
        let refused = tickets.publish(asked).await.expect_err("no node");
        assert_eq!(refused.code(), expected, "{title}: {refused}");
    }
    let mut certified = TicketsClient::new(master.dial_as(Role::Publisher, "cam1").await);
    assert_eq!(code(certified.publish(publish("live/cam1")).await), Code::Unavailable);
    assert_eq!(code(certified.publish(publish("live/other")).await), Code::PermissionDenied);
}

#[tokio::test]
async fn a_master_with_keys_but_open_to_viewers_needs_no_token() {
    let dir = tempfile::tempdir().expect("a directory");
    let master = Master::with(|config| {
        Issuer::of(config, dir.path());
        config.viewers = Some(usher_master::ViewerAccess::Open);
        config.token_leeway = Duration::ZERO;
    })
    .await;
    let _node = master.node("node-1", &["a"]).await;
    assert_eq!(code(master.tickets().await.resolve(request("a")).await), Code::Ok);
}

#[tokio::test]
async fn a_token_limits_the_sessions_and_the_rate_of_its_subject() {
    let (master, issuer) = master().await;
    let nodes = [master.node("node-1", &["a", "b"]).await, master.node("node-2", &["a", "b"]).await];
    let mut tickets = master.tickets().await;
    let limited = |sub: &str, limits: Value| {
        let mut usher = json!({ "prefixes": [""] });
        usher.as_object_mut().expect("an object").extend(limits.as_object().expect("an object").clone());
        issuer.token(json!({ "sub": sub, "usher": usher }))
    };
    let one = limited("alice", json!({ "max_sessions": 1 }));
    let first = tickets.resolve(with(&one, request("a"))).await.expect("resolved").into_inner();
    // A session that runs stays, whatever the time that this test takes.
    let starts = async |answer: &v1::ResolveResponse| {
        let at = usize::from(answer.seats[0].node == "node-2");
        let begun = vec![begun(&answer.session_id, "a")];
        nodes[at].sessions(v1::Sessions { complete: true, begun, ..Default::default() }).await;
    };
    starts(&first).await;
    let second = tickets.resolve(with(&one, request("b"))).await.expect_err("one at a time");
    assert_eq!(second.code(), Code::ResourceExhausted, "{second}");
    assert_eq!(second.get_details_error_info().map(|info| info.reason).as_deref(), Some("BUDGET_EXCEEDED"));
    assert!(second.get_details_retry_info().is_some());
    // Its other tokens count as well, other subjects do not.
    assert_eq!(
        code(tickets.resolve(with(&limited("alice", json!({ "max_sessions": 1 })), request("b"))).await),
        second.code()
    );
    assert_eq!(
        code(tickets.resolve(with(&limited("bob", json!({ "max_sessions": 1 })), request("b"))).await),
        Code::Ok
    );
    // A client replaces a session whose node failed, once.
    let again = v1::ResolveRequest { exclude: vec![first.seats[0].node.clone()], ..request("a") };
    assert_eq!(code(tickets.resolve(with(&one, again.clone())).await), Code::Ok);
    assert_eq!(code(tickets.resolve(with(&one, again)).await), Code::ResourceExhausted);

    let slow = limited("carol", json!({ "max_rate_bps": 16_000_000 }));
    for _ in 0..2 {
        starts(&tickets.resolve(with(&slow, request("a"))).await.expect("resolved").into_inner()).await;
    }
    assert_eq!(code(tickets.resolve(with(&slow, request("a"))).await), Code::ResourceExhausted);
    let slower = limited("dave", json!({ "max_rate_bps": 7_999_999 }));
    assert_eq!(code(tickets.resolve(with(&slower, request("a"))).await), Code::PermissionDenied);

    let mut admin = ClusterClient::new(master.dial_as(Role::Admin, "ann").await);
    let viewers = admin.list_viewers(v1::ListViewersRequest {}).await.expect("listed").into_inner().viewers;
    assert!(viewers.iter().any(|viewer| (viewer.sessions, viewer.rate_bps) == (2, 16_000_000)), "{viewers:?}");
    assert!(viewers.iter().all(|viewer| viewer.id.len() == 16));
    assert_eq!(code(master.cluster().await.list_viewers(v1::ListViewersRequest {}).await), Code::Unauthenticated);
}

#[tokio::test]
async fn revoked_viewers_and_tokens_open_and_renew_nothing_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut issuer = None;
    let set_up = |config: &mut Config| config.token_keys = Some(dir.path().join("token.pem"));
    let master = Master::with(|config| {
        issuer = Some(Issuer::of(config, dir.path()));
        config.state = Some(dir.path().join("state"));
    })
    .await;
    let issuer = issuer.expect("made");
    let _node = master.node("node-1", &["a"]).await;
    let mut tickets = master.tickets().await;
    let (alice, bob) = (issuer.viewer("alice", ""), issuer.viewer("bob", ""));
    let named = issuer.token(json!({ "sub": "carol", "jti": "t7", "usher": { "prefixes": [""] } }));
    let answer = tickets.resolve(with(&alice, request("a"))).await.expect("resolved").into_inner();
    let renew = || v1::RenewRequest { node: "node-1".into(), ticket: answer.seats[0].ticket.clone() };
    assert_eq!(code(tickets.renew(with(&alice, renew())).await), Code::Ok);

    let revoke = |name: &str| v1::RevokeViewerRequest { name: name.to_owned(), now: false };
    let mut cluster = master.cluster().await;
    assert_eq!(code(cluster.revoke_viewer(revoke("alice")).await), Code::Unauthenticated);
    let mut admin = ClusterClient::new(master.dial_as(Role::Admin, "ann").await);
    assert_eq!(code(admin.revoke_viewer(revoke("")).await), Code::InvalidArgument);
    assert_eq!(code(admin.revoke_viewer(revoke(&"x".repeat(256))).await), Code::InvalidArgument);
    for (name, most) in [("alice", 1), ("t7", 0), ("nobody", 0)] {
        let revoked = admin.revoke_viewer(revoke(name)).await.expect("revoked").into_inner();
        assert!(revoked.sessions <= most, "{name}");
    }
    let newer = issuer.token(json!({ "sub": "alice", "iat": now() + 5, "usher": { "prefixes": [""] } }));
    let other = issuer.token(json!({ "sub": "carol", "jti": "t8", "usher": { "prefixes": [""] } }));
    let expected = [
        (&alice, Code::Unauthenticated),
        (&named, Code::Unauthenticated),
        (&bob, Code::Ok),
        (&newer, Code::Ok),
        (&other, Code::Ok),
    ];
    for (token, expected) in expected {
        assert_eq!(code(tickets.resolve(with(token, request("a"))).await), expected);
    }
    assert_eq!(code(tickets.renew(with(&alice, renew())).await), Code::Unauthenticated);
    assert_eq!(code(tickets.renew(with(&newer, renew())).await), Code::Ok);

    master.running.shutdown().await;
    let second = Master::with(|config| {
        set_up(config);
        config.state = Some(dir.path().join("state"));
    })
    .await;
    let _node = second.node("node-1", &["a"]).await;
    let mut tickets = second.tickets().await;
    for (token, expected) in expected {
        assert_eq!(code(tickets.resolve(with(token, request("a"))).await), expected);
    }
    // By the hash that logs and listings show.
    let mut admin = ClusterClient::new(second.dial_as(Role::Admin, "ann").await);
    let viewers = admin.list_viewers(v1::ListViewersRequest {}).await.expect("listed").into_inner().viewers;
    assert!(!viewers.is_empty());
    for viewer in viewers {
        admin.revoke_viewer(revoke(&viewer.id)).await.expect("revoked");
    }
    assert_eq!(code(tickets.resolve(with(&bob, request("a"))).await), Code::Unauthenticated);
}
