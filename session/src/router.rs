//! The groups of feeds: unidirectional streams, each brought to the session that its head names. Serves the viewer's side,
//! where a node opens the streams, and the node's, where a publisher does. Does not know what becomes of the pieces.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use quinn::ReadError;
use tokio::{sync::mpsc, task::JoinSet};
use usher_proto::{
    feed::{GroupHead, Piece},
    wire::{Decoder, Frame},
};
use usher_transport::{Connection, RecvStream};

use crate::sync::lock;

/// Brings the groups of one connection to its sessions. Clones share the sessions.
#[derive(Clone, Default)]
pub struct GroupRouter(Arc<Mutex<Routes>>);

#[derive(Default)]
struct Routes {
    sessions: HashMap<u64, mpsc::Sender<GroupStream>>,
    /// Groups of sessions that are not known yet, at most `parked_max`.
    parked: Vec<(u64, GroupStream)>,
    parked_max: usize,
}

/// A session's entry in a router, removed on drop.
pub struct Registration {
    router: GroupRouter,
    subscription: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.router.0).sessions.remove(&self.subscription);
    }
}

impl GroupRouter {
    /// A router without sessions that keeps `parked_max` groups of unknown sessions: groups may overtake the set-up
    /// information of their session.
    pub fn new(parked_max: usize) -> Self {
        Self(Arc::new(Mutex::new(Routes { parked_max, ..Routes::default() })))
    }

    /// Sends the groups of `subscription` to the receiver, which holds at most `streams` of them.
    pub fn register(&self, subscription: u64, streams: usize) -> (Registration, mpsc::Receiver<GroupStream>) {
        let (sender, groups) = mpsc::channel(streams);
        let mut routes = lock(&self.0);
        let (own, others) = std::mem::take(&mut routes.parked).into_iter().partition(|(of, _)| *of == subscription);
        routes.parked = others;
        for (_, group) in own {
            // One that does not fit is dropped, which stops its stream.
            drop(sender.try_send(group));
        }
        routes.sessions.insert(subscription, sender);
        drop(routes);
        (Registration { router: self.clone(), subscription }, groups)
    }

    /// Reads the head of a group from `stream` and brings the group to its session. A group of an unknown session, or of
    /// one that has too many, is dropped, which stops its stream.
    pub async fn route(self, stream: RecvStream) {
        let Some((subscription, group)) = GroupStream::read_head(stream).await else { return };
        let mut routes = lock(&self.0);
        match routes.sessions.get(&subscription) {
            Some(session) => {
                if session.try_send(group).is_err() {
                    tracing::debug!(subscription, "group refused: its session has too many");
                }
            }
            None if routes.parked.len() < routes.parked_max => routes.parked.push((subscription, group)),
            None => tracing::debug!(subscription, "group refused: unknown session"),
        }
    }

    /// Routes the streams that the peer opens on `connection`, until the connection is lost.
    pub(crate) async fn accept(self, connection: &Connection) {
        let mut heads = JoinSet::new();
        loop {
            tokio::select! {
                stream = connection.accept_uni() => match stream {
                    Ok(stream) => drop(heads.spawn(self.clone().route(stream))),
                    Err(_) => return,
                },
                Some(_) = heads.join_next(), if !heads.is_empty() => {}
            }
        }
    }
}

/// Why a group's stream brings no more pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEnd {
    /// The sender finished the stream.
    Finished,
    /// The sender gave the group up.
    Reset,
    /// The connection was lost.
    Lost,
    /// The stream brought bytes that are no pieces.
    Malformed(String),
}

/// The stream of one group.
pub struct GroupStream {
    /// The group's head.
    pub head: GroupHead,
    stream: RecvStream,
    decoder: Decoder,
}

impl GroupStream {
    /// Reads the subscription and the head that a stream begins with; `None` for any other stream.
    async fn read_head(mut stream: RecvStream) -> Option<(u64, Self)> {
        let mut decoder = Decoder::default();
        loop {
            if let Some((subscription, head)) = decoder.next_group_head().ok()? {
                return Some((subscription, Self { head, stream, decoder }));
            }
            decoder.push_chunk(stream.read_chunk(usize::MAX, true).await.ok()??.bytes);
        }
    }

    /// Waits for further pieces and returns all that have arrived, at least one.
    ///
    /// # Errors
    /// Why there are no more.
    pub async fn next_pieces(&mut self) -> Result<Vec<Piece>, GroupEnd> {
        loop {
            let mut pieces = Vec::new();
            loop {
                match self.decoder.next_frame() {
                    Ok(Some(Frame::Piece(piece))) => pieces.push(piece),
                    Ok(None) => break,
                    Ok(Some(_)) => return Err(GroupEnd::Malformed("a frame is no piece".to_owned())),
                    Err(error) => return Err(GroupEnd::Malformed(error.to_string())),
                }
            }
            if !pieces.is_empty() {
                return Ok(pieces);
            }
            match self.stream.read_chunk(usize::MAX, true).await {
                Ok(Some(chunk)) => self.decoder.push_chunk(chunk.bytes),
                Ok(None) => return Err(GroupEnd::Finished),
                Err(ReadError::Reset(_)) => return Err(GroupEnd::Reset),
                Err(ReadError::ConnectionLost(_)) => return Err(GroupEnd::Lost),
                Err(error) => return Err(GroupEnd::Malformed(error.to_string())),
            }
        }
    }
}
