//! A node of the tests: speaks usher/1 over loopback, honestly or not.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use quinn::{
    Connection, Endpoint, Incoming, RecvStream, SendStream, ServerConfig, VarInt, crypto::rustls::QuicServerConfig,
};
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
    /// Knows nothing of further ranges.
    OneRange,
    /// Sends a group, waits for so many milliseconds, and so on.
    Slow(u64),
}

pub(super) type Titles = Arc<HashMap<String, Vec<u8>>>;

pub(super) struct Node {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) pin: [u8; 32],
    pub(super) connections: Arc<AtomicUsize>,
    /// The first byte that each session asked for.
    pub(super) starts: Arc<Mutex<Vec<u64>>>,
    /// Sessions that were asked for ahead of the handshake.
    pub(super) early: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<Connection>>>,
    /// Bytes that were sent, as far as streams took them.
    pub(super) sent: Arc<AtomicU64>,
    /// Sessions that were served to their end.
    pub(super) finished: Arc<AtomicUsize>,
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
            early: Arc::default(),
            open: Arc::default(),
            sent: Arc::default(),
            finished: Arc::default(),
            next: Arc::default(),
            endpoint: endpoint.clone(),
        };
        let known = Known {
            titles: titles.clone(),
            starts: node.starts.clone(),
            early: node.early.clone(),
            open: node.open.clone(),
            sent: node.sent.clone(),
            finished: node.finished.clone(),
            next: node.next.clone(),
        };
        let connections = node.connections.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(connection(incoming, known.clone(), manner));
            }
        });
        node
    }

    /// Sends sessions on to this seat.
    pub(super) fn sends_to(&self, seat: v1::Seat) {
        *self.next.lock().expect("not poisoned") = seat;
    }

    /// Closes all connections.
    pub(super) fn hang_up(&self) {
        let all = std::mem::take(&mut *self.open.lock().expect("not poisoned"));
        all.iter().for_each(|connection| connection.close(VarInt::from_u32(Code::Cancelled.quic()), b"idle"));
    }

    pub(super) fn starts(&self) -> Vec<u64> {
        self.starts.lock().expect("not poisoned").clone()
    }
}

#[derive(Clone)]
struct Known {
    titles: Titles,
    starts: Arc<Mutex<Vec<u64>>>,
    early: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<Connection>>>,
    sent: Arc<AtomicU64>,
    finished: Arc<AtomicUsize>,
    next: Arc<Mutex<v1::Seat>>,
}

/// What a client sends on a stream.
struct Asked {
    recv: RecvStream,
    decoder: Decoder,
}

impl Asked {
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("good frames") {
                return Some(frame);
            }
            let chunk = self.recv.read_chunk(usize::MAX, true).await.ok()??;
            self.decoder.push_chunk(chunk.bytes);
        }
    }
}

async fn connection(incoming: Incoming, known: Known, manner: Manner) {
    let Ok(connecting) = incoming.accept() else { return };
    let Ok((connection, _)) = connecting.into_0rtt() else { return };
    known.open.lock().expect("not poisoned").push(connection.clone());
    while let Ok((send, recv)) = connection.accept_bi().await {
        let known = known.clone();
        known.early.fetch_add(usize::from(recv.is_0rtt()), Ordering::Relaxed);
        tokio::spawn(async move {
            let mut asked = Asked { recv, decoder: Decoder::default() };
            let Some(Frame::Open(open)) = asked.next().await else { panic!("no Open") };
            known.starts.lock().expect("not poisoned").push(open.range.unwrap_or_default().start);
            // A client that leaves early is part of some tests.
            let _gone = session(Out { send, sent: known.sent.clone() }, asked, &open, &known, manner).await;
        });
    }
}

/// A stream that counts.
struct Out {
    send: SendStream,
    sent: Arc<AtomicU64>,
}

impl Out {
    async fn all(&mut self, bytes: &[u8]) -> Option<()> {
        self.send.write_all(bytes).await.ok()?;
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Some(())
    }
}

async fn session(mut out: Out, mut asked: Asked, open: &Open, known: &Known, manner: Manner) -> Option<()> {
    if let Manner::Refuse(code) = manner {
        out.all(&wire::refused(&Fault::new(code, "not now"))).await?;
        return out.send.finish().ok();
    }
    // The ticket of the tests is the title.
    let data = known.titles.get(&open.ticket).expect("a known title");
    let next = known.next.lock().expect("not poisoned").clone();
    let mut builder = tree::Builder::default();
    data.chunks(GROUP as usize).for_each(|group| builder.push(group));
    let mut hashes = builder.finish();
    if matches!(manner, Manner::WrongHashes | Manner::UnhashedLie) {
        hashes.groups.iter_mut().for_each(|value| value[0] ^= 1);
    }
    let hashed = !matches!(manner, Manner::Unhashed | Manner::UnhashedLie | Manner::MoveUnhashed(_));
    let size = data.len() as u64;
    let wide = |range: v1::ByteRange| range.start / GROUP..tree::groups(if range.end == 0 { size } else { range.end });
    let mut groups = wide(open.range.unwrap_or_default());
    let setup = v1::Setup {
        title: open.ticket.clone(),
        content_id: if hashed { hashes.content.to_string() } else { String::new() },
        size,
        media_type: "video/mp4".into(),
        range: Some(v1::ByteRange { start: groups.start * GROUP, end: (groups.end * GROUP).min(size) }),
        page_groups: PAGE_GROUPS as u32,
        ..v1::Setup::default()
    };
    out.all(&wire::message(Kind::Setup, &setup)?).await?;
    if manner == Manner::Silent {
        std::future::pending::<()>().await;
    }
    let head: Vec<u8> =
        if hashes.groups.is_empty() { Vec::new() } else { wire::values(Kind::Hashes, &hashes.groups).to_vec() };
    let mut sent = 0;
    loop {
        if hashed {
            out.all(&head).await?;
        }
        for index in groups {
            if manner == Manner::Reset(sent) {
                return out.send.reset(VarInt::from_u32(Code::Unavailable.quic())).ok();
            }
            if manner == Manner::Stall(sent) {
                std::future::pending::<()>().await;
            }
            if manner == Manner::End(sent) {
                return out.send.finish().ok();
            }
            if let Manner::Move(after) | Manner::MoveUnhashed(after) = manner
                && after == sent
            {
                let ticket = if next.ticket.is_empty() { open.ticket.clone() } else { next.ticket.clone() };
                let moved = Moved { until: 0, seat: Some(v1::Seat { ticket, ..next }) };
                out.all(&wire::message(Kind::Moved, &moved)?).await?;
                return out.send.finish().ok();
            }
            if let Manner::Slow(millis) = manner {
                tokio::time::sleep(Duration::from_millis(millis)).await;
            }
            let start = (index * GROUP) as usize;
            let mut group = data[start..data.len().min(start + GROUP as usize)].to_vec();
            if manner == Manner::Corrupt(index) {
                group[7] ^= 16;
            }
            out.all(&wire::header(Kind::Group, group.len())).await?;
            out.all(&group).await?;
            sent += 1;
        }
        match if open.more && manner != Manner::OneRange { asked.next().await } else { None } {
            Some(Frame::Range(range)) => groups = wide(range),
            Some(other) => panic!("{other:?} after the Open"),
            None => break,
        }
    }
    if !hashed {
        out.all(&head).await?;
    }
    out.all(&wire::message(Kind::Finish, &Finish { content_id: hashes.content.0.to_vec() })?).await?;
    out.send.finish().ok()?;
    known.finished.fetch_add(1, Ordering::Relaxed);
    Some(())
}
