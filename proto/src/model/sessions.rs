//! A node's events of its sessions, validated.

use super::{
    MAX_SETTLED,
    invalid::{Check, Invalid},
};
use crate::{
    code::Code,
    id::{ContentId, SessionId},
    pb::v1,
    ticket::Purpose,
    title::Title,
    units::{Bitrate, MAX_RATE},
};

/// A session that began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Its id.
    pub session: SessionId,
    /// Its title.
    pub title: Title,
    /// The content, once hashed.
    pub content: Option<ContentId>,
    /// Its reserved rate, bit/s.
    pub rate: Bitrate,
    /// Play or fetch.
    pub purpose: Purpose,
}

/// A session that the node refused although its ticket was valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turned {
    /// Its id.
    pub session: SessionId,
    /// The node's reason.
    pub code: Code,
    /// Bit/s that a full node can reserve in total.
    pub limit: Option<Bitrate>,
}

/// A new reserved rate of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateChange {
    /// Its id.
    pub session: SessionId,
    /// Bit/s reserved from now on, at most those that it began with.
    pub rate: Bitrate,
}

/// Changes of a node's sessions, or all of them after an attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// Begins the whole list.
    pub restart: bool,
    /// Ends the whole list; true on changes.
    pub complete: bool,
    /// Milliseconds since the node started.
    pub uptime_ms: u64,
    /// Sum of the reserved rates after these changes, bit/s.
    pub committed: Bitrate,
    /// Sessions that began.
    pub begun: Vec<Begun>,
    /// Sessions that are over.
    pub ended: Vec<SessionId>,
    /// Sessions that were refused.
    pub turned: Vec<Turned>,
    /// Sessions whose reserved rate differs from before.
    pub rates: Vec<RateChange>,
}

pub(super) fn id(bytes: &[u8]) -> Result<SessionId, &'static str> {
    bytes.try_into().map(|bytes| SessionId(u128::from_be_bytes(bytes))).map_err(|_| "expected 16 bytes")
}

impl TryFrom<v1::Sessions> for Sessions {
    type Error = Invalid;

    fn try_from(sessions: v1::Sessions) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let entries = sessions.begun.len() + sessions.ended.len() + sessions.turned.len() + sessions.rates.len();
        if entries > MAX_SETTLED {
            return Err(Invalid::one("sessions", format!("at most {MAX_SETTLED} at a time, not {entries}")));
        }
        let rate = |check: &mut Check, field: &str, rate: u64| {
            check.require(rate <= MAX_RATE, field, || format!("at most {MAX_RATE} bit/s"));
            Bitrate(rate)
        };
        let committed = rate(&mut check, "committed_bps", sessions.committed_bps);
        let mut begun = Vec::with_capacity(sessions.begun.len());
        for (i, one) in sessions.begun.into_iter().enumerate() {
            let session = check.take(&format!("begun[{i}].session_id"), id(&one.session_id));
            let title = check.take(&format!("begun[{i}].title"), Title::parse(&one.title));
            let hashed = !one.content_id.is_empty();
            let content = hashed.then(|| ContentId::try_from(one.content_id.as_slice()));
            let content = content.and_then(|id| check.take(&format!("begun[{i}].content_id"), id));
            let rate = rate(&mut check, &format!("begun[{i}].rate_bps"), one.rate_bps);
            let purpose = match v1::Purpose::try_from(one.purpose) {
                Ok(v1::Purpose::Fetch) => Purpose::Fetch,
                _ => Purpose::Play,
            };
            begun.extend(session.zip(title).map(|(session, title)| Begun { session, title, content, rate, purpose }));
        }
        let ended = sessions.ended.iter().enumerate();
        let ended = ended.filter_map(|(i, bytes)| check.take(&format!("ended[{i}]"), id(bytes))).collect();
        let mut turned = Vec::with_capacity(sessions.turned.len());
        for (i, one) in sessions.turned.iter().enumerate() {
            let session = check.take(&format!("turned[{i}].session_id"), id(&one.session_id));
            let limit = rate(&mut check, &format!("turned[{i}].limit_bps"), one.limit_bps);
            let limit = (limit.0 > 0).then_some(limit);
            turned.extend(session.map(|session| Turned { session, code: Code::from_reason(&one.reason), limit }));
        }
        let mut rates = Vec::with_capacity(sessions.rates.len());
        for (i, one) in sessions.rates.iter().enumerate() {
            let session = check.take(&format!("rates[{i}].session_id"), id(&one.session_id));
            let rate = rate(&mut check, &format!("rates[{i}].rate_bps"), one.rate_bps);
            rates.extend(session.map(|session| RateChange { session, rate }));
        }
        check.done(Some(Self {
            restart: sessions.restart,
            complete: sessions.complete,
            uptime_ms: sessions.uptime_ms,
            committed,
            begun,
            ended,
            turned,
            rates,
        }))
    }
}

