//! A node of the tests: serves usher/1 over loopback, correctly or not.

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
use tokio::sync::Semaphore;
use usher_certs::media::{MediaCertResolver, MediaCertificate};
use usher_proto::{
    Code, Fault,
    pb::{
        v1,
        wire::{Finish, Moved, Open, Renewed},
    },
    tree::{self, GROUP, PAGE_GROUPS},
    wire::{self, Decoder, Frame, Kind},
};

/// Behaviour of a node in every session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    Honest,
    /// Flips a bit of this group.
    Corrupt(u64),
    /// Sends hashes of something else.
    WrongHashes,
    /// Refuses every session.
    Refuse(Code),
    /// Resets the stream after this many groups.
    Reset(u64),
    /// Ends the stream after this many groups.
    End(u64),
    /// Sends this many groups and then nothing.
    Stall(u64),
    /// Sends the hashes after the media.
    Unhashed,
    /// The same, with hashes of something else.
    UnhashedLie,
    /// Sends the set-up information and then nothing.
    Silent,
    /// Moves the session to `next` after this many groups.
    Move(u64),
    /// The same with a title that is not hashed.
    MoveUnhashed(u64),
    /// Serves one range a session.
    OneRange,
    /// Sends a group every so many milliseconds.
    Slow(u64),
    /// Sends this many groups, and the others once its gate opens.
    Gate(u64),
    /// Sends nothing until its gate opens.
    Late,
    /// Sends this many groups, and then 100 bytes at a time until its gate opens.
    Trickle(u64),
    /// Announces after this many groups that the session moves to `next` from a later group on, and sends the group before
    /// that one once its gate opens.
    Notice(u64, u64),
    /// The same, but ends the stream instead of sending that group.
    Vanish(u64, u64),
}

pub(super) type Titles = Arc<HashMap<String, Vec<u8>>>;

pub(super) struct TestNode {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) pin: [u8; 32],
    pub(super) connections: Arc<AtomicUsize>,
    /// The first byte that each session asked for.
    pub(super) starts: Arc<Mutex<Vec<u64>>>,
    /// Number of sessions requested ahead of the handshake.
    pub(super) early: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<Connection>>>,
    /// Bytes written to streams.
    pub(super) sent: Arc<AtomicU64>,
    /// Number of sessions served to their end.
    pub(super) finished: Arc<AtomicUsize>,
    /// The seat that sessions are moved to, with the session's own ticket.
    next: Arc<Mutex<v1::Seat>>,
    /// Lets one waiting session continue for each permit.
    pub(super) gate: Arc<Semaphore>,
    /// Gate of another node that opens when a session begins here.
    opens: Arc<Mutex<Option<Arc<Semaphore>>>>,
    /// Tickets that sessions were renewed with.
    pub(super) renewed: Arc<Mutex<Vec<String>>>,
    endpoint: Endpoint,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

impl TestNode {
    pub(super) fn start(name: &str, titles: &Titles, behaviour: Behaviour) -> Self {
        let listen = |config| Endpoint::server(config, "127.0.0.1:0".parse().expect("an address")).expect("binds");
        Self::listening(name, titles, behaviour, listen)
    }

