//! Updates from nodes, applied under the lock: reports, sessions, presence and probe answers.

use std::sync::Arc;

use tokio::sync::oneshot;
use usher_proto::model::{Presence, Report, Sessions};

use super::{SharedState, StateInner, contact, now};
use crate::{
    core::{Now, roster::AttachmentId},
    metrics::ReasonLabel,
};

/// An update from a node.
pub(crate) enum NodeUpdate {
    /// A report.
    Report(AttachmentId, Report),
    /// Changes of its sessions.
    Sessions(AttachmentId, Sessions),
    /// Change of addresses or drain state.
    Presence(AttachmentId, Presence),
    /// Answered when all earlier updates have been applied.
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

impl SharedState {
    /// Applies updates in order under one hold of the lock.
    pub(crate) fn apply(&self, told: impl Iterator<Item = NodeUpdate>) {
        let mut inner = self.lock();
        let now = now();
        let mut fences = Vec::new();
        for one in told {
            match one {
                NodeUpdate::Report(attachment, report) => self.report(&mut inner, now, attachment, report),
                NodeUpdate::Sessions(attachment, sessions) => self.sessions(&mut inner, now, attachment, sessions),
                NodeUpdate::Presence(attachment, presence) => presence_of(&mut inner, now, attachment, presence),
                NodeUpdate::Fence(applied) => fences.push(applied),
            }
        }
        self.publish(&mut inner, now);
        self.send_orders(&mut inner, now);
        drop(inner);
        for applied in fences {
            // The waiting task may be gone.
            let _left = applied.send(());
        }
    }

    /// Applies a report; an outdated one is ignored.
    fn report(&self, inner: &mut StateInner, now: Now, attachment: AttachmentId, report: Report) {
        let sequence = report.sequence;
        match inner.cluster.handle_report(now, attachment, report) {
            Ok(()) => {
                self.metrics.report("taken");
                self.end_silence(inner, attachment);
            }
            Err(ignored) => {
                self.metrics.report("ignored");
                tracing::debug!(sequence, %ignored, "report ignored");
            }
        }
    }

    fn sessions(&self, inner: &mut StateInner, now: Now, attachment: AttachmentId, sessions: Sessions) {
        let Some(channel) = inner.channels.get_mut(&attachment.node).filter(|channel| channel.attachment == attachment)
        else {
            return;
        };
        channel.listing |= sessions.restart;
        if !channel.listing {
            self.metrics.begun.inc_by(sessions.begun.len() as u64);
        }
        channel.listing &= !sessions.complete;
        self.metrics.ended.inc_by(sessions.ended.len() as u64);
        for turned in &sessions.turned {
            self.metrics.sessions_refused.get_or_create(&ReasonLabel { reason: turned.code.reason() }).inc();
        }
        match inner.cluster.handle_sessions(now, attachment, sessions) {
            Ok(()) => self.end_silence(inner, attachment),
            Err(ignored) => tracing::debug!(%ignored, "session update ignored"),
        }
    }

    /// Handles the answer to a probe.
    pub(crate) fn probed(&self, attachment: AttachmentId) {
        self.metrics.order("probe", "answered");
        let mut inner = self.lock();
        let now = now();
        inner.cluster.handle_probe_answer(now, attachment);
        self.end_silence(&mut inner, attachment);
        self.publish(&mut inner, now);
    }

    /// Clears a node's pending probe and notifies waiting requests.
    pub(super) fn end_silence(&self, inner: &mut StateInner, attachment: AttachmentId) {
        if inner.silent.remove(&attachment.node) {
            self.signs.send_replace(());
        }
    }
}

fn presence_of(inner: &mut StateInner, now: Now, attachment: AttachmentId, presence: Presence) {
    inner.cluster.handle_presence(now, attachment, presence);
    let hello = inner.cluster.roster().node(attachment.node).map(|node| node.hello.clone());
    if let Some((channel, hello)) = inner.channels.get_mut(&attachment.node).zip(hello)
        && channel.attachment == attachment
    {
        channel.contact = Arc::new(contact(&hello, channel.contact.key.clone()));
    }
}
