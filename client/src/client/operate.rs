//! Calls for operators: the roster, explanations, draining and balancing. They serve the commands of `usher`; a program
//! that embeds the client does not need them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use usher_proto::{Code, ContentId, Fault, Title, pb::v1, units};

use super::Client;

impl Client {
    /// The roster.
    pub(crate) async fn nodes(&self) -> Result<Vec<v1::Node>, Fault> {
        self.retry_unavailable(|| self.connector.master.list_nodes()).await
    }

    /// One node with its history. [`Code::NotFound`] if the master does not know it.
    pub(crate) async fn node(&self, name: &str) -> Result<v1::GetNodeResponse, Fault> {
        self.retry_unavailable(|| self.connector.master.node(name.to_owned())).await
    }

    /// Why the master decides, or decided, as it does. [`Code::NotFound`] for a decision that it does not remember.
    pub(crate) async fn explain(&self, about: v1::explain_request::About) -> Result<v1::ExplainResponse, Fault> {
        self.retry_unavailable(|| self.connector.master.explain(about.clone())).await
    }

    /// Passes every node, then every change of a node, to `each` until it returns false or the stream ends.
    pub(crate) async fn watch(&self, mut each: impl FnMut(v1::WatchResponse) -> bool) -> Result<(), Fault> {
        let master = &self.connector.master;
        let mut changes = self.retry_unavailable(|| master.watch()).await?;
        while let Some(change) = changes.message().await.map_err(|status| master.fault(&status))? {
            if !each(change) {
                return Ok(());
            }
        }
        Err(Fault::new(Code::Network, format!("the master at {} ended the watch", master.address())))
    }

    /// Drains a node within `deadline`, and passes its progress to `each` until the node is empty or `each` returns false.
    /// `ordered` becomes true once the master has accepted the order; from then on the drain continues without this call.
    /// [`Code::NotFound`] for an unknown node, [`Code::Unavailable`] for one that cannot be reached.
    pub(crate) async fn drain(
        &self,
        node: &str,
        deadline: Duration,
        ordered: &AtomicBool,
        mut each: impl FnMut(v1::DrainResponse) -> bool,
    ) -> Result<(), Fault> {
        let master = &self.connector.master;
        let request = v1::DrainRequest { node: node.to_owned(), deadline_ms: units::millis(deadline) };
        let mut answers = self.retry_unreachable(|| master.drain(request.clone())).await?;
        ordered.store(true, Ordering::Relaxed);
        while let Some(answer) = answers.message().await.map_err(|status| master.fault(&status))? {
            if !each(answer) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The viewers with sessions.
    pub(crate) async fn viewers(&self) -> Result<Vec<v1::Viewer>, Fault> {
        self.retry_unreachable(|| self.connector.master.list_viewers()).await
    }

    /// Revokes the tokens of a viewer, or one token; with `now` also ends its sessions. Returns their number.
    pub(crate) async fn revoke_viewer(&self, name: &str, now: bool) -> Result<u32, Fault> {
        let request = v1::RevokeViewerRequest { name: name.to_owned(), now };
        self.retry_unreachable(|| self.connector.master.revoke_viewer(request.clone())).await
    }

    /// Ends a drain: the node receives sessions again. Errors as [`Client::drain`].
    pub(crate) async fn undrain(&self, node: &str) -> Result<(), Fault> {
        self.retry_unreachable(|| self.connector.master.undrain(node.to_owned())).await
    }

    /// Titles with more than one content, and whether there are more.
    pub(crate) async fn conflicts(&self) -> Result<v1::ListConflictsResponse, Fault> {
        self.retry_unreachable(|| self.connector.master.conflicts()).await
    }

    /// Makes a content the one that requests for a title get. [`Code::NotFound`] if no node holds it.
    pub(crate) async fn resolve_conflict(&self, title: &Title, content: ContentId) -> Result<(), Fault> {
        let request = || v1::ResolveConflictRequest { title: title.to_string(), content_id: content.to_string() };
        self.retry_unreachable(|| self.connector.master.resolve_conflict(request())).await
    }

    /// Balances load by at most `most` moves; with `dry_run` only plans them.
    pub(crate) async fn rebalance(&self, most: u32, dry_run: bool) -> Result<Vec<v1::PlannedMove>, Fault> {
        self.retry_unreachable(|| self.connector.master.rebalance(v1::RebalanceRequest { dry_run, most })).await
    }
}
