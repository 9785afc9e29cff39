//! Counters of a node: its active sessions, their reserved rates and the bytes really sent. Admission control, reports
//! and session updates follow from them. Everything changes together, under one lock of the owner. Knows no socket and
//! no clock.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use usher_budget::{Prefix, Shares};
use usher_proto::{
    Bitrate, Code, SessionId,
    model::{Begun, RateChange, Report, Sessions, Turned},
    units::{self, MAX_RATE},
};

use super::{
    admission::{ALPHA, AdmissionControl, AdmissionError, FLOOR, NodeLoad},
    background::Background,
    session_updates::SessionUpdates,
    uptake::{Adjustment, Uptake},
    volumes::VolumeLoads,
};

/// Minimum of the bytes that a session may be ahead of its rate, where one second of it is less: two quanta, so that a
/// slow session that gets its bytes in few large quanta lacks nothing between them.
const MIN_AHEAD_BYTES: u64 = 1 << 20;

/// Waiting time at the start of a session that does not count as lacking: its file is opened, its hashes are read, and
/// sessions that started with it go first. Counted against a window that has hardly begun, a moment of it would make a
/// healthy node look unable to send.
const OPENING: Duration = Duration::from_secs(1);

/// Counters since the start of the node.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    admission: AdmissionControl,
    sent: u64,
    sequence: u64,
    /// Time of the last report, and `sent` then.
    last: (Instant, u64),
    running: HashMap<SessionId, SessionMeter>,
    /// Number of active sessions by the network of their clients.
    holders: Shares<Prefix>,
    /// Sum of the reserved rates, in bit/s.
    committed: u64,
    volumes: VolumeLoads,
    background: Background,
    /// Usage of sessions that ended since the last report.
    ended: Usage,
    updates: SessionUpdates,
}

/// Usage of one or several sessions between two reports, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    /// Bytes sent beyond the reserved rates: spare capacity.
    elastic: u64,
    /// Bytes sent within the reserved rates.
    delivered: u64,
    /// Bytes that the node failed to send within the reserved rates although readers had room.
    lacking: u64,
}

impl Usage {
    fn add(&mut self, other: Self) {
        self.elastic = self.elastic.saturating_add(other.elastic);
        self.delivered = self.delivered.saturating_add(other.delivered);
        self.lacking = self.lacking.saturating_add(other.lacking);
    }
}

/// Counters of one session.
#[derive(Debug)]
struct SessionMeter {
    /// Its start, with its whole rate.
    begun: Begun,
    /// Network of its client; `None` for a node.
    holder: Option<Prefix>,
    /// Rate reserved now, at most the whole rate.
    reserved: Bitrate,
    uptake: Uptake,
    volume: u16,
    /// Time from which on waiting for the node counts.
    open: Instant,
    /// Start of the period counted in `bytes` and `held`.
    since: Instant,
    bytes: u64,
    /// Bytes beyond its rate from earlier periods, which its reader holds.
    ahead: u64,
    /// Time that it waited for the node: for the disk or the scheduler.
    held: Duration,
    /// Start of the current wait for the node; `None` while it waits for its reader.
    waits: Option<Instant>,
}

impl SessionMeter {
    /// Counts the wait for the node until now, and sets whether it continues.
    fn set_waiting(&mut self, now: Instant, waits: bool) {
        if let Some(since) = self.waits.take() {
            self.held += now.saturating_duration_since(since.max(self.open));
        }
        self.waits = waits.then_some(now);
    }

    /// Ends the current period and starts the next.
    fn settle(&mut self, now: Instant) -> Usage {
        self.set_waiting(now, self.waits.is_some());
        let rate = self.reserved;
        let owed = rate.bytes_in(now.saturating_duration_since(self.since));
        let have = self.bytes.saturating_add(self.ahead);
        let delivered = owed.min(have);
        let lacking = (owed - delivered).min(rate.bytes_in(self.held));
        let elastic = self.bytes.saturating_sub(owed);
        self.ahead = (have - delivered).min(rate.bytes_in(Duration::from_secs(1)).max(MIN_AHEAD_BYTES));
        (self.since, self.bytes, self.held) = (now, 0, Duration::ZERO);
        Usage { elastic, delivered, lacking }
    }
}

