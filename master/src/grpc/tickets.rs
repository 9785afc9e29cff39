//! `usher.v1.Tickets`: turns decisions into seats with signed tickets, and prepares brokered ones at their nodes first.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use futures::{StreamExt as _, stream};
use tonic::{Request, Response, Status};
use tracing::{Instrument as _, debug};
use usher_budget::Prefix;
use usher_proto::{
    Fault, NodeName,
    code::Code,
    model::{Invalid, MAX_REQUESTS, Mode, Publish, Renew, Resolve},
    pb::v1::{self, tickets_server::Tickets},
};

use super::{
    access::{Caller, for_purpose},
    answers::{PREPARE_TIMEOUT, TicketTerms, after_refusal, answer, log_decision, redirected},
    failed_seats, peer, publish,
    queue::AdmissionQueue,
    renew, request_id,
};
use crate::{
    core::ledger::Source,
    state::{Asker, Placement, PlacementRefused, SharedState},
    viewers::Viewers,
};

/// Titles of one `ResolveMany` answered concurrently: a node's channel holds 64 messages for all callers.
const CONCURRENT: usize = 16;

/// Nodes asked per brokered request.
const ATTEMPTS: usize = 8;

/// Brokered requests that wait for a node concurrently.
const MAX_BROKERED: usize = 64;

pub(crate) struct TicketsService {
    state: Arc<SharedState>,
    viewers: Arc<Viewers>,
    decisions: AdmissionQueue,
    /// Separate, so that slow nodes do not delay requests that need no answer of a node.
    brokered: AdmissionQueue,
    /// Randomly seeded, so that a client cannot choose its number.
    clients: RandomState,
}

impl TicketsService {
    /// The service with `queue` waiting requests per class.
    pub(crate) fn new(state: Arc<SharedState>, viewers: Arc<Viewers>, queue: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let decisions = AdmissionQueue::new("decisions", cores, queue, Arc::clone(state.metrics()));
        let brokered = AdmissionQueue::new("brokered", MAX_BROKERED, queue, Arc::clone(state.metrics()));
        Self { state, viewers, decisions, brokered, clients: RandomState::new() }
    }

    /// Answers a decided request: signs its tickets, and prepares it at the node if it is brokered.
    async fn finish(
        &self,
        resolve: &Resolve,
        seated: Placement,
        call: CallContext<'_>,
    ) -> Result<v1::ResolveResponse, Fault> {
        match resolve.mode {
            Mode::Redirect => answer(resolve, &seated, &call.terms(self.state.until(seated.now))),
            Mode::Brokered => self.broker(resolve.clone(), seated, call).await,
        }
    }

    /// Decides a request again after a silent holder answered its probe or ran out of time.
    async fn decide_again(
        &self,
        resolve: &Resolve,
        unseated: PlacementRefused,
        call: CallContext<'_>,
    ) -> Result<Placement, Fault> {
        let Some(probe_wait) = unseated.probe_wait else { return Err(Fault::from(&*unseated.refused)) };
        self.state.probe_answered(probe_wait).await;
        let decided = self.state.resolve(self.state.session(), resolve, call.tag, call.asker());
        decided.map_err(|unseated| Fault::from(&*unseated.refused))
    }

    /// The client of a call, as the core tells it from others.
    fn source(&self, caller: &Caller, client: Prefix) -> Source {
        let viewer = caller.viewer().map(|viewer| self.clients.hash_one(viewer.id));
        Source(viewer.unwrap_or_else(|| self.clients.hash_one(client)))
    }

