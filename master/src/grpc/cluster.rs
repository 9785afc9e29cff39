//! `usher.v1.Cluster`: shows the roster and its changes, and takes orders of operators.

use std::{sync::Arc, time::Duration};

use futures::stream::BoxStream;
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use usher_certs::Role;
use usher_proto::{
    Fault, NodeName, Title,
    code::Code,
    id::IdError,
    model::{Invalid, Resolve},
    pb::v1::{self, cluster_server::Cluster},
};

use super::{
    access::{Caller, for_purpose},
    peer, request_id,
};
use crate::{
    calls::{CallBudgets, Charge},
    core::{balancer::RETRY, journal::KEPT},
    settings::ClusterAccess,
    state::{DrainProgress, SharedState, now, unknown_node},
    viewers::Viewers,
};

/// Changes buffered per watcher; the rest stay in the shared ring.
const TO_WATCHER: usize = 16;

/// Bytes of a node in an answer, about.
const NODE_BYTES: u64 = 2 << 10;

/// Default deadline of a drain.
const DEFAULT_DRAIN: Duration = Duration::from_secs(60);

/// See `DrainRequest` in `cluster.proto`.
const MAX_DRAIN: Duration = Duration::from_secs(24 * 3600);

/// Interval between checks of a drain, equal to that between its moves.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Interval between updates to the follower of a drain without progress.
const UPDATE_INTERVAL: Duration = Duration::from_secs(1);

/// Default and highest number of moves of a rebalance: at 16 a second, the limit takes ten minutes.
const DEFAULT_MOVES: usize = 100;

/// Conflicts of one answer; see `ListConflictsResponse`.
const MAX_CONFLICTS: usize = 1000;

/// Longest name of a viewer or token; OpenID Connect allows 255 bytes for a subject.
const MAX_VIEWER_NAME: usize = 255;

/// See [`DEFAULT_MOVES`].
const MAX_MOVES: usize = 10_000;

pub(crate) struct ClusterService {
    state: Arc<SharedState>,
    viewers: Arc<Viewers>,
    access: ClusterAccess,
    budgets: Arc<CallBudgets>,
    ending: CancellationToken,
}

impl ClusterService {
    /// Its streams end when `ending` is cancelled.
    pub(crate) fn new(
        state: Arc<SharedState>,
        viewers: Arc<Viewers>,
        access: ClusterAccess,
        budgets: Arc<CallBudgets>,
        ending: CancellationToken,
    ) -> Self {
        Self { state, viewers, access, budgets, ending }
    }

    /// Charges the roster, which an answer holds until its client has read it.
    fn charge<T>(&self, request: &Request<T>) -> Result<Charge, Status> {
        let bytes = (self.state.roster_len() as u64).saturating_mul(NODE_BYTES);
        Ok(self.budgets.charge(peer::peer(request)?.as_ref(), bytes)?)
    }

    fn allow<T>(&self, request: &Request<T>) -> Result<(), Status> {
        match self.access {
            ClusterAccess::Open => Ok(()),
            ClusterAccess::Admin => operator(request),
        }
    }
}

/// Calls that change the cluster are for operators only, whatever the access setting.
fn operator<T>(request: &Request<T>) -> Result<(), Status> {
    peer::require(request, Role::Admin).map(|_name| ())
}

