//! The calls of one connection: each is charged to its caller until its answer is sent, is limited in the bytes of its request
//! and in the time until its answer begins, and carries the caller to the services. Knows no service but by the path of
//! its calls.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::http::{Request, Response};
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Limited};
use hyper::{body::Incoming, service::Service};
use hyper_util::service::TowerToHyperService;
use tokio::{sync::watch, time::timeout};
use tonic::{
    body::Body,
    service::Routes,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use usher_budget::{Permit, Permits, Shares};
use usher_proto::{Fault, code::Code};

use crate::{
    metrics::Metrics,
    peer::{BudgetHolder, Peer},
};

/// Standing streams of all clients without a certificate together, and of all with one.
const STREAMS: u64 = 256;

/// Time until an answer begins. A brokered request that asks every node it may ask takes less.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Largest request but for `ResolveMany`: the longest title, and lists of excluded and failed nodes.
const SMALL_REQUEST: usize = 48 << 10;

/// Charge of a usual call in bytes: its headers, its request and its answer.
const SMALL_CALL: u64 = 64 << 10;

/// Largest charge of a call; anybody may have as much while there is any.
const LARGEST_CALL: u64 = 6 << 20;

/// Limits and charges of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CallCost {
    /// Limit of its request in bytes; `None` for the channel of a node.
    request: Option<usize>,
    /// Bytes of memory that it is charged for.
    memory: u64,
    /// Whether it stands open until its caller leaves.
    standing: bool,
}

/// The costs of a call by its path, `/PACKAGE.SERVICE/METHOD`.
fn cost(path: &str) -> CallCost {
    let small = CallCost { request: Some(SMALL_REQUEST), memory: SMALL_CALL, standing: false };
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    match (service, method) {
        // It needs a node's certificate, and one node has one.
        ("usher.v1.Registry", "Attach") => CallCost { request: None, memory: 0, standing: false },
        // The request twice, as bytes and as messages, and the answers.
        ("usher.v1.Tickets", "ResolveMany") => {
            CallCost { request: Some(crate::grpc::CLIENT_MESSAGE), memory: LARGEST_CALL, standing: false }
        }
        (_, "Watch" | "Drain" | "ServerReflectionInfo") => CallCost { standing: true, ..small },
        _ => small,
    }
}

/// Budgets of calls. Clients with a certificate have their own.
pub(crate) struct CallBudgets {
    anonymous: CallBudget,
    named: CallBudget,
    metrics: Arc<Metrics>,
}

struct CallBudget {
    memory: Permits<BudgetHolder>,
    streams: Permits<BudgetHolder>,
}

impl CallBudget {
    fn new(memory: u64) -> Self {
        let memory = Shares::new(memory).with_floor(LARGEST_CALL);
        Self { memory: Permits::new(memory), streams: Permits::new(Shares::new(STREAMS)) }
    }
}

/// Memory charged to a caller; an answer that carries it as an extension holds it until it is sent.
#[derive(Clone)]
pub(crate) struct Charge {
    _permit: Arc<Permit<BudgetHolder>>,
}

impl Charge {
    /// An answer that holds the charge until it is sent.
    pub(crate) fn with<T>(self, message: T) -> tonic::Response<T> {
        let mut response = tonic::Response::new(message);
        response.extensions_mut().insert(self);
        response
    }
}

impl CallBudgets {
    /// Budgets of `memory` bytes, a quarter of them for clients with a certificate.
    pub(crate) fn new(memory: u64, metrics: Arc<Metrics>) -> Self {
        let named = memory / 4;
        Self { anonymous: CallBudget::new(memory - named), named: CallBudget::new(named), metrics }
    }

    /// Charges bytes to a caller beside what each call is charged.
    pub(crate) fn charge(&self, peer: &Peer, bytes: u64) -> Result<Charge, Fault> {
        let permit = self.memory(&peer.holder(), bytes.min(LARGEST_CALL))?;
        Ok(Charge { _permit: Arc::new(permit) })
    }

