//! The node that a copy comes from: one connection at its seat, read no faster than the order allows. Does not know what
//! the frames mean.

use std::time::Duration;

use quinn::VarInt;
use usher_proto::{
    Bitrate, Code, Fault,
    pb::{v1::ByteRange, wire::Open},
    tree::GROUP,
    wire::Frame,
};
use usher_session::{ConnectionSettings, FrameReader, Pool, RateLimit, core::rate::TokenBucket};

use super::PullOrder;

/// How long a node may take to answer a dial.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Keeps NATs open, and finds dead nodes.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Silence after which a connection is lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that may be in flight or unread: 1.3 Gbit/s at 12 ms.
const WINDOW_MAX: u32 = 2 << 20;

/// The time at its rate that a copy may have in flight or unread: a slow copy gets little at once, and the rate is still
/// reached from the other side of the earth.
const AHEAD: Duration = Duration::from_millis(300);

/// An open session at the source. Dropped, it closes the connection.
pub(super) struct Source {
    frames: FrameReader,
    stall: Duration,
}

impl Source {
    /// Dials the seat of `order` and opens a session for `range`. The source may send nothing for `stall`.
    ///
    /// # Errors
    /// `NETWORK` when no address answers as the node that the seat names, `BAD_REQUEST` for a ticket that is too long.
    pub(super) async fn open(order: &PullOrder, range: Option<ByteRange>, stall: Duration) -> Result<Self, Fault> {
        let open =
            Open { ticket: order.seat.ticket.clone(), range, request_id: order.request_id.clone(), ..Open::default() };
        let settings = ConnectionSettings {
            dial_timeout: DIAL_TIMEOUT,
            keep_alive: KEEP_ALIVE,
            idle_timeout: IDLE_TIMEOUT,
            stream_window: window(order.rate),
            unpinned: Code::Network,
            ..ConnectionSettings::default()
        };
        let limit = RateLimit::new(TokenBucket::new(order.rate, 0).into());
        // A connection for each copy: its window is the order's.
        let (frames, _) = Pool::in_runtime(settings).open(&order.wanted.title, &order.seat, &open, Some(limit)).await?;
        Ok(Self { frames, stall })
    }

    /// Bytes received.
    pub(super) fn bytes(&self) -> u64 {
        self.frames.received()
    }

    /// The next frame; `None` at the end of the stream.
    ///
    /// # Errors
    /// `TIMEOUT` when nothing arrives for too long, not counting the waits of the rate limit; `VERIFICATION_FAILED` for
    /// bytes that are not usher/1; otherwise the node's code or `NETWORK`.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Fault> {
        let next = self.frames.next(self.stall).await;
        match next {
            Err(fault) if self.frames.is_malformed() => Err(Fault { code: Code::VerificationFailed, ..fault }),
            next => next,
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.frames.connection().close(VarInt::from_u32(Code::Cancelled.quic()), b"done");
    }
}

/// Bytes of a copy at `rate` that may be in flight or unread.
fn window(rate: Bitrate) -> u32 {
    let ahead = if rate.0 == 0 { u64::from(WINDOW_MAX) } else { rate.bytes_in(AHEAD).max(2 * GROUP) };
    u32::try_from(ahead).unwrap_or(WINDOW_MAX).min(WINDOW_MAX)
}