    /// Asks one node after the other until one opens the title.
    async fn broker(
        &self,
        mut resolve: Resolve,
        mut seated: Placement,
        call: CallContext<'_>,
    ) -> Result<v1::ResolveResponse, Fault> {
        for _ in 0..ATTEMPTS {
            let reserved = ReservationGuard { state: &self.state, session: seated.decision.session, kept: false };
            let mut response = answer(&resolve, &seated, &call.terms(self.state.until(seated.now)))?;
            let first = response.seats.first();
            let (node, ticket) = first.map(|seat| (seat.node.clone(), seat.ticket.clone())).unwrap_or_default();
            let fault = match self.prepare(&seated, ticket, call.id).await {
                Ok(setup) => {
                    response.setup = Some(setup);
                    reserved.keep();
                    return Ok(response);
                }
                Err(fault) => fault,
            };
            drop(reserved);
            debug!(%node, reason = fault.code.reason(), error = %fault, "node refused to prepare");
            resolve.exclude.extend(NodeName::parse(&node));
            seated = match self.state.resolve(self.state.session(), &resolve, call.tag, call.asker()) {
                Ok(seated) => seated,
                Err(_) => return Err(after_refusal(&node, fault)),
            };
        }
        self.state.release(seated.decision.session);
        let text = format!("`{}`: {ATTEMPTS} nodes were asked and refused; try again shortly", resolve.what);
        Err(Fault::new(Code::Unavailable, text).after(PREPARE_TIMEOUT))
    }

    async fn prepare(&self, seated: &Placement, ticket: String, id: &str) -> Result<v1::Setup, Fault> {
        let none = || Fault::new(Code::Unavailable, "its channel to the master is closed or full");
        let mut prepare = self.state.prepare(seated.decision.first, ticket, id).ok_or_else(none)?;
        let late = |_| Fault::new(Code::Timeout, format!("it did not answer within {} s", PREPARE_TIMEOUT.as_secs()));
        tokio::time::timeout(PREPARE_TIMEOUT, prepare.answer()).await.map_err(late)?
    }
}

/// A valid request.
fn valid(request: v1::ResolveRequest) -> Result<Resolve, Invalid> {
    let resolve = Resolve::try_from(request)?;
    redirected(&resolve).map(|()| resolve)
}

/// A request that its caller may make, in the zone that the caller's token states.
fn permitted(caller: &Caller, mut resolve: Resolve) -> Result<Resolve, Fault> {
    caller.require(for_purpose(resolve.purpose), &resolve.what)?;
    if let Some(zone) = caller.rights().and_then(|rights| rights.zone.as_ref()) {
        resolve.zone.clone_from(zone);
    }
    Ok(resolve)
}

/// The call's id and caller, and the journal tag of one of its requests.
#[derive(Clone, Copy)]
struct CallContext<'a> {
    id: &'a str,
    tag: u64,
    caller: &'a Caller,
    source: Option<Source>,
}

impl<'a> CallContext<'a> {
    fn asker(&self) -> Asker<'a> {
        Asker { viewer: self.caller.viewer(), source: self.source }
    }

    /// The terms that all tickets of an answer share; sessions may run until `until`, in Unix seconds.
    fn terms(&self, until: Option<u64>) -> TicketTerms<'a> {
        TicketTerms { id: self.id, until, viewer: self.caller.viewer() }
    }
}

/// Releases a reservation on drop unless it was kept: its request failed or its client left.
struct ReservationGuard<'a> {
    state: &'a SharedState,
    session: usher_proto::SessionId,
    kept: bool,
}

impl ReservationGuard<'_> {
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for ReservationGuard<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.state.release(self.session);
        }
    }
}

#[tonic::async_trait]
impl Tickets for TicketsService {
    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        let id = request_id::of(request.metadata());
        self.publish_in_span(&id, request).instrument(request_id::span(&id)).await
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let id = request_id::of(request.metadata());
        self.renew_in_span(&id, request).instrument(request_id::span(&id)).await
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Result<Response<v1::ResolveResponse>, Status> {
        let id = request_id::of(request.metadata());
        self.resolve_in_span(&id, request).instrument(request_id::span(&id)).await
    }

