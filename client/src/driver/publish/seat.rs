//! A node that takes a feed: how it is found, opened, watched and left.

use std::time::{Duration, Instant};

use quinn::VarInt;
use usher_proto::{
    Bitrate, Code, Fault, Title,
    model::{FeedSetupInfo, Published, SeatAddress},
    pb::{
        v1,
        wire::{FeedOffer, Finish, Open},
    },
    ticket::Purpose,
    wire::{self, Frame, Kind},
};
use usher_transport::SendStream;

use super::{
    super::{join::Way, renewal, words},
    streams::Streams,
};
use crate::{
    clock,
    core::vigil::{Look, Terms, Vigil},
    quic::{Incoming, silent},
};

/// Asks the master for seats, after a wait.
pub(super) async fn ask(way: &Way, request: v1::PublishRequest, after: Duration) -> Result<Published, Fault> {
    tokio::time::sleep(after).await;
    way.master.publish(request).await
}

/// An open session.
pub(super) struct Joined {
    pub(super) incoming: Incoming,
    /// Our side of its stream.
    pub(super) control: SendStream,
    pub(super) info: FeedSetupInfo,
}

/// Opens a session and takes its set-up information.
pub(super) async fn join(
    way: &Way,
    at: &SeatAddress,
    offer: FeedOffer,
    title: &Title,
    patience: Duration,
) -> Result<Joined, Fault> {
    let open = Open {
        ticket: at.ticket.clone(),
        request_id: way.master.request_id().to_owned(),
        publish: Some(offer),
        ..Open::default()
    };
    let joined = async {
        let (mut incoming, control) = way.pool.open(way.master.address(), at, &open, None).await?;
        let control = control.ok_or_else(|| Fault::new(Code::Internal, "a feed's session has two sides"))?;
        let info = begin(&mut incoming, at, title, patience).await?;
        Ok(Joined { incoming, control, info })
    };
    tokio::time::timeout(patience, joined).await.unwrap_or_else(|_| Err(silent(&at.node, patience)))
}

async fn begin(
    incoming: &mut Incoming,
    at: &SeatAddress,
    title: &Title,
    patience: Duration,
) -> Result<FeedSetupInfo, Fault> {
    let wrong = |text: String| words::blame(at, Fault::new(Code::Internal, text));
    let info = match incoming.next(patience).await? {
        Some(Frame::Setup(setup)) => {
            FeedSetupInfo::try_from(setup).map_err(|error| wrong(format!("set-up information: {error}")))?
        }
        Some(Frame::Refused(refused)) => return Err(words::refusal(at, &refused)),
        Some(_) => return Err(wrong("something else came before the set-up information".to_owned())),
        None => {
            let fault = Fault::new(Code::Network, "the stream ended before the set-up information");
            return Err(words::blame(at, fault));
        }
    };
    if info.title == *title { Ok(info) } else { Err(wrong(format!("takes {} in the place of {title}", info.title))) }
}

/// A node that takes the feed.
pub(super) struct Session {
    pub(super) at: SeatAddress,
    pub(super) incoming: Incoming,
    pub(super) streams: Streams,
    pub(super) since: Instant,
    /// It has fallen silent, and another is sought.
    pub(super) silent: bool,
    control: SendStream,
    vigil: Vigil,
    datagrams: u64,
    _renewal: Option<renewal::Renewal>,
}

impl Session {
    pub(super) fn new(way: &Way, at: SeatAddress, incoming: Incoming, control: SendStream, subscription: u64) -> Self {
        let now = clock::now();
        let connection = incoming.connection().clone();
        let renewal = renewal::keep(way, &connection, &at);
        // What the node says goes before any media; a stream that is gone tells so by itself.
        let _ended = control.set_priority(i32::MAX);
        Self {
            at,
            incoming,
            streams: Streams::new(connection, subscription),
            since: now,
            silent: false,
            control,
            vigil: Vigil::new(now, Terms::new(Purpose::Fetch, Bitrate(0))),
            datagrams: 0,
            _renewal: renewal,
        }
    }

    /// Whether the node has fallen silent, and whether anything was heard of it since the last look.
    pub(super) fn look(&mut self, now: Instant) -> (Look, bool) {
        let stats = self.incoming.connection().stats();
        let datagrams = stats.udp_rx.datagrams;
        let heard = std::mem::replace(&mut self.datagrams, datagrams) != datagrams;
        if heard {
            // The session's stream is silent by its nature: any sign of life is enough.
            self.vigil.resume(now, datagrams);
        }
        (self.vigil.look(now, datagrams, stats.path.rtt), heard)
    }

    /// How long nothing was heard.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        self.vigil.silence(now)
    }

    /// The feed is over: says so, and waits for the node to take note.
    pub(super) async fn finish(mut self, patience: Duration) {
        let Some(frame) = wire::message(Kind::Finish, &Finish::default()) else { return };
        let said = async {
            self.control.write_chunk(frame).await.ok()?;
            self.control.finish().ok()?;
            // Once it has ended its side too, it will not take the end of the connection for a loss.
            while let Ok(Some(_)) = self.incoming.next(patience).await {}
            Some(())
        };
        if tokio::time::timeout(patience, said).await.is_err() {
            tracing::debug!(node = %self.at.node, "the node did not take note of the end");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Unlike an end that is not told of, which is a feed's.
        if self.control.reset(VarInt::from_u32(Code::Cancelled.quic())).is_err() {
            tracing::trace!("the session had ended already");
        }
    }
}