impl Meter {
    /// A meter with all counters at zero.
    pub fn new(now: Instant, admission: AdmissionControl) -> Self {
        Self {
            started: now,
            admission,
            sent: 0,
            sequence: 0,
            last: (now, 0),
            running: HashMap::new(),
            holders: Shares::new(admission.sessions as u64).with_floor(FLOOR).with_alpha(ALPHA),
            committed: 0,
            volumes: VolumeLoads::default(),
            background: Background::default(),
            ended: Usage::default(),
            updates: SessionUpdates::default(),
        }
    }

    fn load(&self) -> NodeLoad {
        NodeLoad { committed: self.committed, background: self.background.rate().0, sessions: self.running.len() }
    }

    /// Checks whether a session of this rate would be admitted now. `holder` is the network of its client, `None` for
    /// a node. Reserves nothing.
    ///
    /// # Errors
    /// As [`AdmissionControl::check`], and [`AdmissionError::Share`].
    pub fn check(&self, rate: Bitrate, burst: bool, holder: Option<Prefix>) -> Result<(), AdmissionError> {
        self.admission.check(self.load(), rate, burst, holder.is_some())?;
        holder.map_or(Ok(()), |prefix| self.holders.check(&prefix, 1)).map_err(|_| AdmissionError::Share)
    }

    /// Admits a session that reads from `volume`, and reserves its rate.
    ///
    /// # Errors
    /// As [`Meter::check`], and for an active session; changes nothing then.
    pub fn handle_begin(
        &mut self,
        now: Instant,
        begun: Begun,
        volume: u16,
        burst: bool,
        holder: Option<Prefix>,
    ) -> Result<(), AdmissionError> {
        if self.running.contains_key(&begun.session) {
            return Err(AdmissionError::Duplicate);
        }
        self.check(begun.rate, burst, holder)?;
        holder.into_iter().for_each(|prefix| self.holders.force(prefix, 1));
        self.committed = self.committed.saturating_add(begun.rate.0);
        self.volumes.add(volume, begun.rate);
        self.updates.handle_begun(begun.clone());
        let running = SessionMeter {
            holder,
            reserved: begun.rate,
            uptake: Uptake::new(now),
            volume,
            open: now + OPENING,
            since: now,
            bytes: 0,
            ahead: 0,
            held: Duration::ZERO,
            waits: Some(now),
            begun,
        };
        self.running.insert(running.begun.session, running);
        Ok(())
    }

    /// Records the refusal of a session that had a valid ticket.
    pub fn handle_refusal(&mut self, session: SessionId, code: Code, burst: bool) {
        let limit = (code == Code::NoCapacity).then(|| self.admission.reported_limit(self.load(), burst));
        self.updates.handle_refused(Turned { session, code, limit });
    }

    /// A session has data to write and waits for its reader.
    pub fn handle_waiting_for_reader(&mut self, now: Instant, id: SessionId) {
        if let Some(running) = self.running.get_mut(&id) {
            running.set_waiting(now, false);
            running.uptake.handle_waiting(now);
        }
    }

    /// A session waits for data from elsewhere, such as the next piece of a feed.
    pub fn handle_waiting_for_source(&mut self, now: Instant, id: SessionId) {
        if let Some(running) = self.running.get_mut(&id) {
            running.set_waiting(now, false);
            running.uptake.handle_busy(now);
        }
    }

    /// A session has written bytes, its reader has `taken` so many of all that was written, and it waits for the node
    /// again.
    pub fn handle_sent(&mut self, now: Instant, id: SessionId, bytes: u64, taken: u64) {
        self.sent = self.sent.saturating_add(bytes);
        if let Some(running) = self.running.get_mut(&id) {
            running.bytes = running.bytes.saturating_add(bytes);
            running.set_waiting(now, true);
            running.uptake.handle_taken(now, running.begun.rate, taken);
            running.uptake.handle_busy(now);
        }
    }

    /// A session moves to another node: releases its rate, and counts what it still sends as elastic.
    pub fn handle_move(&mut self, id: SessionId) {
        if let Some(running) = self.running.get_mut(&id) {
            running.begun.rate = Bitrate(0);
            let rate = std::mem::take(&mut running.reserved);
            self.committed = self.committed.saturating_sub(rate.0);
            self.volumes.remove(running.volume, rate);
        }
    }