impl Sessions {
    /// Keeps the changes of sessions for which `keep` is true. Returns the number of the others.
    pub fn retain(&mut self, keep: impl Fn(SessionId) -> bool) -> usize {
        let entries = |sessions: &Self| {
            sessions.begun.len() + sessions.rates.len() + sessions.ended.len() + sessions.turned.len()
        };
        let before = entries(self);
        self.begun.retain(|one| keep(one.session));
        self.rates.retain(|one| keep(one.session));
        self.ended.retain(|session| keep(*session));
        self.turned.retain(|one| keep(one.session));
        before - entries(self)
    }

    /// As a message.
    pub fn to_pb(&self) -> v1::Sessions {
        let bytes = |id: &SessionId| id.0.to_be_bytes().to_vec();
        let begun = self.begun.iter().map(|one| v1::Begun {
            session_id: bytes(&one.session),
            title: one.title.to_string(),
            content_id: one.content.map(|id| id.0.to_vec()).unwrap_or_default(),
            rate_bps: one.rate.0,
            purpose: match one.purpose {
                Purpose::Play => v1::Purpose::Play.into(),
                Purpose::Fetch => v1::Purpose::Fetch.into(),
            },
        });
        let turned = self.turned.iter().map(|one| v1::Turned {
            session_id: bytes(&one.session),
            reason: one.code.reason().to_owned(),
            limit_bps: one.limit.map_or(0, |limit| limit.0),
        });
        let rates =
            self.rates.iter().map(|one| v1::RateChange { session_id: bytes(&one.session), rate_bps: one.rate.0 });
        v1::Sessions {
            restart: self.restart,
            complete: self.complete,
            uptime_ms: self.uptime_ms,
            committed_bps: self.committed.0,
            begun: begun.collect(),
            ended: self.ended.iter().map(bytes).collect(),
            turned: turned.collect(),
            rates: rates.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions() -> Sessions {
        Sessions {
            restart: true,
            complete: true,
            uptime_ms: 7,
            committed: Bitrate(9),
            begun: vec![Begun {
                session: SessionId(1),
                title: Title::parse("a.mp4").expect("a title"),
                content: Some(ContentId([3; 32])),
                rate: Bitrate(9),
                purpose: Purpose::Fetch,
            }],
            ended: vec![SessionId(2)],
            turned: vec![Turned { session: SessionId(3), code: Code::NoCapacity, limit: Some(Bitrate(5)) }],
            rates: vec![RateChange { session: SessionId(4), rate: Bitrate(2) }],
        }
    }

    #[test]
    fn sessions_survive_the_message() {
        assert_eq!(Sessions::try_from(sessions().to_pb()), Ok(sessions()));
    }

    #[test]
    fn changes_of_other_sessions_are_dropped() {
        for (kept, dropped) in [(1, 3), (2, 3), (3, 3), (4, 3), (5, 4)] {
            let mut sessions = sessions();
            assert_eq!(sessions.retain(|session| session == SessionId(kept)), dropped);
            assert_eq!(sessions.retain(|_| false), 4 - dropped);
            assert!(sessions.restart && sessions.complete);
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        let mut wrong = sessions().to_pb();
        wrong.committed_bps = u64::MAX;
        wrong.begun[0].session_id.pop();
        wrong.begun[0].content_id.pop();
        wrong.begun.push(v1::Begun { title: "../a".into(), session_id: vec![0; 16], ..v1::Begun::default() });
        wrong.ended[0].push(1);
        wrong.turned[0].limit_bps = u64::MAX;
        wrong.rates[0].session_id.push(0);
        wrong.rates.push(v1::RateChange { session_id: vec![0; 16], rate_bps: u64::MAX });
        let Err(Invalid(violations)) = Sessions::try_from(wrong) else { panic!("taken") };
        let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
        let expected = [
            "committed_bps",
            "begun[0].session_id",
            "begun[0].content_id",
            "begun[1].title",
            "ended[0]",
            "turned[0].limit_bps",
            "rates[0].session_id",
            "rates[1].rate_bps",
        ];
        assert_eq!(fields, expected);
        let many = v1::Sessions { ended: vec![Vec::new(); MAX_SETTLED + 1], ..v1::Sessions::default() };
        assert!(Sessions::try_from(many).is_err());
    }
}