    async fn resolve_many(
        &self,
        request: Request<v1::ResolveManyRequest>,
    ) -> Result<Response<v1::ResolveManyResponse>, Status> {
        let id = request_id::of(request.metadata());
        self.resolve_many_in_span(&id, request).instrument(request_id::span(&id)).await
    }
}

impl TicketsService {
    async fn publish_in_span(
        &self,
        id: &str,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        let failure = |fault: Fault| request_id::failure(id, &fault);
        let (peer, sender) = (peer::peer(&request)?, publish::Sender::of(&self.viewers, &request));
        let publish = Publish::try_from(request.into_inner())?;
        let sender = sender.map_err(failure)?;
        let name = sender.require(&publish.title).map_err(failure)?;
        let holder = peer.holder_with(sender.viewer());
        let permit = self.decisions.acquire(&holder).await.map_err(failure)?;
        failed_seats::report(&self.state, &publish.failed);
        let answered = publish::answer(&self.state, &publish, id, sender.viewer());
        drop(permit);
        match &answered {
            Ok(answer) => {
                debug!(title = %publish.title, publisher = name, reason = %answer.reason, "publish accepted");
            }
            Err(fault) => debug!(title = %publish.title, publisher = name, error = %fault, "publish refused"),
        }
        answered.map(|answer| request_id::answer(id, answer)).map_err(failure)
    }

