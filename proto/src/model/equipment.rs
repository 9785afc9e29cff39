//! The capabilities of a node and the requirements of a request, validated and compared.

use super::invalid::{Check, Invalid};
use crate::{
    pb::v1,
    units::{Bitrate, MAX_RATE},
};

/// Most labels, or protocols, of one node or request.
pub const MAX_LABELS: usize = 32;

/// The protocol that is meant when none is named.
pub const PROTOCOL: &str = "usher/1";

/// Capabilities of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Equipment {
    /// Supported protocols; an empty list means [`PROTOCOL`].
    pub protocols: Vec<String>,
    /// The operator's labels.
    pub labels: Vec<String>,
    /// Whether the node ingests feeds.
    pub live_ingest: bool,
    /// Whether the node records feeds as titles.
    pub records: bool,
    /// The highest rate of one session, if below its capacity.
    pub max_session: Option<Bitrate>,
}

/// Requirements of a request; every node meets the default ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// `None` means [`PROTOCOL`].
    pub protocol: Option<String>,
    /// Labels that the node must have, all of them.
    pub labels: Vec<String>,
    /// Whether the node must ingest feeds.
    pub live_ingest: bool,
    /// Whether the node must record feeds as titles.
    pub records: bool,
}

impl Equipment {
    /// The first requirement that the node does not meet; `None` when it meets all. The rate is compared elsewhere, with the
    /// capacity.
    pub fn lacks<'a>(&self, needs: &'a Requirements) -> Option<Lack<'a>> {
        let protocol = needs.protocol.as_deref().unwrap_or(PROTOCOL);
        let speaks = self.protocols.iter().any(|one| one == protocol);
        if !(speaks || self.protocols.is_empty() && protocol == PROTOCOL) {
            return Some(Lack::Protocol(protocol));
        }
        if let Some(label) = needs.labels.iter().find(|label| !self.labels.contains(label)) {
            return Some(Lack::Label(label));
        }
        if needs.live_ingest && !self.live_ingest {
            return Some(Lack::LiveIngest);
        }
        (needs.records && !self.records).then_some(Lack::Records)
    }
}

/// A requirement that a node does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lack<'a> {
    /// It does not support this protocol.
    #[error("does not support protocol {0}")]
    Protocol(&'a str),
    /// It does not have this label.
    #[error("has no label `{0}`")]
    Label(&'a str),
    /// It does not ingest feeds.
    #[error("does not ingest live feeds")]
    LiveIngest,
    /// It does not record feeds.
    #[error("does not record live feeds")]
    Records,
}

fn label(text: &str) -> Result<String, &'static str> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b'=' | b':');
    if (1..=63).contains(&text.len()) && text.bytes().all(good) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 63 of a-z, A-Z, 0-9 and -_./=:")
    }
}

fn labels(check: &mut Check, field: &str, list: &[String]) -> Vec<String> {
    check.require(list.len() <= MAX_LABELS, field, || format!("at most {MAX_LABELS}, not {}", list.len()));
    let list = list.iter().take(MAX_LABELS).enumerate();
    list.filter_map(|(i, text)| check.take(&format!("{field}[{i}]"), label(text))).collect()
}

impl TryFrom<v1::Equipment> for Equipment {
    type Error = Invalid;

    fn try_from(equipment: v1::Equipment) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let protocols = labels(&mut check, "protocols", &equipment.protocols);
        let labels = labels(&mut check, "labels", &equipment.labels);
        let max = equipment.max_session_bps;
        check.require(max <= MAX_RATE, "max_session_bps", || format!("at most {MAX_RATE} bit/s"));
        let max_session = (max > 0).then_some(Bitrate(max));
        check.done(Some(Self {
            protocols,
            labels,
            live_ingest: equipment.live_ingest,
            records: equipment.records,
            max_session,
        }))
    }
}

impl Equipment {
    /// As a message.
    pub fn to_pb(&self) -> v1::Equipment {
        v1::Equipment {
            protocols: self.protocols.clone(),
            labels: self.labels.clone(),
            live_ingest: self.live_ingest,
            records: self.records,
            max_session_bps: self.max_session.map_or(0, |rate| rate.0),
        }
    }
}

impl TryFrom<v1::Requirements> for Requirements {
    type Error = Invalid;

    fn try_from(needs: v1::Requirements) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let named = !needs.protocol.is_empty();
        let protocol = if named { check.take("protocol", label(&needs.protocol)) } else { None };
        let labels = labels(&mut check, "labels", &needs.labels);
        check.done(Some(Self { protocol, labels, live_ingest: needs.live_ingest, records: needs.records }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_missing_capability_is_named() {
        let plain = Equipment::default();
        assert_eq!(plain.lacks(&Requirements::default()), None);
        let needs = Requirements { protocol: Some("moq/1".into()), ..Requirements::default() };
        assert_eq!(plain.lacks(&needs), Some(Lack::Protocol("moq/1")));
        let rich = Equipment {
            protocols: vec!["moq/1".into()],
            labels: vec!["gpu".into()],
            live_ingest: true,
            ..Equipment::default()
        };
        assert_eq!(rich.lacks(&needs), None);
        assert_eq!(rich.lacks(&Requirements::default()), Some(Lack::Protocol(PROTOCOL)), "it lists its protocols");
        let needs = Requirements { labels: vec!["gpu".into(), "ssd".into()], live_ingest: true, ..needs };
        assert_eq!(rich.lacks(&needs), Some(Lack::Label("ssd")));
        let needs = Requirements { live_ingest: true, ..Requirements::default() };
        assert_eq!(plain.lacks(&needs).map(|lack| lack.to_string()).as_deref(), Some("does not ingest live feeds"));
    }

    #[test]
    fn labels_are_bounded() {
        for labels in [vec!["a b".into()], vec![String::new()], vec!["x".into(); 33], vec!["x".repeat(64)]] {
            assert!(Equipment::try_from(v1::Equipment { labels, ..v1::Equipment::default() }).is_err());
        }
        let good = v1::Equipment {
            protocols: vec!["usher/1".into()],
            labels: vec!["isp=north".into()],
            live_ingest: true,
            records: true,
            max_session_bps: 5,
        };
        assert_eq!(Equipment::try_from(good.clone()).expect("valid").to_pb(), good);
    }
}
