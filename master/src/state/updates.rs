//! What nodes tell of their load, taken under the lock: reports, sessions, presence, signs of life.

use std::sync::Arc;

use tokio::sync::oneshot;
use usher_proto::model::{Presence, Report, Sessions};

use super::{Inner, State, card, now};
use crate::{
    core::{Now, roster::Link},
    metrics::Reason,
};

/// Something that a node told.
pub(crate) enum NodeUpdate {
    /// Its report.
    Report(Link, Report),
    /// What happened to its sessions.
    Sessions(Link, Sessions),
    /// Where it can be reached, and whether it drains.
    Presence(Link, Presence),
    /// All before this has been applied when it is answered.
    Fence(oneshot::Sender<()>),
}

impl NodeUpdate {
    pub(crate) fn entries(&self) -> usize {
        match self {
            Self::Sessions(_, told) => 1 + told.begun.len() + told.ended.len() + told.turned.len(),
            Self::Report(..) | Self::Presence(..) | Self::Fence(_) => 1,
        }
    }
}

impl State {
    /// Takes what nodes told, in its order, under one hold of the lock.
    pub(crate) fn apply(&self, told: impl Iterator<Item = NodeUpdate>) {
        let mut inner = self.lock();
        let now = now();
        let mut fences = Vec::new();
        for one in told {
            match one {
                NodeUpdate::Report(link, report) => self.report(&mut inner, now, link, report),
                NodeUpdate::Sessions(link, sessions) => self.sessions(&mut inner, now, link, sessions),
                NodeUpdate::Presence(link, presence) => presence_of(&mut inner, now, link, presence),
                NodeUpdate::Fence(applied) => fences.push(applied),
            }
        }
        self.publish(&mut inner, now);
        self.carry(&mut inner, now);
        drop(inner);
        for applied in fences {
            // Who waited may have left.
            let _left = applied.send(());
        }
    }

    /// One that is old is left out.
    fn report(&self, inner: &mut Inner, now: Now, link: Link, report: Report) {
        let sequence = report.sequence;
        match inner.cluster.report(now, link, report) {
            Ok(()) => {
                self.metrics.report("taken");
                self.heard(inner, link);
            }
            Err(ignored) => {
                self.metrics.report("ignored");
                tracing::debug!(sequence, %ignored, "report ignored");
            }
        }
    }

    fn sessions(&self, inner: &mut Inner, now: Now, link: Link, sessions: Sessions) {
        let Some(channel) = inner.channels.get_mut(&link.node).filter(|channel| channel.link == link) else { return };
        channel.listing |= sessions.restart;
        if !channel.listing {
            self.metrics.begun.inc_by(sessions.begun.len() as u64);
        }
        channel.listing &= !sessions.complete;
        self.metrics.ended.inc_by(sessions.ended.len() as u64);
        for turned in &sessions.turned {
            self.metrics.turned.get_or_create(&Reason { reason: turned.code.reason() }).inc();
        }
        match inner.cluster.sessions(now, link, sessions) {
            Ok(()) => self.heard(inner, link),
            Err(ignored) => tracing::debug!(%ignored, "a node's word of its sessions ignored"),
        }
    }

    /// A node answered a probe.
    pub(crate) fn probed(&self, link: Link) {
        self.metrics.order("probe", "answered");
        let mut inner = self.lock();
        let now = now();
        inner.cluster.probed(now, link);
        self.heard(&mut inner, link);
        self.publish(&mut inner, now);
    }

    /// A sign of life of a node: who waits for it is told.
    pub(super) fn heard(&self, inner: &mut Inner, link: Link) {
        if inner.silent.remove(&link.node) {
            self.signs.send_replace(());
        }
    }
}

fn presence_of(inner: &mut Inner, now: Now, link: Link, presence: Presence) {
    inner.cluster.presence(now, link, presence);
    let hello = inner.cluster.roster().node(link.node).map(|node| node.hello.clone());
    if let Some((channel, hello)) = inner.channels.get_mut(&link.node).zip(hello)
        && channel.link == link
    {
        channel.card = Arc::new(card(&hello, channel.card.key.clone()));
    }
}
