//! What a node really sends, counted, and its reports of that. Counts what it is told was written to streams; knows no
//! socket and no clock.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use usher_proto::{
    Bitrate, SessionId,
    model::{MAX_SETTLED, Report},
    units::MAX_RATE,
};

/// How long a settled session is told again after a lost channel: what was handed over just before may not have
/// arrived, and the master takes a second telling as none.
const UNSURE: Duration = Duration::from_secs(10);

/// The counters of one start of a node.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    sent: u64,
    sequence: u64,
    /// When the last report was taken, and `sent` then.
    last: (Instant, u64),
    running: HashMap<SessionId, Running>,
    /// Bytes beyond the reserved rates of sessions that ended since the last report.
    ended_elastic: u64,
    /// To be told.
    settled: VecDeque<SessionId>,
    /// Told, but perhaps in vain.
    told: VecDeque<(Instant, Vec<SessionId>)>,
}

#[derive(Debug)]
struct Running {
    rate: Bitrate,
    /// Begin of what is counted in `bytes`.
    since: Instant,
    bytes: u64,
}

impl Running {
    /// Bytes that it took beyond its reserved rate: it would have waited, had others needed them.
    fn elastic(&self, now: Instant) -> u64 {
        let reserved = self.rate.bytes_in(now.saturating_duration_since(self.since));
        self.bytes.saturating_sub(reserved)
    }
}

impl Meter {
    /// All at zero.
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            sent: 0,
            sequence: 0,
            last: (now, 0),
            running: HashMap::new(),
            ended_elastic: 0,
            settled: VecDeque::new(),
            told: VecDeque::new(),
        }
    }

    /// A session begins, with `rate` reserved for it.
    pub fn begin(&mut self, now: Instant, id: SessionId, rate: Bitrate) {
        self.settled.push_back(id);
        self.running.insert(id, Running { rate, since: now, bytes: 0 });
    }

    /// A session with a good ticket was refused.
    pub fn refuse(&mut self, id: SessionId) {
        self.settled.push_back(id);
    }

    /// So many bytes of a session were written to its stream.
    pub fn sent(&mut self, id: SessionId, bytes: u64) {
        self.sent = self.sent.saturating_add(bytes);
        if let Some(running) = self.running.get_mut(&id) {
            running.bytes = running.bytes.saturating_add(bytes);
        }
    }

    /// A session is over.
    pub fn end(&mut self, now: Instant, id: SessionId) {
        if let Some(running) = self.running.remove(&id) {
            self.ended_elastic = self.ended_elastic.saturating_add(running.elastic(now));
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

    /// The report since the one before. Its settled sessions stay to be told until [`Meter::handed_over`].
    pub fn report(&mut self, now: Instant) -> Report {
        let elapsed = now.saturating_duration_since(self.last.0);
        let mut elastic = std::mem::take(&mut self.ended_elastic);
        let mut committed = 0_u64;
        for running in self.running.values_mut() {
            elastic = elastic.saturating_add(running.elastic(now));
            committed = committed.saturating_add(running.rate.0);
            (running.since, running.bytes) = (now, 0);
        }
        let egress = Bitrate::over(self.sent - self.last.1, elapsed);
        self.last = (now, self.sent);
        self.sequence += 1;
        Report {
            sequence: self.sequence,
            uptime_ms: u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX),
            sent_bytes: self.sent,
            egress,
            elastic: Bitrate::over(elastic, elapsed).min(egress),
            committed: Bitrate(committed.min(MAX_RATE)),
            sessions: u32::try_from(self.running.len()).unwrap_or(u32::MAX),
            settled: self.settled.iter().take(MAX_SETTLED).copied().collect(),
            ..Report::default()
        }
    }

    /// The last report, with the first `settled` of the sessions to tell, was handed over.
    pub fn handed_over(&mut self, now: Instant, settled: usize) {
        while self.told.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= UNSURE) {
            self.told.pop_front();
        }
        if settled > 0 {
            self.told.push_back((now, self.settled.drain(..settled.min(self.settled.len())).collect()));
        }
    }

    /// The channel broke: what was told last is told again.
    pub fn lost(&mut self, now: Instant) {
        for (at, ids) in self.told.drain(..).rev() {
            if now.saturating_duration_since(at) < UNSURE {
                ids.into_iter().rev().for_each(|id| self.settled.push_front(id));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [SessionId; 4] = [SessionId(0), SessionId(1), SessionId(2), SessionId(3)];

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_report_tells_what_was_sent_and_what_was_promised() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        meter.begin(start, ID[0], Bitrate(8_000));
        meter.begin(start, ID[1], Bitrate(8_000));
        meter.refuse(ID[2]);
        meter.sent(ID[0], 5_000);
        meter.sent(ID[1], 4_000);
        let report = meter.report(start + seconds(1));
        let expected = Report {
            sequence: 1,
            uptime_ms: 1000,
            sent_bytes: 9_000,
            egress: Bitrate(72_000),
            // 4000 and 5000 bytes where 1000 each were reserved.
            elastic: Bitrate(56_000),
            committed: Bitrate(16_000),
            sessions: 2,
            settled: vec![ID[0], ID[1], ID[2]],
            ..Report::default()
        };
        assert_eq!(report, expected);

        // A fetch that ran for half a second and ended still counts; totals never go back.
        meter.handed_over(start + seconds(1), 3);
        meter.begin(start + Duration::from_millis(1500), ID[3], Bitrate(8_000));
        meter.sent(ID[3], 2_000);
        meter.end(start + seconds(2), ID[3]);
        meter.end(start + seconds(2), ID[0]);
        let report = meter.report(start + seconds(2));
        assert_eq!((report.sent_bytes, report.egress.0, report.elastic.0), (11_000, 16_000, 12_000));
        assert_eq!((report.sequence, report.sessions, report.committed.0), (2, 1, 8_000));
        assert_eq!(report.settled, [ID[3]]);
        assert_eq!(meter.report(start + seconds(3)).egress, Bitrate(0));
    }

    #[test]
    fn settled_sessions_are_told_until_that_is_sure() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let told = |meter: &mut Meter, at: u64| meter.report(start + seconds(at)).settled;
        meter.refuse(ID[0]);
        assert_eq!(told(&mut meter, 1), [ID[0]]);
        meter.refuse(ID[1]);
        assert_eq!(told(&mut meter, 2), [ID[0], ID[1]], "not handed over");
        meter.handed_over(start + seconds(2), 1);
        assert_eq!(told(&mut meter, 3), [ID[1]]);
        meter.handed_over(start + seconds(11), 1);
        meter.refuse(ID[2]);
        meter.lost(start + seconds(12));
        assert_eq!(told(&mut meter, 12), [ID[1], ID[2]], "the first is long known");
    }

    #[test]
    fn a_flood_of_settled_sessions_takes_several_reports() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        (0..MAX_SETTLED as u128 + 5).for_each(|id| meter.refuse(SessionId(id)));
        assert_eq!(meter.report(start).settled.len(), MAX_SETTLED);
        meter.handed_over(start, MAX_SETTLED);
        assert_eq!(meter.report(start).settled.len(), 5);
    }
}