    /// The same at an endpoint that the caller makes.
    pub(super) fn listening(
        name: &str,
        titles: &Titles,
        behaviour: Behaviour,
        listen: impl FnOnce(ServerConfig) -> Endpoint,
    ) -> Self {
        let certificate =
            MediaCertificate::generate(name, Duration::from_secs(3600), SystemTime::now()).expect("makes");
        let tls = usher_certs::tls::media_server_config(MediaCertResolver::new(certificate.certified_key()));
        let quic = QuicServerConfig::try_from(tls.expect("TLS 1.3")).expect("TLS 1.3");
        let mut config = ServerConfig::with_crypto(Arc::new(quic));
        let mut transport = quinn::TransportConfig::default();
        transport.max_concurrent_bidi_streams(VarInt::from_u32(256)).initial_rtt(usher_transport::INITIAL_RTT);
        config.transport_config(Arc::new(transport));
        let endpoint = listen(config);
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
            gate: Arc::new(Semaphore::new(0)),
            opens: Arc::default(),
            renewed: Arc::default(),
            endpoint: endpoint.clone(),
        };
        let known = SharedState {
            titles: titles.clone(),
            starts: node.starts.clone(),
            early: node.early.clone(),
            open: node.open.clone(),
            sent: node.sent.clone(),
            finished: node.finished.clone(),
            next: node.next.clone(),
            gate: node.gate.clone(),
            opens: node.opens.clone(),
            renewed: node.renewed.clone(),
        };
        let connections = node.connections.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(connection(incoming, known.clone(), behaviour));
            }
        });
        node
    }

    /// Moves sessions to this seat.
    pub(super) fn sends_to(&self, seat: v1::Seat) {
        *self.next.lock().expect("not poisoned") = seat;
    }

    /// A session that begins here opens this gate.
    pub(super) fn opens(&self, gate: &Arc<Semaphore>) {
        *self.opens.lock().expect("not poisoned") = Some(Arc::clone(gate));
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
struct SharedState {
    titles: Titles,
    starts: Arc<Mutex<Vec<u64>>>,
    early: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<Connection>>>,
    sent: Arc<AtomicU64>,
    finished: Arc<AtomicUsize>,
    next: Arc<Mutex<v1::Seat>>,
    gate: Arc<Semaphore>,
    opens: Arc<Mutex<Option<Arc<Semaphore>>>>,
    renewed: Arc<Mutex<Vec<String>>>,
}

/// Frames that a client sends on a stream.
struct Requests {
    recv: RecvStream,
    decoder: Decoder,
}

impl Requests {
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

async fn connection(incoming: Incoming, known: SharedState, behaviour: Behaviour) {
    let Ok(connecting) = incoming.accept() else { return };
    let Ok((connection, _)) = connecting.into_0rtt() else { return };
    known.open.lock().expect("not poisoned").push(connection.clone());
    while let Ok((send, recv)) = connection.accept_bi().await {
        let known = known.clone();
        known.early.fetch_add(usize::from(recv.is_0rtt()), Ordering::Relaxed);
        tokio::spawn(async move {
            let mut asked = Requests { recv, decoder: Decoder::default() };
            let open = match asked.next().await {
                Some(Frame::Open(open)) => open,
                Some(Frame::Renew(renew)) => return renewed(send, &known, renew.ticket).await,
                other => panic!("{other:?} comes first"),
            };
            known.starts.lock().expect("not poisoned").push(open.range.unwrap_or_default().start);
            if let Some(gate) = &*known.opens.lock().expect("not poisoned") {
                gate.add_permits(1);
            }
            // A client that leaves early is part of some tests.
            let _gone =
                session(CountedStream { send, sent: known.sent.clone() }, asked, &open, &known, behaviour).await;
        });
    }
}

async fn renewed(mut send: SendStream, known: &SharedState, ticket: String) {
    let count = {
        let mut renewed = known.renewed.lock().expect("not poisoned");
        renewed.push(ticket);
        renewed.len()
    };
    // The first is refused, so the client asks again. The third opens the gate.
    let answer = match count {
        1 => wire::refused(&Fault::new(Code::Unavailable, "not now")),
        _ => wire::message(Kind::Renewed, &Renewed { lifetime_s: 1 }).expect("short"),
    };
    if count == 3 {
        known.gate.add_permits(1);
    }
    // The client may be gone.
    let _gone = send.write_all(&answer).await;
    let _gone = send.finish();
}

/// A stream that counts its bytes.
struct CountedStream {
    send: SendStream,
    sent: Arc<AtomicU64>,
}

impl CountedStream {
    async fn all(&mut self, bytes: &[u8]) -> Option<()> {
        self.send.write_all(bytes).await.ok()?;
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Some(())
    }
}

async fn session(
    mut out: CountedStream,
    mut asked: Requests,
    open: &Open,
    known: &SharedState,
    behaviour: Behaviour,
) -> Option<()> {
    if let Behaviour::Refuse(code) = behaviour {
        out.all(&wire::refused(&Fault::new(code, "not now"))).await?;
        return out.send.finish().ok();
    }
    // The ticket of the tests is the title.
    let data = known.titles.get(&open.ticket).expect("a known title");
    let next = known.next.lock().expect("not poisoned").clone();
    let mut builder = tree::Builder::default();
    data.chunks(GROUP as usize).for_each(|group| builder.push(group));
    let mut hashes = builder.finish();
    if matches!(behaviour, Behaviour::WrongHashes | Behaviour::UnhashedLie) {
        hashes.groups.iter_mut().for_each(|value| value[0] ^= 1);
    }
    let hashed = !matches!(behaviour, Behaviour::Unhashed | Behaviour::UnhashedLie | Behaviour::MoveUnhashed(_));
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
    if behaviour == Behaviour::Late {
        known.gate.acquire().await.ok()?.forget();
    }
    out.all(&wire::message(Kind::Setup, &setup)?).await?;
    if behaviour == Behaviour::Silent {
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
            if behaviour == Behaviour::Reset(sent) {
                return out.send.reset(VarInt::from_u32(Code::Unavailable.quic())).ok();
            }
            if behaviour == Behaviour::Stall(sent) {
                std::future::pending::<()>().await;
            }
            if behaviour == Behaviour::End(sent) {
                return out.send.finish().ok();
            }
            if let Behaviour::Move(after) | Behaviour::MoveUnhashed(after) = behaviour
                && after == sent
            {
                let ticket = if next.ticket.is_empty() { open.ticket.clone() } else { next.ticket.clone() };
                let moved = Moved { until: 0, seat: Some(v1::Seat { ticket, ..next }) };
                out.all(&wire::message(Kind::Moved, &moved)?).await?;
                return out.send.finish().ok();
            }
            if behaviour == Behaviour::Gate(sent) {
                known.gate.acquire().await.ok()?.forget();
            }
            if let Behaviour::Notice(after, until) | Behaviour::Vanish(after, until) = behaviour {
                if after == sent {
                    let ticket = open.ticket.clone();
                    let moved =
                        Moved { until: (until * GROUP).min(size), seat: Some(v1::Seat { ticket, ..next.clone() }) };
                    out.all(&wire::message(Kind::Moved, &moved)?).await?;
                }
                if index == until {
                    return out.send.finish().ok();
                }
                if index + 1 == until {
                    known.gate.acquire().await.ok()?.forget();
                    if matches!(behaviour, Behaviour::Vanish(..)) {
                        return out.send.finish().ok();
                    }
                }
            }
            if let Behaviour::Slow(millis) = behaviour {
                tokio::time::sleep(Duration::from_millis(millis)).await;
            }
            let start = (index * GROUP) as usize;
            let mut group = data[start..data.len().min(start + GROUP as usize)].to_vec();
            if behaviour == Behaviour::Corrupt(index) {
                group[7] ^= 16;
            }
            out.all(&wire::header(Kind::Group, group.len())).await?;
            let mut rest = group.as_slice();
            while behaviour == Behaviour::Trickle(sent) && !rest.is_empty() {
                let (some, after) = rest.split_at(rest.len().min(100));
                out.all(some).await?;
                rest = after;
                let opened = tokio::time::timeout(Duration::from_millis(50), known.gate.acquire()).await;
                if let Ok(permit) = opened {
                    permit.ok()?.forget();
                    break;
                }
            }
            out.all(rest).await?;
            sent += 1;
        }
        match if open.more && behaviour != Behaviour::OneRange { asked.next().await } else { None } {
            Some(Frame::Range(range)) => groups = wide(range),
            Some(other) => panic!("{other:?} after the Open"),
            None => break,
        }
    }
    if !hashed {
        out.all(&head).await?;
    }
    out.all(&wire::message(Kind::Finish, &Finish { content_id: hashes.content.0.to_vec(), ..Default::default() })?)
        .await?;
    out.send.finish().ok()?;
    known.finished.fetch_add(1, Ordering::Relaxed);
    Some(())
}
