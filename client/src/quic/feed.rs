//! The groups of feeds: streams that a node opens, each brought to the session that it names, and what the session's own
//! stream says. Refuses to know what is proven and what is played.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use quinn::{ReadError, VarInt};
use tokio::{sync::mpsc, task::JoinSet, time};
use usher_proto::{
    Code, Fault, NodeName,
    feed::{GroupHead, Piece},
    pb::wire::{Moved, Refused},
    wire::{Decoder, Frame},
};
use usher_transport::{Connection, RecvStream, SendStream};

use super::{Pool, Reader, incoming::Incoming, lock, silent};
use crate::{
    clock,
    core::vigil::{LOOK, Look, Terms, Vigil},
};

/// Groups that a node may have on their way to us on one connection.
const STREAMS: u32 = 32;

/// Groups of a session that is not known yet: they may overtake its set-up.
const PARKED: usize = 16;

/// Numbers the streams of a process.
static STREAM: AtomicU64 = AtomicU64::new(0);

/// What happened in a session, which has this number.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) session: u64,
    pub(crate) heard: Heard,
}

/// What a session hears.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A stream brings this group.
    Group(u64, GroupHead),
    /// A stream brings a piece.
    Piece(u64, Piece),
    /// A stream ended; the node gave its group up where that is set.
    End(u64, bool),
    /// The node gave up the groups from the first to before the second.
    Skipped(u64, u64),
    /// The session goes on elsewhere.
    Moved(Box<Moved>),
    /// The feed is over, after the groups before this one.
    Finish(u64),
    /// The node's no.
    Refused(Box<Refused>),
    /// Nothing comes of the connection; it may yet come to life.
    Silent(Fault),
    /// The session is over without a word, or broke.
    Lost(Fault),
}

/// A group's stream and its head, and what of it was read beyond.
struct Arrived {
    stream: RecvStream,
    head: GroupHead,
    decoder: Decoder,
}

/// The sessions of one connection.
#[derive(Default)]
struct Board {
    sessions: HashMap<u64, mpsc::Sender<Arrived>>,
    parked: Vec<(u64, Arrived)>,
}

/// The boards, by connection.
#[derive(Default)]
pub(super) struct Routes(Mutex<HashMap<usize, Arc<Mutex<Board>>>>);

/// A session on its connection; ends with it.
struct Seated {
    board: Arc<Mutex<Board>>,
    subscription: u64,
}

impl Drop for Seated {
    fn drop(&mut self) {
        lock(&self.board).sessions.remove(&self.subscription);
    }
}

impl Pool {
    /// Tells all that happens in a session, marked with its number, until the reader is dropped. `send` is our side of the
    /// session's stream: dropped with the reader, it tells the node that nobody watches any more.
    pub(crate) fn listen(
        self: &Arc<Self>,
        incoming: Incoming,
        send: SendStream,
        subscription: u64,
        session: u64,
        news: mpsc::Sender<News>,
    ) -> Result<Reader, Fault> {
        let connection = incoming.connection().clone();
        connection.set_max_concurrent_uni_streams(VarInt::from_u32(STREAMS));
        let (to, groups) = mpsc::channel(STREAMS as usize);
        let failed = |error: std::io::Error| Fault::new(Code::Internal, format!("start a thread: {error}"));
        let mut endpoints = lock(&self.endpoints);
        let thread = endpoints.thread().map_err(failed)?;
        let board = Arc::clone(lock(&self.routes.0).entry(connection.stable_id()).or_insert_with(|| {
            let board = Arc::<Mutex<Board>>::default();
            let (pool, task, connection) = (Arc::clone(self), Arc::clone(&board), connection.clone());
            thread.spawn(async move {
                accept(&connection, &task).await;
                lock(&pool.routes.0).remove(&connection.stable_id());
            });
            board
        }));
        {
            let mut board = lock(&board);
            board.sessions.insert(subscription, to.clone());
            let (own, others) = std::mem::take(&mut board.parked).into_iter().partition(|(of, _)| *of == subscription);
            board.parked = others;
            for (_, arrived) in own {
                // There is room for more than may be parked.
                drop(to.try_send(arrived));
            }
        }
        let seated = Seated { board, subscription };
        let task = Listener { session, news }.run(incoming, send, groups, seated);
        Ok(Reader(thread.spawn(task).abort_handle()))
    }
}

/// Takes the streams of a connection until it is lost.
async fn accept(connection: &Connection, board: &Arc<Mutex<Board>>) {
    let mut heads = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => drop(heads.spawn(head(stream))),
                Err(_) => return,
            },
            Some(read) = heads.join_next(), if !heads.is_empty() => {
                if let Ok(Some((subscription, arrived))) = read {
                    hand_on(board, subscription, arrived);
                }
            }
        }
    }
}

