//! Honest clients: calls as viewers make them, each over a connection of its own, counted and timed.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::{task::JoinSet, time::timeout};
use usher_proto::pb::v1::{self, cluster_client::ClusterClient, tickets_client::TicketsClient};

use crate::flood::Source;

/// Time after which a viewer has given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Outcome of honest calls.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Calls that were made.
    pub asked: usize,
    /// Time of each call that was answered, connection included, shortest first.
    pub times: Vec<Duration>,
    /// Errors of the others.
    pub errors: Vec<String>,
}

impl Outcome {
    /// Calls that were answered.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.times.len()
    }

    /// The time within which this part of the answered calls was answered, `0.99` for example; zero without any.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Duration {
        let last = self.times.len().saturating_sub(1);
        self.times.get(((last as f64) * part).ceil() as usize).copied().unwrap_or_default()
    }
}

/// Asks `calls` times for a title, `at_once` at a time, over new connections.
///
/// # Errors
/// When the system gives no thread.
pub fn resolve(source: &Source, title: &str, calls: usize, at_once: usize) -> anyhow::Result<Outcome> {
    measure(calls, at_once, || resolve_one(source.clone(), title.to_owned()))
}

/// Begins `calls` watches, `at_once` at a time, over new connections, and reads the first node of each.
///
/// # Errors
/// When the system gives no thread.
pub fn watch(source: &Source, calls: usize, at_once: usize) -> anyhow::Result<Outcome> {
    measure(calls, at_once, || watch_one(source.clone()))
}

fn measure<F: Future<Output = anyhow::Result<()>> + Send + 'static>(
    calls: usize,
    at_once: usize,
    call: impl Fn() -> F,
) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(async {
        let mut outcome = Outcome { asked: calls, ..Outcome::default() };
        let (mut running, mut left) = (JoinSet::new(), calls);
        loop {
            while left > 0 && running.len() < at_once.max(1) {
                left -= 1;
                running.spawn(timed(call()));
            }
            match running.join_next().await {
                Some(Ok(Ok(time))) => outcome.times.push(time),
                Some(Ok(Err(error))) => outcome.errors.push(format!("{error:#}")),
                Some(Err(panic)) => outcome.errors.push(panic.to_string()),
                None => break,
            }
        }
        outcome.times.sort();
        Ok(outcome)
    })
}

async fn timed(call: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    timeout(PATIENCE, call).await.context("no answer in time")??;
    Ok(start.elapsed())
}

async fn resolve_one(source: Source, title: String) -> anyhow::Result<()> {
    let mut tickets = TicketsClient::new(source.channel().await?);
    // A rate that leaves room for all of them.
    let request = v1::ResolveRequest {
        what: Some(v1::resolve_request::What::Title(title)),
        rate_bps: 1000,
        ..v1::ResolveRequest::default()
    };
    tickets.resolve(request).await.context("ask for a ticket")?;
    Ok(())
}

async fn watch_one(source: Source) -> anyhow::Result<()> {
    let mut cluster = ClusterClient::new(source.channel().await?);
    let mut watch = cluster.watch(v1::WatchRequest {}).await.context("watch")?.into_inner();
    watch.message().await.context("watch")?.context("a node")?;
    Ok(())
}
