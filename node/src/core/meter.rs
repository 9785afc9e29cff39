//! The books of a node: which sessions run, what they were promised and what was really sent, and from that its guard,
//! its reports and what it tells of sessions. All of it changes together, under its owner's one lock. Counts what it is
//! told was written to streams; knows no socket and no clock.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use usher_proto::{
    Bitrate, Code, SessionId,
    model::{Begun, Report, Sessions, Turned},
    units::{self, MAX_RATE},
};

use super::{
    background::Background,
    guard::{Full, Limits, Load},
    tell::Tell,
    volumes::Loads,
};

/// Bytes that a session may be ahead of its rate by, if a second of it is not more: two steps, so that a slow session
/// which gets its bytes in few large pieces does not seem to lack any between them.
const AHEAD: u64 = 1 << 20;

/// What a session waits in its beginning is not lacking: its file is opened, its hashes are read, and those that began
/// with it have their turn before it. A moment of that fills the whole of a window that the session has hardly begun,
/// and would make a node that is well look as if it could send next to nothing.
const OPENING: Duration = Duration::from_secs(1);

/// The counters of one start of a node.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    limits: Limits,
    sent: u64,
    sequence: u64,
    /// When the last report was taken, and `sent` then.
    last: (Instant, u64),
    running: HashMap<SessionId, Running>,
    /// Bit/s, the sum of what runs.
    committed: u64,
    volumes: Loads,
    background: Background,
    /// Of sessions that ended since the last report.
    ended: Window,
    tell: Tell,
}

/// What is counted of one session, or of several, from report to report; all in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// Beyond the reserved rates: it would have waited, had others needed them.
    elastic: u64,
    /// Within the reserved rates.
    delivered: u64,
    /// What the node owed of the reserved rates, and its readers would have taken.
    lacking: u64,
}

impl Window {
    fn add(&mut self, other: Self) {
        self.elastic = self.elastic.saturating_add(other.elastic);
        self.delivered = self.delivered.saturating_add(other.delivered);
        self.lacking = self.lacking.saturating_add(other.lacking);
    }
}

#[derive(Debug)]
struct Running {
    begun: Begun,
    volume: u16,
    /// From here on its waiting for the node counts.
    open: Instant,
    /// Begin of what is counted in `bytes` and `held`.
    since: Instant,
    bytes: u64,
    /// Bytes beyond its rate from before, which its reader has in hand.
    ahead: u64,
    /// How long it waited for the node: its disk, its pacer.
    held: Duration,
    /// Since when it waits for the node; `None` while it waits for its reader.
    waits: Option<Instant>,
}

impl Running {
    /// Its reader's turn ends or begins: what was waited for the node until now is counted.
    fn turn(&mut self, now: Instant, waits: bool) {
        if let Some(since) = self.waits.take() {
            self.held += now.saturating_duration_since(since.max(self.open));
        }
        self.waits = waits.then_some(now);
    }

    /// Ends the window, and opens the next.
    fn settle(&mut self, now: Instant) -> Window {
        self.turn(now, self.waits.is_some());
        let rate = self.begun.rate;
        let owed = rate.bytes_in(now.saturating_duration_since(self.since));
        let have = self.bytes.saturating_add(self.ahead);
        let delivered = owed.min(have);
        let lacking = (owed - delivered).min(rate.bytes_in(self.held));
        let elastic = self.bytes.saturating_sub(owed);
        self.ahead = (have - delivered).min(rate.bytes_in(Duration::from_secs(1)).max(AHEAD));
        (self.since, self.bytes, self.held) = (now, 0, Duration::ZERO);
        Window { elastic, delivered, lacking }
    }
}

impl Meter {
    /// All at zero.
    pub fn new(now: Instant, limits: Limits) -> Self {
        Self {
            started: now,
            limits,
            sent: 0,
            sequence: 0,
            last: (now, 0),
            running: HashMap::new(),
            committed: 0,
            volumes: Loads::default(),
            background: Background::default(),
            ended: Window::default(),
            tell: Tell::default(),
        }
    }

    fn load(&self) -> Load {
        Load { committed: self.committed, background: self.background.rate().0, sessions: self.running.len() }
    }

    /// Whether a session of this rate would be let in now. Nothing is promised.
    ///
    /// # Errors
    /// As [`Limits::check`].
    pub fn check(&self, rate: Bitrate, burst: bool) -> Result<(), Full> {
        self.limits.check(self.load(), rate, burst)
    }

    /// Lets a session in that reads from this volume: its rate is promised from here on.
    ///
    /// # Errors
    /// As [`Limits::check`], and when the session runs already; nothing is changed then.
    pub fn begin(&mut self, now: Instant, begun: Begun, volume: u16, burst: bool) -> Result<(), Full> {
        if self.running.contains_key(&begun.session) {
            return Err(Full::Twice);
        }
        self.check(begun.rate, burst)?;
        self.committed = self.committed.saturating_add(begun.rate.0);
        self.volumes.add(volume, begun.rate);
        self.tell.begun(begun.clone());
        let (bytes, ahead, held) = (0, 0, Duration::ZERO);
        let open = now + OPENING;
        let running = Running { volume, open, since: now, bytes, ahead, held, waits: Some(now), begun };
        self.running.insert(running.begun.session, running);
        Ok(())
    }