    fn memory(&self, holder: &BudgetHolder, bytes: u64) -> Result<Permit<BudgetHolder>, Fault> {
        let permit = self.budget(holder).memory.take(holder.clone(), bytes);
        permit.map_err(|_| self.metrics.refusals.fault("call_memory", holder))
    }

    fn stream(&self, holder: &BudgetHolder) -> Result<Permit<BudgetHolder>, Fault> {
        let permit = self.budget(holder).streams.take(holder.clone(), 1);
        permit.map_err(|_| self.metrics.refusals.fault("standing_streams", holder))
    }

    fn budget(&self, holder: &BudgetHolder) -> &CallBudget {
        match holder {
            BudgetHolder::Named(_) => &self.named,
            BudgetHolder::Network(_) | BudgetHolder::Viewer(_) => &self.anonymous,
        }
    }
}

/// The services for one connection.
#[derive(Clone)]
pub(crate) struct CallService {
    routes: TowerToHyperService<Routes>,
    budgets: Arc<CallBudgets>,
    peer: Arc<Peer>,
    tls: TlsConnectInfo<TcpConnectInfo>,
    /// Number of running calls.
    running: watch::Sender<usize>,
}

/// Counts a running call for its lifetime.
struct RunningCall(watch::Sender<usize>);

impl RunningCall {
    fn new(running: &watch::Sender<usize>) -> Self {
        running.send_modify(|running| *running += 1);
        Self(running.clone())
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

impl CallService {
    pub(crate) fn new(
        routes: Routes,
        budgets: Arc<CallBudgets>,
        peer: Arc<Peer>,
        tls: TlsConnectInfo<TcpConnectInfo>,
        running: watch::Sender<usize>,
    ) -> Self {
        Self { routes: TowerToHyperService::new(routes), budgets, peer, tls, running }
    }

    async fn answer(self, mut request: Request<Incoming>, running: RunningCall) -> Result<Response<Body>, Fault> {
        let cost = cost(request.uri().path());
        let holder = self.peer.holder();
        let memory = self.budgets.memory(&holder, cost.memory)?;
        let stream = if cost.standing { Some(self.budgets.stream(&holder)?) } else { None };
        request.extensions_mut().insert(self.tls);
        request.extensions_mut().insert(self.peer);
        let request = request.map(|body| match cost.request {
            Some(limit) => Body::new(Limited::new(body, limit)),
            None => Body::new(body),
        });
        let late = |_| Fault::new(Code::Timeout, format!("no answer within {} s", ANSWER_TIME.as_secs()));
        let Ok(mut response) = timeout(ANSWER_TIME, self.routes.call(request)).await.map_err(late)?;
        let charge = response.extensions_mut().remove::<Charge>();
        let held = (running, memory, stream, charge);
        Ok(response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _until_dropped = &held;
                frame
            }))
        }))
    }
}

impl Service<Request<Incoming>> for CallService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let running = RunningCall::new(&self.running);
        let answer = self.clone().answer(request, running);
        Box::pin(async move { Ok(answer.await.unwrap_or_else(|fault| fault.to_status().into_http())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_by_path() {
        let small = cost("/usher.v1.Tickets/Resolve");
        assert_eq!((small.memory, small.standing), (SMALL_CALL, false));
        for standing in [
            "/usher.v1.Cluster/Watch",
            "/usher.v1.Cluster/Drain",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert_eq!(cost(standing), CallCost { standing: true, ..small });
        }
        assert_eq!(cost("/usher.v1.Registry/Attach").request, None);
        assert_eq!(cost("/usher.v1.Tickets/ResolveMany").memory, LARGEST_CALL);
        for other in ["", "/", "//", "/other.Registry/Attach", "/usher.v1.Registry", "*"] {
            assert_eq!(cost(other), small, "{other}");
        }
    }
}