    async fn renew_in_span(
        &self,
        id: &str,
        request: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::RenewResponse>, Status> {
        let failure = |fault: Fault| request_id::failure(id, &fault);
        let peer = peer::peer(&request)?;
        let sender = publish::Sender::of(&self.viewers, &request);
        let caller = Caller::of(&self.viewers, &request);
        let renew = Renew::try_from(request.into_inner())?;
        // A running session is not refused for lack of capacity: its client retries.
        let busy = |fault: Fault| failure(Fault { code: Code::Unavailable, ..fault });
        let holder = peer.holder_with(caller.as_ref().ok().and_then(Caller::viewer));
        let permit = self.decisions.acquire(&holder).await.map_err(busy)?;
        let renewed = renew::renewed(&self.state, &self.viewers, &renew, caller, sender);
        drop(permit);
        match &renewed {
            Ok(_) => debug!(node = %renew.node, "ticket renewed"),
            Err(fault) => {
                debug!(node = %renew.node, reason = fault.code.reason(), error = %fault, "ticket not renewed");
            }
        }
        renewed.map(|response| request_id::answer(id, response)).map_err(failure)
    }

    async fn resolve_in_span(
        &self,
        id: &str,
        request: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveResponse>, Status> {
        let peer = peer::peer(&request)?;
        let failure = |fault: Fault| request_id::failure(id, &fault);
        let caller = Caller::of(&self.viewers, &request).map_err(failure)?;
        let holder = peer.holder_with(caller.viewer());
        let resolve = permitted(&caller, valid(request.into_inner())?).map_err(failure)?;
        let queue = if resolve.mode == Mode::Brokered { &self.brokered } else { &self.decisions };
        let mut permit = queue.acquire(&holder).await.map_err(failure)?;
        failed_seats::report(&self.state, &resolve.failed);
        let source = Some(self.source(&caller, peer.prefix));
        let call = CallContext { id, tag: request_id::tag(id, 0), caller: &caller, source };
        let seated = match self.state.resolve(self.state.session(), &resolve, call.tag, call.asker()) {
            Ok(seated) => Ok(seated),
            Err(unseated) => {
                if unseated.probe_wait.is_some() && resolve.mode != Mode::Brokered {
                    drop(permit);
                    permit = self.brokered.acquire(&holder).await.map_err(failure)?;
                }
                self.decide_again(&resolve, unseated, call).await
            }
        };
        let done = match seated {
            Ok(seated) => self.finish(&resolve, seated, call).await,
            Err(fault) => Err(fault),
        };
        drop(permit);
        log_decision(&resolve, &done);
        done.map(|response| request_id::answer(id, response)).map_err(failure)
    }

    async fn resolve_many_in_span(
        &self,
        id: &str,
        request: Request<v1::ResolveManyRequest>,
    ) -> Result<Response<v1::ResolveManyResponse>, Status> {
        let peer = peer::peer(&request)?;
        let failure = |fault: Fault| request_id::failure(id, &fault);
        let caller = Caller::of(&self.viewers, &request).map_err(failure)?;
        let holder = peer.holder_with(caller.viewer());
        let requests = request.into_inner().requests;
        if requests.len() > MAX_REQUESTS {
            let text = format!("at most {MAX_REQUESTS}, not {}", requests.len());
            return Err(Invalid::one("requests", text).to_status());
        }
        let resolve = |request| {
            let valid = valid(request).map_err(|invalid| Fault::new(Code::BadRequest, invalid.to_string()));
            permitted(&caller, valid?)
        };
        let resolves: Vec<Result<Resolve, Fault>> = requests.into_iter().map(resolve).collect();
        let brokered = resolves.iter().flatten().any(|resolve| resolve.mode == Mode::Brokered);
        let queue = if brokered { &self.brokered } else { &self.decisions };
        let mut permit = queue.acquire(&holder).await.map_err(failure)?;

        failed_seats::report(&self.state, resolves.iter().flatten().flat_map(|resolve| &resolve.failed));
        let tag = |at| request_id::tag(id, at);
        let valid = resolves
            .iter()
            .enumerate()
            .filter_map(|(at, resolve)| Some((self.state.session(), resolve.as_ref().ok()?, tag(at))));
        let valid: Vec<_> = valid.collect();
        let source = Some(self.source(&caller, peer.prefix));
        let decided = self.state.resolve_many(&valid, Asker { viewer: caller.viewer(), source });
        if !brokered && decided.iter().any(|seated| matches!(seated, Err(PlacementRefused { probe_wait: Some(_), .. })))
        {
            drop(permit);
            permit = self.brokered.acquire(&holder).await.map_err(failure)?;
        }
        let mut decided = decided.into_iter();
        let mut answers = Vec::with_capacity(resolves.len());
        for (at, resolve) in resolves.iter().enumerate() {
            // One decision per valid request, in order.
            let seated = resolve.as_ref().ok().and_then(|_| decided.next());
            answers.push(self.result(resolve, seated, CallContext { id, tag: tag(at), caller: &caller, source }));
        }
        let results = stream::iter(answers).buffered(CONCURRENT).collect().await;
        drop(permit);
        Ok(request_id::answer(id, v1::ResolveManyResponse { results }))
    }

    async fn result(
        &self,
        resolve: &Result<Resolve, Fault>,
        seated: Option<Result<Placement, PlacementRefused>>,
        call: CallContext<'_>,
    ) -> v1::ResolveResult {
        let done = match (resolve, seated) {
            (Ok(resolve), Some(seated)) => {
                let seated = match seated {
                    Ok(seated) => Ok(seated),
                    Err(unseated) => self.decide_again(resolve, unseated, call).await,
                };
                let done = match seated {
                    Ok(seated) => self.finish(resolve, seated, call).await,
                    Err(fault) => Err(fault),
                };
                log_decision(resolve, &done);
                done
            }
            (Err(refused), _) => Err(refused.clone()),
            (Ok(_), None) => Err(Fault::new(Code::Internal, "the request was not decided")),
        };
        use v1::resolve_result::Result as Pb;
        let result = match done {
            Ok(response) => Pb::Ok(response),
            Err(fault) => Pb::Failure(v1::Failure {
                grpc_code: fault.code.grpc().into(),
                reason: fault.code.reason().to_owned(),
                retry_after_ms: fault.retry_after_ms(),
                message: fault.message,
            }),
        };
        v1::ResolveResult { result: Some(result) }
    }
}