    /// A session with a good ticket was refused.
    pub fn turn(&mut self, session: SessionId, code: Code, burst: bool) {
        let limit = (code == Code::NoCapacity).then(|| self.limits.told(self.load(), burst));
        self.tell.turned(Turned { session, code, limit });
    }

    /// A session has something to write: it is its reader's turn.
    pub fn offers(&mut self, now: Instant, id: SessionId) {
        if let Some(running) = self.running.get_mut(&id) {
            running.turn(now, false);
        }
    }

    /// So many bytes of a session were written to its stream: it is the node's turn again.
    pub fn sent(&mut self, now: Instant, id: SessionId, bytes: u64) {
        self.sent = self.sent.saturating_add(bytes);
        if let Some(running) = self.running.get_mut(&id) {
            running.bytes = running.bytes.saturating_add(bytes);
            running.turn(now, true);
        }
    }

    /// A session is about to go elsewhere: its rate is free for others, and what it still sends is beyond it.
    pub fn leaving(&mut self, id: SessionId) {
        if let Some(running) = self.running.get_mut(&id) {
            let rate = std::mem::take(&mut running.begun.rate);
            self.committed = self.committed.saturating_sub(rate.0);
            self.volumes.remove(running.volume, rate);
        }
    }

    /// A session is over.
    pub fn end(&mut self, now: Instant, id: SessionId) {
        if let Some(mut running) = self.running.remove(&id) {
            self.ended.add(running.settle(now));
            self.committed = self.committed.saturating_sub(running.begun.rate.0);
            self.volumes.remove(running.volume, running.begun.rate);
            self.tell.ended(id);
        }
    }

    /// Sessions that run now.
    pub fn sessions(&self) -> usize {
        self.running.len()
    }

    /// Bytes written since the start.
    pub fn sent_bytes(&self) -> u64 {
        self.sent
    }

    /// What is promised from each volume.
    pub fn volumes(&self) -> &Loads {
        &self.volumes
    }

    /// The interface counts so many bytes sent, by all.
    pub fn link(&mut self, now: Instant, bytes: u64) {
        self.background.measure(now, bytes, self.sent);
    }

    fn uptime_ms(&self, now: Instant) -> u64 {
        units::millis(now.saturating_duration_since(self.started))
    }

    /// The report since the one before.
    pub fn report(&mut self, now: Instant) -> Report {
        let elapsed = now.saturating_duration_since(self.last.0);
        let mut all = std::mem::take(&mut self.ended);
        self.running.values_mut().for_each(|running| all.add(running.settle(now)));
        let egress = Bitrate::over(self.sent - self.last.1, elapsed);
        self.last = (now, self.sent);
        self.sequence += 1;
        let committed = Bitrate(self.committed.min(MAX_RATE));
        let (demand, delivered) = within(
            committed,
            Bitrate::over(all.delivered.saturating_add(all.lacking), elapsed),
            Bitrate::over(all.delivered, elapsed),
        );
        Report {
            sequence: self.sequence,
            uptime_ms: self.uptime_ms(now),
            sent_bytes: self.sent,
            egress,
            elastic: Bitrate::over(all.elastic, elapsed).min(egress),
            committed,
            sessions: u32::try_from(self.running.len()).unwrap_or(u32::MAX),
            background: self.background.rate(),
            demand,
            delivered,
            ..Report::default()
        }
    }

    /// A master attached, and hears from here on what happens to sessions.
    pub fn listen(&mut self) {
        self.tell.listen();
    }

    /// The master is gone.
    pub fn away(&mut self) {
        self.tell.away();
    }

    /// When there is something to [`Meter::tell`]; `None` while there is not.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.tell.due(now)
    }

    /// What happened to sessions since it was told last.
    pub fn tell(&mut self, now: Instant) -> Option<Sessions> {
        let running = &self.running;
        let told = self.tell.next(now, || running.values().map(|running| running.begun.clone()).collect())?;
        let committed = Bitrate(self.committed.min(MAX_RATE));
        Some(Sessions { uptime_ms: self.uptime_ms(now), committed, ..told })
    }
}

/// A demand above what is promised now is that of sessions that ended meanwhile: it is brought down to that, and what
/// was delivered by as much, so that their ratio stays.
fn within(committed: Bitrate, demand: Bitrate, delivered: Bitrate) -> (Bitrate, Bitrate) {
    if demand <= committed {
        return (demand, delivered);
    }
    let share = u128::from(delivered.0) * u128::from(committed.0) / u128::from(demand.0);
    (committed, Bitrate(u64::try_from(share).unwrap_or(u64::MAX).min(committed.0)))
}

#[cfg(test)]
mod tests;
