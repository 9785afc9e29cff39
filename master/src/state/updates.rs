//! Updates from nodes, applied under the lock: reports, sessions, presence and probe answers.

use std::time::Duration;

use tokio::sync::oneshot;
use usher_proto::model::{Presence, Report, Sessions};

use super::{SharedState, StateInner, now};
use crate::{
    core::{Now, roster::AttachmentId},
    metrics::ReasonLabel,
};

/// Time between two log lines about sessions that a node invented.
const NOTED: Duration = Duration::from_secs(60);

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
            Self::Sessions(_, sessions) => {
                1 + sessions.begun.len() + sessions.ended.len() + sessions.turned.len() + sessions.rates.len()
            }
            Self::Report(..) | Self::Presence(..) | Self::Fence(_) => 1,
        }
    }
}

impl SharedState {
    /// Applies updates in order under one hold of the lock.
    pub(crate) fn apply(&self, updates: impl Iterator<Item = NodeUpdate>) {
        let mut inner = self.lock();
        let now = now();
        let mut fences = Vec::new();
        for update in updates {
            match update {
                NodeUpdate::Report(attachment, report) => self.report(&mut inner, now, attachment, report),
                NodeUpdate::Sessions(attachment, sessions) => self.sessions(&mut inner, now, attachment, sessions),
                NodeUpdate::Presence(attachment, presence) => {
                    inner.cluster.handle_presence(now, attachment, presence);
                    inner.refresh_contact(attachment);
                }
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
                self.clear_probe(inner, attachment);
            }
            Err(ignored) => {
                self.metrics.report("ignored");
                tracing::debug!(node = %inner.node_name(attachment.node), sequence, error = %ignored, "report ignored");
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
            Ok(invented) => {
                self.clear_probe(inner, attachment);
                self.note_invented(inner, now, attachment, invented);
            }
            Err(ignored) => {
                tracing::debug!(node = %inner.node_name(attachment.node), error = %ignored, "session update ignored")
            }
        }
    }

    /// Counts reported sessions that this cluster did not issue; logs them once a minute and node.
    fn note_invented(&self, inner: &mut StateInner, now: Now, attachment: AttachmentId, invented: usize) {
        if invented == 0 {
            return;
        }
        self.metrics.invented.inc_by(invented as u64);
        let node = inner.node_name(attachment.node);
        let Some(channel) = inner.channels.get_mut(&attachment.node) else { return };
        if channel.noted.is_none_or(|at| now.instant.saturating_duration_since(at) >= NOTED) {
            channel.noted = Some(now.instant);
            tracing::warn!(
                node,
                sessions = invented,
                "node reports sessions that this cluster did not issue; they are ignored"
            );
        }
    }

    /// Handles the answer to a probe.
    pub(crate) fn probed(&self, attachment: AttachmentId) {
        self.metrics.order("probe", "answered");
        let mut inner = self.lock();
        let now = now();
        inner.cluster.handle_probe_answer(now, attachment);
        self.clear_probe(&mut inner, attachment);
        self.publish(&mut inner, now);
    }

    /// Clears a node's pending probe and notifies waiting requests.
    pub(super) fn clear_probe(&self, inner: &mut StateInner, attachment: AttachmentId) {
        if inner.probed.remove(&attachment.node) {
            self.probe_answers.send_replace(());
        }
    }
}
