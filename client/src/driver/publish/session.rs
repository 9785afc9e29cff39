//! A node that receives a feed: how it is opened, watched and left.

use std::time::{Duration, Instant};

use quinn::VarInt;
use tokio::time;
use usher_proto::{
    Bitrate, Code, Fault, Title,
    model::{FeedSetupInfo, SeatAddress},
    pb::wire::{FeedOffer, Finish, Open},
    ticket::Purpose,
    wire::{self, Kind},
};
use usher_session::{
    FrameReader,
    core::stall::{Expectation, Health, StallDetector},
    fault::silent,
    replies::feed_setup,
};
use usher_transport::SendStream;

use super::streams::OutgoingStreams;
use crate::{
    clock,
    driver::{Connector, renewal},
};

/// An open seat, before anything is sent.
pub(super) struct OpenIngest {
    incoming: FrameReader,
    /// Our side of the session's stream.
    control: SendStream,
    pub(super) info: FeedSetupInfo,
}

/// Opens a session and reads its set-up information.
pub(super) async fn join(
    connector: &Connector,
    at: &SeatAddress,
    offer: FeedOffer,
    title: &Title,
    timeout: Duration,
) -> Result<OpenIngest, Fault> {
    let open = Open {
        ticket: at.ticket.clone(),
        request_id: connector.master.request_id().to_owned(),
        publish: Some(offer),
        ..Open::default()
    };
    let joined = async {
        let (mut incoming, control) = connector.open(at, &open, timeout).await?;
        let control = control.ok_or_else(|| Fault::new(Code::Internal, "a feed's session has two sides"))?;
        let (info, _) = feed_setup(&mut incoming, at, timeout, title).await?;
        Ok(OpenIngest { incoming, control, info })
    };
    time::timeout(timeout, joined).await.unwrap_or_else(|_| Err(silent(&at.node, timeout)))
}

/// A session in which a node receives the feed.
pub(super) struct IngestSession {
    pub(super) at: SeatAddress,
    pub(super) incoming: FrameReader,
    pub(super) streams: OutgoingStreams,
    pub(super) since: Instant,
    /// Its connection is silent, and another node is sought.
    pub(super) silent: bool,
    control: SendStream,
    detector: StallDetector,
    datagrams: u64,
    _renewal: Option<renewal::Renewal>,
}

impl IngestSession {
    pub(super) fn new(connector: &Connector, at: SeatAddress, open: OpenIngest) -> Self {
        let OpenIngest { incoming, control, info } = open;
        let now = clock::now();
        let connection = incoming.connection().clone();
        let renewal = renewal::keep(connector, &connection, &at);
        // Control frames go before media; a stream that has ended is noticed where it is read.
        let _ended = control.set_priority(i32::MAX);
        Self {
            at,
            incoming,
            streams: OutgoingStreams::new(connection, info.subscription),
            since: now,
            silent: false,
            control,
            detector: StallDetector::new(now, Expectation::new(Purpose::Fetch, Bitrate(0))),
            datagrams: 0,
            _renewal: renewal,
        }
    }

    /// Whether the node has fallen silent, and whether anything was received from it since the last call.
    pub(super) fn look(&mut self, now: Instant) -> (Health, bool) {
        let stats = self.incoming.connection().stats();
        let datagrams = stats.udp_rx.datagrams;
        let received = std::mem::replace(&mut self.datagrams, datagrams) != datagrams;
        if received {
            // A node sends little on the session's stream: any datagram is a sign of life.
            self.detector.handle_resume(now, datagrams);
        }
        (self.detector.poll_health(now, datagrams, stats.path.rtt), received)
    }

    /// Time for which nothing was received.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        self.detector.silence(now)
    }

    /// Ends the feed, and waits for the node to acknowledge that.
    pub(super) async fn finish(mut self, timeout: Duration) {
        let Some(frame) = wire::message(Kind::Finish, &Finish::default()) else { return };
        let acknowledged = async {
            self.control.write_chunk(frame).await.ok()?;
            self.control.finish().ok()?;
            // Once the node has ended its side too, it does not take the end of the connection for a failure.
            while let Ok(Some(_)) = self.incoming.next(timeout).await {}
            Some(())
        };
        if time::timeout(timeout, acknowledged).await.is_err() {
            tracing::debug!(node = %self.at.node, "end of the feed not acknowledged");
        }
    }
}

impl Drop for IngestSession {
    fn drop(&mut self) {
        // A stream that finishes would be the end of the feed.
        if self.control.reset(VarInt::from_u32(Code::Cancelled.quic())).is_err() {
            tracing::trace!("stream had ended already");
        }
    }
}
