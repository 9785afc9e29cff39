//! A node of the tests: speaks usher/1 over loopback, honestly or not.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use quinn::{Endpoint, Incoming, SendStream, ServerConfig, VarInt, crypto::rustls::QuicServerConfig};
use usher_certs::media::{MediaCertResolver, MediaCertificate};
use usher_proto::{
    Code, Fault,
    pb::{
        v1,
        wire::{Finish, Moved, Open},
    },
    tree::{self, GROUP, PAGE_GROUPS},
    wire::{self, Decoder, Frame, Kind},
};

/// What a node does with every session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Honest,
    /// Flips a bit of this group.
    Corrupt(u64),
    /// Sends hashes of something else.
    WrongHashes,
    /// Refuses every session.
    Refuse(Code),
    /// Resets the stream after so many groups.
    Reset(u64),
    /// Ends the stream after so many groups.
    End(u64),
    /// Sends so many groups and then nothing.
    Stall(u64),
    /// Hashes late.
    Unhashed,
    /// Hashes late, and then something else.
    UnhashedLie,
    /// Sends the set-up information and then nothing.
    Silent,
    /// Sends the session on to the node's `next` after so many groups.
    Move(u64),
    /// The same with a title that is not hashed.
    MoveUnhashed(u64),
}

pub(super) type Titles = Arc<HashMap<String, Vec<u8>>>;

pub(super) struct Node {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) pin: [u8; 32],
    pub(super) connections: Arc<AtomicUsize>,
    /// The first byte that each session asked for.
    pub(super) starts: Arc<Mutex<Vec<u64>>>,
    /// Where sessions are sent on to; the ticket there is the session's own.
    next: Arc<Mutex<v1::Seat>>,
    endpoint: Endpoint,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

impl Node {
    pub(super) fn start(name: &str, titles: &Titles, manner: Manner) -> Self {
        let certificate =
            MediaCertificate::generate(name, Duration::from_secs(3600), SystemTime::now()).expect("makes");
        let tls = usher_certs::tls::media_server_config(MediaCertResolver::new(certificate.certified_key()));
        let quic = QuicServerConfig::try_from(tls.expect("TLS 1.3")).expect("TLS 1.3");
        let mut config = ServerConfig::with_crypto(Arc::new(quic));
        let mut transport = quinn::TransportConfig::default();
        transport.max_concurrent_bidi_streams(VarInt::from_u32(256));
        config.transport_config(Arc::new(transport));
        let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().expect("an address")).expect("binds");
        let node = Self {
            name: name.to_owned(),
            address: endpoint.local_addr().expect("bound"),
            pin: certificate.sha256,
            connections: Arc::default(),
            starts: Arc::default(),
            next: Arc::default(),
            endpoint: endpoint.clone(),
        };
        let (connections, starts, titles) = (node.connections.clone(), node.starts.clone(), titles.clone());
        let next = node.next.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let known = (titles.clone(), starts.clone(), next.clone());
                tokio::spawn(connection(incoming, known, manner));
            }
        });
        node
    }

    /// Sends sessions on to this seat.
    pub(super) fn sends_to(&self, seat: v1::Seat) {
        *self.next.lock().expect("not poisoned") = seat;
    }

    pub(super) fn starts(&self) -> Vec<u64> {
        self.starts.lock().expect("not poisoned").clone()
    }
}

type Known = (Titles, Arc<Mutex<Vec<u64>>>, Arc<Mutex<v1::Seat>>);

async fn connection(incoming: Incoming, (titles, starts, next): Known, manner: Manner) {
    let Ok(connection) = incoming.await else { return };
    while let Ok((send, mut recv)) = connection.accept_bi().await {
        let (titles, starts, next) = (titles.clone(), starts.clone(), next.clone());
        tokio::spawn(async move {
            let mut decoder = Decoder::default();
            decoder.push(&recv.read_to_end(10_000).await.expect("a header"));
            let Ok(Some(Frame::Open(open))) = decoder.next_frame() else { panic!("no Open") };
            starts.lock().expect("not poisoned").push(open.range.unwrap_or_default().start);
            // A client that leaves early is part of some tests.
            let next = next.lock().expect("not poisoned").clone();
            let _gone = session(send, &open, &titles, next, manner).await;
        });
    }
}

async fn session(mut send: SendStream, open: &Open, titles: &Titles, next: v1::Seat, manner: Manner) -> Option<()> {
    if let Manner::Refuse(code) = manner {
        send.write_all(&wire::refused(&Fault::new(code, "not now"))).await.ok()?;
        return send.finish().ok();
    }
    // The ticket of the tests is the title.
    let data = titles.get(&open.ticket).expect("a known title");
    let mut builder = tree::Builder::default();
    data.chunks(GROUP as usize).for_each(|group| builder.push(group));
    let mut hashes = builder.finish();
    if matches!(manner, Manner::WrongHashes | Manner::UnhashedLie) {
        hashes.groups.iter_mut().for_each(|value| value[0] ^= 1);
    }
    let hashed = !matches!(manner, Manner::Unhashed | Manner::UnhashedLie | Manner::MoveUnhashed(_));
    let size = data.len() as u64;
    let range = open.range.unwrap_or_default();
    let groups = range.start / GROUP..tree::groups(if range.end == 0 { size } else { range.end });
    let setup = v1::Setup {
        title: open.ticket.clone(),
        content_id: if hashed { hashes.content.to_string() } else { String::new() },
        size,
        media_type: "video/mp4".into(),
        range: Some(v1::ByteRange { start: groups.start * GROUP, end: (groups.end * GROUP).min(size) }),
        page_groups: PAGE_GROUPS as u32,
        ..v1::Setup::default()
    };
    send.write_all(&wire::message(Kind::Setup, &setup)?).await.ok()?;
    if manner == Manner::Silent {
        std::future::pending::<()>().await;
    }
    let head: Vec<u8> =
        if hashes.groups.is_empty() { Vec::new() } else { wire::values(Kind::Hashes, &hashes.groups).to_vec() };
    if hashed {
        send.write_all(&head).await.ok()?;
    }
    for (sent, index) in groups.clone().enumerate() {
        if manner == Manner::Reset(sent as u64) {
            return send.reset(VarInt::from_u32(Code::Unavailable.quic())).ok();
        }
        if manner == Manner::Stall(sent as u64) {
            std::future::pending::<()>().await;
        }
        if manner == Manner::End(sent as u64) {
            return send.finish().ok();
        }
        if let Manner::Move(after) | Manner::MoveUnhashed(after) = manner
            && after == sent as u64
        {
            let ticket = if next.ticket.is_empty() { open.ticket.clone() } else { next.ticket.clone() };
            let moved = Moved { seat: Some(v1::Seat { ticket, ..next }) };
            send.write_all(&wire::message(Kind::Moved, &moved)?).await.ok()?;
            return send.finish().ok();
        }
        let start = (index * GROUP) as usize;
        let mut group = data[start..data.len().min(start + GROUP as usize)].to_vec();
        if manner == Manner::Corrupt(index) {
            group[7] ^= 16;
        }
        send.write_all(&wire::header(Kind::Group, group.len())).await.ok()?;
        send.write_all(&group).await.ok()?;
    }
    if !hashed {
        send.write_all(&head).await.ok()?;
    }
    send.write_all(&wire::message(Kind::Finish, &Finish { content_id: hashes.content.0.to_vec() })?).await.ok()?;
    send.finish().ok()
}