fn node_name(field: &str, name: &str) -> Result<NodeName, Status> {
    NodeName::parse(name).map_err(|error| Invalid::one(field, error).to_status())
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    type WatchStream = BoxStream<'static, Result<v1::WatchResponse, Status>>;
    type DrainStream = BoxStream<'static, Result<v1::DrainResponse, Status>>;

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<Self::DrainStream>, Status> {
        operator(&request)?;
        let v1::DrainRequest { node, deadline_ms } = request.into_inner();
        let name = node_name("node", &node)?;
        let deadline = if deadline_ms == 0 { DEFAULT_DRAIN } else { Duration::from_millis(deadline_ms) };
        if deadline > MAX_DRAIN {
            let rule = format!("at most a day, {} ms; not {deadline_ms}", MAX_DRAIN.as_millis());
            return Err(Invalid::one("deadline_ms", rule).to_status());
        }
        let (drain, first) = self.state.drain(&name, deadline)?;
        let (sender, receiver) = mpsc::channel(TO_WATCHER);
        tokio::spawn(follow(Arc::clone(&self.state), drain, first, sender, self.ending.clone()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn undrain(&self, request: Request<v1::UndrainRequest>) -> Result<Response<v1::UndrainResponse>, Status> {
        operator(&request)?;
        let name = node_name("node", &request.into_inner().node)?;
        self.state.undrain(&name).await?;
        Ok(Response::new(v1::UndrainResponse {}))
    }

    async fn rebalance(
        &self,
        request: Request<v1::RebalanceRequest>,
    ) -> Result<Response<v1::RebalanceResponse>, Status> {
        operator(&request)?;
        let v1::RebalanceRequest { dry_run, most } = request.into_inner();
        let most = if most == 0 { DEFAULT_MOVES } else { most as usize };
        let moves = self.state.rebalance(most.min(MAX_MOVES), dry_run);
        Ok(Response::new(v1::RebalanceResponse { moves }))
    }

    async fn list_conflicts(
        &self,
        request: Request<v1::ListConflictsRequest>,
    ) -> Result<Response<v1::ListConflictsResponse>, Status> {
        operator(&request)?;
        let (conflicts, more) = self.state.conflicts(MAX_CONFLICTS);
        Ok(Response::new(v1::ListConflictsResponse { conflicts, more }))
    }

    async fn resolve_conflict(
        &self,
        request: Request<v1::ResolveConflictRequest>,
    ) -> Result<Response<v1::ResolveConflictResponse>, Status> {
        operator(&request)?;
        let v1::ResolveConflictRequest { title, content_id } = request.into_inner();
        let title = Title::parse(&title).map_err(|error| Invalid::one("title", error).to_status())?;
        let content = content_id.parse().map_err(|error: IdError| Invalid::one("content_id", error).to_status())?;
        self.state.resolve_conflict(&title, content)?;
        Ok(Response::new(v1::ResolveConflictResponse {}))
    }

    async fn list_viewers(
        &self,
        request: Request<v1::ListViewersRequest>,
    ) -> Result<Response<v1::ListViewersResponse>, Status> {
        operator(&request)?;
        Ok(Response::new(v1::ListViewersResponse { viewers: self.state.viewers() }))
    }

    async fn revoke_viewer(
        &self,
        request: Request<v1::RevokeViewerRequest>,
    ) -> Result<Response<v1::RevokeViewerResponse>, Status> {
        operator(&request)?;
        let v1::RevokeViewerRequest { name, now: end } = request.into_inner();
        if !(1..=MAX_VIEWER_NAME).contains(&name.len()) {
            return Err(Invalid::one("name", format!("1 to {MAX_VIEWER_NAME} bytes")).to_status());
        }
        let viewers = Arc::clone(&self.viewers);
        let revoke = move || viewers.revoke(now().unix_ms / 1000, &name);
        let revoked = tokio::task::spawn_blocking(revoke).await.unwrap_or_else(|error| Err(error.into()));
        let (viewers, tokens) =
            revoked.map_err(|error| Fault::new(Code::Internal, format!("not revoked: {error:#}")).to_status())?;
        let sessions = self.state.revoked(&viewers, &tokens, end);
        Ok(Response::new(v1::RevokeViewerResponse { sessions: u32::try_from(sessions).unwrap_or(u32::MAX) }))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        self.allow(&request)?;
        let charge = self.charge(&request)?;
        Ok(charge.with(v1::ListNodesResponse { nodes: self.state.nodes() }))
    }

    async fn get_node(&self, request: Request<v1::GetNodeRequest>) -> Result<Response<v1::GetNodeResponse>, Status> {
        self.allow(&request)?;
        let name = node_name("name", &request.into_inner().name)?;
        self.state.node(&name).map(Response::new).ok_or_else(|| unknown_node(&name).to_status())
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainResponse>, Status> {
        use v1::explain_request::About;
        self.allow(&request)?;
        let caller = Caller::of(&self.viewers, &request)?;
        let explained = match request.into_inner().about {
            Some(About::Request(request)) => {
                let resolve = Resolve::try_from(request)?;
                caller.require(for_purpose(resolve.purpose), &resolve.what)?;
                self.state.explain(&resolve, caller.viewer()).map_err(|refused| Fault::from(&refused).to_status())?
            }
            Some(About::RequestId(id)) => {
                let rule = "expected a request id, 1 to 64 of a-z, A-Z, 0-9 and -_.; with /2 for the third request of a \
                            ResolveMany";
                let (call, at) = request_id::parse(&id).ok_or_else(|| Invalid::one("request_id", rule).to_status())?;
                let unknown = || {
                    let text = format!(
                        "no decision `{id}` is recorded: this master keeps the last {KEPT} since its start; `usher explain \
                         TITLE` shows the current choice"
                    );
                    Fault::new(Code::NotFound, text).to_status()
                };
                let past = self.state.past_decision(request_id::tag(call, at), &id);
                let seen = |past: &v1::ExplainResponse| caller.rights().is_none_or(|rights| rights.covers(&past.what));
                past.filter(seen).ok_or_else(unknown)?
            }
            None => return Err(Invalid::one("about", "name a request or a request_id").to_status()),
        };
        Ok(Response::new(explained))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.allow(&request)?;
        let charge = self.charge(&request)?;
        let (sender, receiver) = mpsc::channel(TO_WATCHER);
        tokio::spawn(watch(Arc::clone(&self.state), sender, self.ending.clone()));
        Ok(charge.with(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Sends one watcher the roster, then each change. A watcher that falls too far behind receives the whole roster again.
async fn watch(
    state: Arc<SharedState>,
    sender: mpsc::Sender<Result<v1::WatchResponse, Status>>,
    ending: CancellationToken,
) {
    let send = async {
        'roster: loop {
            let (nodes, mut changes) = state.watch();
            for node in nodes {
                if sender.send(Ok(node)).await.is_err() {
                    return;
                }
            }
            loop {
                let change = match changes.recv().await {
                    Ok(change) => change,
                    Err(RecvError::Lagged(_)) => continue 'roster,
                    Err(RecvError::Closed) => return,
                };
                if sender.send(Ok(change)).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        // In this order: the nodes' channels end with the master as well, and their state `gone` must not be sent then.
        biased;
        () = ending.cancelled() => {
            // Best effort: a watcher with a full queue sees the end of the stream all the same.
            let _full = sender.try_send(Err(Fault::new(Code::Unavailable, "the master is shutting down").after(RETRY).to_status()));
        }
        () = sender.closed() => {}
        () = send => {}
    }
}

/// Sends one operator the progress of a drain until it ends. The drain continues without the operator and without the
/// master.
async fn follow(
    state: Arc<SharedState>,
    mut drain: DrainProgress,
    first: v1::DrainResponse,
    sender: mpsc::Sender<Result<v1::DrainResponse, Status>>,
    ending: CancellationToken,
) {
    let send = async {
        let mut looks = tokio::time::interval(CHECK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last_sessions, mut at) = (first.sessions, Instant::now());
        if sender.send(Ok(first)).await.is_err() {
            return;
        }
        loop {
            looks.tick().await;
            let progress = state.drained(&mut drain);
            let over = progress.empty || !progress.ended.is_empty();
            if over || progress.sessions != last_sessions || at.elapsed() >= UPDATE_INTERVAL {
                (last_sessions, at) = (progress.sessions, Instant::now());
                if sender.send(Ok(progress)).await.is_err() || over {
                    return;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = ending.cancelled() => {
            // Best effort: a caller with a full queue sees the end of the stream all the same.
            let text = "the master is shutting down; the drain continues";
            let _full = sender.try_send(Err(Fault::new(Code::Unavailable, text).to_status()));
        }
        () = sender.closed() => {}
        () = send => {}
    }
}
