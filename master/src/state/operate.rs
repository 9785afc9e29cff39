//! Orders of operators: drains with their progress, and rebalancing. The core makes the moves, and the node keeps the
//! deadline.

use std::time::{Duration, Instant};

use tracing::info;
use usher_proto::{
    BootId, Fault, NodeName,
    code::Code,
    pb::v1::{self, attach_response::Body},
    units,
};

use super::{SharedState, StateInner, now};
use crate::core::{NodeId, moves::SessionMove, roster::Node};

/// Time that a node has to confirm an order.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// A drain that an operator follows.
pub(crate) struct DrainProgress {
    name: NodeName,
    node: NodeId,
    boot: BootId,
    ordered: Instant,
    /// Number of drains that the node had started before.
    drains: u32,
    /// Time at which the node was first seen draining.
    confirmed: Option<Instant>,
    /// Requested deadline.
    deadline: Duration,
}

impl SharedState {
    /// Orders a node to drain. Returns the drain and its initial state.
    pub(crate) fn drain(
        &self,
        name: &NodeName,
        deadline: Duration,
    ) -> Result<(DrainProgress, v1::DrainResponse), Fault> {
        let mut inner = self.lock();
        let now = now();
        let deadline_ms = units::millis(deadline);
        let (node, boot) = inner.order(name, Body::Drain(v1::Drain { deadline_ms }))?;
        let only_here = inner.cluster.only_held_by(now, node).into_iter().map(|(key, sessions)| {
            let title = key.and_then(|key| inner.cluster.described(key)).map(|facts| facts.title.to_string());
            v1::OnlyHere { title: title.unwrap_or_default(), sessions: count(sessions) }
        });
        let mut only_here: Vec<v1::OnlyHere> = only_here.collect();
        only_here.sort_unstable_by(|a, b| b.sessions.cmp(&a.sessions).then_with(|| a.title.cmp(&b.title)));
        let sessions = inner.cluster.ledger().running(node);
        info!(node = %name, sessions, seconds = deadline.as_secs(), only_here = only_here.len(), "drain ordered");
        let first =
            v1::DrainResponse { sessions: count(sessions), left_ms: deadline_ms, only_here, ..Default::default() };
        let name = name.clone();
        let drains = inner.cluster.roster().node(node).map_or(0, |node| node.drains);
        Ok((DrainProgress { name, node, boot, ordered: now.instant, drains, confirmed: None, deadline }, first))
    }

    /// Returns the progress of a drain. The last answer has `empty` or `ended` set.
    pub(crate) fn drained(&self, followed: &mut DrainProgress) -> v1::DrainResponse {
        let inner = self.lock();
        let now = now();
        let sessions = inner.cluster.ledger().running(followed.node);
        let mut progress = v1::DrainResponse { sessions: count(sessions), ..Default::default() };
        let name = &followed.name;
        let same = |node: &&Node| node.attached() && node.hello.boot == followed.boot;
        let Some(node) = inner.cluster.roster().node(followed.node).filter(same) else {
            progress.ended = format!("node `{name}` left the cluster; see `usher nodes`");
            return progress;
        };
        // The drain may have started and ended between two checks.
        let began = followed.confirmed.or_else(|| (node.drains > followed.drains).then_some(now.instant));
        match (node.hello.presence.draining, began) {
            (true, confirmed) => {
                let confirmed = confirmed.unwrap_or(now.instant);
                followed.confirmed = Some(confirmed);
                let left = inner.cluster.drain_left(now, followed.node);
                progress.left_ms = units::millis(left);
                // The update of a session started just before the drain may still be queued; a report does not overtake
                // it.
                let reported = node.reported_at.is_some_and(|at| at > confirmed);
                progress.empty = sessions == 0 && reported && node.report.sessions == 0;
            }
            (false, Some(_)) => {
                progress.ended = format!("node `{name}` accepts sessions again: its drain was cancelled")
            }
            (false, None) => {
                let waited = now.instant.saturating_duration_since(followed.ordered);
                let left = followed.deadline.saturating_sub(waited);
                progress.left_ms = units::millis(left);
                if waited >= CONFIRM_TIMEOUT {
                    progress.ended =
                        format!("node `{name}` did not start to drain; its version may be older than the master's");
                }
            }
        }
        progress
    }

    /// Orders a node to accept sessions again, and waits until it does.
    pub(crate) async fn undrain(&self, name: &NodeName) -> Result<(), Fault> {
        let mut events = self.events.subscribe();
        let (node, _) = self.lock().order(name, Body::Undrain(v1::Undrain {}))?;
        info!(node = %name, "undrain ordered");
        let until = Instant::now() + CONFIRM_TIMEOUT;
        while self.is_draining(node) {
            // After any event, or a missed one, check the roster again.
            if tokio::time::timeout_at(until.into(), events.recv()).await.is_err() {
                let text = format!("node `{name}` is still draining: it is shutting down, or not reading its channel");
                return Err(Fault::new(Code::Unavailable, text));
            }
        }
        Ok(())
    }

    fn is_draining(&self, node: NodeId) -> bool {
        let inner = self.lock();
        inner.cluster.roster().node(node).is_some_and(|node| node.attached() && node.hello.presence.draining)
    }

    /// Levels the load with up to `most` moves. Returns them; with `dry_run` none is started.
    pub(crate) fn rebalance(&self, most: usize, dry_run: bool) -> Vec<v1::PlannedMove> {
        let mut inner = self.lock();
        let now = now();
        let steps = inner.cluster.rebalance(now, most, &mut rand::rng());
        let moves = steps.iter().map(|step| inner.planned(step)).collect();
        if !dry_run {
            info!(moves = steps.len(), "rebalance ordered");
            inner.cluster.order_moves(now, &steps);
        }
        moves
    }
}

impl StateInner {
    /// Sends an order to a node by name. Returns its number and process.
    fn order(&self, name: &NodeName, order: Body) -> Result<(NodeId, BootId), Fault> {
        let roster = self.cluster.roster();
        let known = roster.id(name).and_then(|id| Some((id, roster.node(id)?)));
        let (id, node) = known.ok_or_else(|| unknown_node(name))?;
        if !node.attached() {
            let text = format!("node `{name}` is not attached and cannot receive orders; start it, or check its log");
            return Err(Fault::new(Code::Unavailable, text));
        }
        if !self.send(id, order) {
            return Err(Fault::new(Code::Unavailable, format!("node `{name}` is not reading its channel; try again")));
        }
        Ok((id, node.hello.boot))
    }

    fn planned(&self, step: &SessionMove) -> v1::PlannedMove {
        let key = self.cluster.ledger().content(step.session);
        let title = key.and_then(|key| self.cluster.described(key)).map(|facts| facts.title.to_string());
        v1::PlannedMove {
            session_id: step.session.to_string(),
            title: title.unwrap_or_default(),
            from: self.node_name(step.from),
            to: self.node_name(step.to),
            rate_bps: step.rate,
        }
    }
}

/// The refusal of a call that names an unknown node.
pub(crate) fn unknown_node(name: &NodeName) -> Fault {
    Fault::new(Code::NotFound, format!("no node `{name}` is known; `usher nodes` lists all nodes"))
}

fn count(sessions: usize) -> u32 {
    u32::try_from(sessions).unwrap_or(u32::MAX)
}
