//! The frames that a node sends on one stream, one at a time. Their meaning is left to the caller; [`batch`](crate::batch)
//! gathers them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use quinn::VarInt;
use usher_proto::{
    Code, Fault, NodeName,
    wire::{Decoder, Frame},
};
use usher_transport::{Connection, RecvStream};

use crate::{
    clock,
    core::rate::TokenBucket,
    fault::{malformed, read_failed, silent},
    sync::lock,
};

/// Packets taken from a stream at once: about 20 kB, small enough for a smooth rate limit.
const READ_PACKETS: usize = 16;

/// A rate limit that streams share.
pub type RateLimit = Arc<Mutex<TokenBucket>>;

/// Reads the frames of one stream. Dropped before the stream's end, it asks the node to stop.
pub struct FrameReader {
    node: NodeName,
    connection: Connection,
    recv: RecvStream,
    decoder: Decoder,
    limit: Option<RateLimit>,
    received: u64,
    malformed: bool,
}

impl FrameReader {
    pub(crate) fn new(
        node: NodeName,
        connection: Connection,
        recv: RecvStream,
        decoder: Decoder,
        limit: Option<RateLimit>,
    ) -> Self {
        Self { node, connection, recv, decoder, limit, received: 0, malformed: false }
    }

    /// The node at the other end.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// The connection of the stream.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether the stream failed because its bytes are not usher/1.
    pub fn is_malformed(&self) -> bool {
        self.malformed
    }

    /// The next frame; `None` at the end of the stream. Dropping the future loses no bytes.
    ///
    /// # Errors
    /// `TIMEOUT` when nothing arrives for `timeout`, not counting the waits of the rate limit; `INTERNAL` for bytes that
    /// are not usher/1; otherwise the node's code or `NETWORK`.
    pub async fn next(&mut self, timeout: Duration) -> Result<Option<Frame>, Fault> {
        loop {
            if let Some(frame) = self.decoded()? {
                return Ok(Some(frame));
            }
            match tokio::time::timeout(timeout, self.read()).await.map_err(|_| silent(&self.node, timeout))?? {
                Some(bytes) => tokio::time::sleep(self.rate_delay(bytes)).await,
                None => return self.check_end().map(|()| None),
            }
        }
    }

    /// The next frame of the received bytes.
    pub(crate) fn decoded(&mut self) -> Result<Option<Frame>, Fault> {
        self.decoder.next_frame().map_err(|error| {
            self.malformed = true;
            malformed(&self.node, &error)
        })
    }

    /// Checks that the stream did not end inside a frame.
    pub(crate) fn check_end(&mut self) -> Result<(), Fault> {
        self.decoder.finish().map_err(|error| {
            self.malformed = true;
            malformed(&self.node, &error)
        })
    }

    /// Receives bytes. Returns how many, `None` at the end. Dropping the future loses nothing.
    pub(crate) async fn read(&mut self) -> Result<Option<usize>, Fault> {
        let mut chunks: [Bytes; READ_PACKETS] = Default::default();
        match self.recv.read_chunks(&mut chunks).await {
            Ok(Some(count)) => {
                let mut bytes = 0;
                for chunk in chunks.into_iter().take(count) {
                    bytes += chunk.len();
                    self.decoder.push_chunk(chunk);
                }
                self.received += bytes as u64;
                Ok(Some(bytes))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(read_failed(&self.node, &error)),
        }
    }

    /// How long to wait after a read of `bytes`, so that the stream's window fills and the node slows down.
    pub(crate) fn rate_delay(&self, bytes: usize) -> Duration {
        let take = |limit: &RateLimit| lock(limit).take(clock::now(), bytes as u64);
        self.limit.as_ref().map_or(Duration::ZERO, take)
    }

    /// Datagrams that the connection has received.
    pub(crate) fn datagrams(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }
}

impl Drop for FrameReader {
    fn drop(&mut self) {
        if self.recv.stop(VarInt::from_u32(Code::Cancelled.quic())).is_err() {
            tracing::trace!("the stream had ended already");
        }
    }
}