/// Brings a group to its session. One that nobody wants, or has no room for, is not read: dropping the stream stops it.
fn hand_on(board: &Arc<Mutex<Board>>, subscription: u64, arrived: Arrived) {
    let mut board = lock(board);
    match board.sessions.get(&subscription) {
        Some(session) => drop(session.try_send(arrived)),
        None if board.parked.len() < PARKED => board.parked.push((subscription, arrived)),
        None => tracing::debug!(subscription, "a group of no session was refused"),
    }
}

/// Reads what group a stream brings.
async fn head(mut stream: RecvStream) -> Option<(u64, Arrived)> {
    let mut decoder = Decoder::default();
    loop {
        if let Some((subscription, head)) = GroupHead::read(&mut decoder).ok()? {
            return Some((subscription, Arrived { stream, head, decoder }));
        }
        decoder.push_chunk(stream.read_chunk(usize::MAX, true).await.ok()??.bytes);
    }
}

/// Who tells.
#[derive(Clone)]
struct Listener {
    session: u64,
    news: mpsc::Sender<News>,
}

impl Listener {
    /// False when nobody listens any more.
    async fn tell(&self, heard: Heard) -> bool {
        self.news.send(News { session: self.session, heard }).await.is_ok()
    }

    async fn run(self, mut incoming: Incoming, send: SendStream, mut groups: mpsc::Receiver<Arrived>, seated: Seated) {
        let connection = incoming.connection().clone();
        let mut streams = JoinSet::new();
        let mut finished = false;
        let mut heard_last = (0, clock::now());
        let mut vigil = Vigil::new(clock::now(), Terms::of_feed());
        let mut look = time::interval(LOOK);
        look.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let (heard, last) = tokio::select! {
                Some(arrived) = groups.recv() => {
                    streams.spawn(self.clone().group(arrived));
                    continue;
                }
                Some(_ended) = streams.join_next(), if !streams.is_empty() => continue,
                heard = said(&mut incoming), if !finished => heard,
                _ = look.tick() => {
                    let (now, datagrams) = (clock::now(), connection.stats().udp_rx.datagrams);
                    if datagrams != heard_last.0 {
                        heard_last = (datagrams, now);
                    }
                    let silence = now.saturating_duration_since(heard_last.1);
                    match vigil.look(now, datagrams, connection.rtt()) {
                        Look::Silent => (Heard::Silent(silent(incoming.node(), silence)), false),
                        Look::Well | Look::Slow => continue,
                    }
                }
            };
            // What was begun may still come, and nothing more is said.
            finished |= matches!(heard, Heard::Finish(_));
            if !self.tell(heard).await || last {
                break;
            }
        }
        // Until here: dropped, they tell the node that this session is over.
        drop((send, seated));
    }

    async fn group(self, arrived: Arrived) {
        let Arrived { mut stream, head, mut decoder } = arrived;
        let number = STREAM.fetch_add(1, Ordering::Relaxed);
        if !self.tell(Heard::Group(number, head)).await {
            return;
        }
        let given_up = loop {
            match decoder.next_frame() {
                Ok(Some(Frame::Piece(piece))) => {
                    if !self.tell(Heard::Piece(number, piece)).await {
                        return;
                    }
                    continue;
                }
                Ok(None) => {}
                // Nothing that follows could be proven.
                _ => break true,
            }
            match stream.read_chunk(usize::MAX, true).await {
                Ok(Some(chunk)) => decoder.push_chunk(chunk.bytes),
                Ok(None) => break false,
                Err(ReadError::Reset(_)) => break true,
                Err(_) => break false,
            }
        };
        self.tell(Heard::End(number, given_up)).await;
    }
}

/// What the session's own stream says next, and whether that is its last word.
async fn said(incoming: &mut Incoming) -> (Heard, bool) {
    let node = incoming.node().clone();
    // Silence is watched on the connection.
    match incoming.next(time::Duration::MAX).await {
        Ok(Some(Frame::Skipped(skipped))) => (Heard::Skipped(skipped.first, skipped.end), false),
        Ok(Some(Frame::Moved(moved))) => (Heard::Moved(Box::new(moved)), false),
        Ok(Some(Frame::Finish(finish))) => (Heard::Finish(finish.end_group), false),
        Ok(Some(Frame::Refused(refused))) => (Heard::Refused(Box::new(refused)), true),
        Ok(Some(_)) => (Heard::Lost(not_said(&node)), true),
        Ok(None) => (Heard::Lost(Fault::new(Code::Network, format!("node {node} ended the session"))), true),
        Err(fault) => (Heard::Lost(fault), true),
    }
}

fn not_said(node: &NodeName) -> Fault {
    Fault::new(Code::Internal, format!("node {node} says what does not belong into the session of a feed"))
}