    /// Gives back the rates that readers do not take, and reserves those again that they do, as far as there is room.
    /// Returns each change. To be called about twice a second.
    pub fn poll_rates(&mut self, now: Instant) -> Vec<RateChange> {
        let (mut changes, mut wanted) = (Vec::new(), Vec::new());
        for (id, running) in self.running.iter_mut().filter(|(_, running)| running.begun.rate.0 > 0) {
            match running.uptake.poll_adjustment(now, running.begun.rate, running.reserved) {
                Some(Adjustment::Lower(rate)) => changes.push(RateChange { session: *id, rate }),
                Some(Adjustment::Restore) => wanted.push(RateChange { session: *id, rate: running.begun.rate }),
                None => {}
            }
        }
        changes.iter().for_each(|change| self.reserve(now, *change));
        for change in wanted {
            let reserved = self.running.get(&change.session).map_or(0, |running| running.reserved.0);
            let others = NodeLoad { committed: self.committed.saturating_sub(reserved), ..self.load() };
            if self.admission.check_rate(others, change.rate, false).is_ok() {
                self.reserve(now, change);
                changes.push(change);
            }
        }
        changes
    }

    fn reserve(&mut self, now: Instant, change: RateChange) {
        let Some(running) = self.running.get_mut(&change.session) else { return };
        self.ended.add(running.settle(now));
        let before = std::mem::replace(&mut running.reserved, change.rate);
        self.committed = self.committed.saturating_sub(before.0).saturating_add(change.rate.0);
        self.volumes.remove(running.volume, before);
        self.volumes.add(running.volume, change.rate);
        self.updates.handle_rate(change);
    }

    /// A session has ended.
    pub fn handle_end(&mut self, now: Instant, id: SessionId) {
        if let Some(mut running) = self.running.remove(&id) {
            self.ended.add(running.settle(now));
            self.committed = self.committed.saturating_sub(running.reserved.0);
            self.volumes.remove(running.volume, running.reserved);
            running.holder.into_iter().for_each(|prefix| self.holders.release(&prefix, 1));
            self.updates.handle_ended(id);
        }
    }

    /// Number of active sessions.
    pub fn sessions(&self) -> usize {
        self.running.len()
    }

    /// Bytes written since the start.
    pub fn sent_bytes(&self) -> u64 {
        self.sent
    }

    /// Reserved rates by volume.
    pub fn volumes(&self) -> &VolumeLoads {
        &self.volumes
    }

    /// Number of bytes sent by the interface, by all.
    pub fn handle_link_bytes(&mut self, now: Instant, bytes: u64) {
        self.background.measure(now, bytes, self.sent);
    }

    fn uptime_ms(&self, now: Instant) -> u64 {
        units::millis(now.saturating_duration_since(self.started))
    }

    /// The report since the previous one.
    pub fn poll_report(&mut self, now: Instant) -> Report {
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

    /// A master has attached and receives session updates from now on.
    pub fn handle_attached(&mut self) {
        self.updates.handle_attached();
    }

    /// The master is gone.
    pub fn handle_detached(&mut self) {
        self.updates.handle_detached();
    }

    /// Earliest time for [`Meter::poll_sessions`]; `None` while there is no update.
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        self.updates.next_timeout(now)
    }

    /// The next session updates.
    pub fn poll_sessions(&mut self, now: Instant) -> Option<Sessions> {
        let running = &self.running;
        let list = || running.values().map(|running| (running.begun.clone(), running.reserved)).collect();
        let told = self.updates.poll_message(now, list)?;
        let committed = Bitrate(self.committed.min(MAX_RATE));
        Some(Sessions { uptime_ms: self.uptime_ms(now), committed, ..told })
    }
}

/// Limits the demand to the rate reserved now: what exceeds it comes from sessions that have ended. Reduces the
/// delivered rate in proportion.
fn within(committed: Bitrate, demand: Bitrate, delivered: Bitrate) -> (Bitrate, Bitrate) {
    if demand <= committed {
        return (demand, delivered);
    }
    let share = u128::from(delivered.0) * u128::from(committed.0) / u128::from(demand.0);
    (committed, Bitrate(u64::try_from(share).unwrap_or(u64::MAX).min(committed.0)))
}

#[cfg(test)]
mod tests;
