//! Injects the faults of a plan, each at its time, and records its start, end and node. An outage waits until the cluster
//! has recovered from the one before. The effect on clients is left to `run`.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::{sync, task::JoinSet, time};
use usher_kit::Signal;
use usher_relay::Direction;

use crate::{
    cluster::Cluster,
    core::plan::{Fault, Kind, Way},
    library,
    sync::lock,
};

/// Limit for the recovery of the cluster before an outage.
const RECOVERY_LIMIT: Duration = Duration::from_secs(40);

/// Limit for an operator's command.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// Limit for the exit of a node after SIGTERM, beyond its drain timeout.
const EXIT_LIMIT: Duration = Duration::from_secs(30);

/// A fault of this run.
#[derive(Clone, Debug)]
pub(crate) struct InjectedFault {
    pub(crate) fault: Fault,
    /// The name of its node.
    pub(crate) node: Option<String>,
    pub(crate) began: Instant,
    /// `None` while it lasts.
    pub(crate) ended: Option<Instant>,
}

/// Injected and skipped faults.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) injected: Vec<InjectedFault>,
    pub(crate) skipped: Vec<Kind>,
    /// Faults that could not be injected or undone.
    pub(crate) broken: Vec<String>,
}

/// Injects faults into a cluster.
pub(crate) struct FaultInjector {
    cluster: Arc<Cluster>,
    began: Instant,
    log: Mutex<Log>,
    /// One outage at a time, and one damaged copy.
    outage: sync::Mutex<()>,
    damage: sync::Mutex<()>,
    operator: bool,
}

impl FaultInjector {
    pub(crate) async fn new(cluster: Arc<Cluster>, began: Instant) -> Arc<Self> {
        let operator = cluster.knows("drain").await && cluster.knows("rebalance").await;
        let (outage, damage) = (sync::Mutex::new(()), sync::Mutex::new(()));
        Arc::new(Self { cluster, began, log: Mutex::default(), outage, damage, operator })
    }

    /// Injects all faults of a plan, and returns when the last one has ended.
    pub(crate) async fn run_plan(self: Arc<Self>, plan: Vec<(Duration, Fault)>) {
        let mut tasks = JoinSet::new();
        for (at, fault) in plan {
            time::sleep_until((self.began + at).into()).await;
            let this = self.clone();
            tasks.spawn(async move { this.inject(fault).await });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Reads the log.
    pub(crate) fn log<T>(&self, read: impl FnOnce(&Log) -> T) -> T {
        read(&lock(&self.log))
    }

    fn note<T>(&self, change: impl FnOnce(&mut Log) -> T) -> T {
        change(&mut lock(&self.log))
    }

    async fn inject(&self, fault: Fault) {
        let kind = fault.kind();
        if matches!(kind, Kind::Drain | Kind::Rebalance) && !self.operator {
            self.note(|log| log.skipped.push(kind));
            return;
        }
        // A title with two copies tolerates one fault: of a copy, or of a node.
        let scarce =
            matches!(fault, Fault::Corrupt { title, .. } if self.cluster.library.titles[title].holders.len() < 3);
        let alone = fault.is_outage() || scarce;
        let _alone = if alone { Some(self.outage.lock().await) } else { None };
        let _damage = if kind == Kind::Corrupt { Some(self.damage.lock().await) } else { None };
        if alone && !self.cluster.settled(RECOVERY_LIMIT).await {
            eprintln!("{:6.1} s: {kind} skipped: the cluster has not recovered from the previous fault", self.now());
            self.note(|log| log.skipped.push(kind));
            return;
        }
        let node = fault.node().map(|node| self.cluster.nodes[node].name.clone());
        eprintln!(
            "{:6.1} s: {kind} {} for {:.1} s",
            self.now(),
            node.as_deref().unwrap_or("-"),
            fault.lasts().as_secs_f64()
        );
        let number = self.note(|log| {
            log.injected.push(InjectedFault { fault, node, began: Instant::now(), ended: None });
            log.injected.len() - 1
        });
        if let Err(error) = self.cause(fault).await {
            eprintln!("{:6.1} s: {kind}: {error:#}", self.now());
            self.note(|log| log.broken.push(format!("{kind}: {error:#}")));
        }
        self.note(|log| log.injected[number].ended = Some(Instant::now()));
    }

    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    async fn cause(&self, fault: Fault) -> anyhow::Result<()> {
        let cluster = &*self.cluster;
        match fault {
            Fault::Crash { node, down } => {
                let node = &cluster.nodes[node];
                let mut server = node.server.lock().await;
                server.kill().await?;
                time::sleep(down).await;
                cluster.start_again(node, &mut server).await
            }
            Fault::Freeze { node, lasts } => {
                let server = cluster.nodes[node].server.lock().await;
                server.signal(Signal::STOP)?;
                time::sleep(lasts).await;
                server.signal(Signal::CONT)
            }
            Fault::Rolling { node } => {
                let node = &cluster.nodes[node];
                let mut server = node.server.lock().await;
                server.signal(Signal::TERM)?;
                let ended = time::timeout(fault.lasts() + EXIT_LIMIT, server.wait()).await;
                if ended.is_err() {
                    server.kill().await?;
                }
                cluster.start_again(node, &mut server).await?;
                let status = ended.context("the node did not exit after SIGTERM")??;
                ensure!(status.success(), "the node ended with {status}");
                Ok(())
            }
            Fault::Master { down } => cluster.restart_master(down).await,
            Fault::Corrupt { title, node, lasts } => {
                let title = &cluster.library.titles[title];
                let copy = cluster.copy_of(title, node);
                library::damage(&copy, cluster.path())?;
                time::sleep(lasts).await;
                // Running sessions have the old file open: its damage would last into the next outage.
                library::damage(&copy, cluster.path())?;
                cluster.library.copy(title, &cluster.media_of(node))
            }
            Fault::Blackhole { node, way, lasts } => {
                let relay = &cluster.nodes[node].relay;
                let direction = if way == Way::Up { Direction::Up } else { Direction::Down };
                relay.set_hole(direction, true);
                time::sleep(lasts).await;
                relay.set_hole(direction, false);
                Ok(())
            }
            Fault::Rebind { node } => {
                cluster.nodes[node].relay.rebind();
                Ok(())
            }
            Fault::Drain { node, lasts } => {
                let name = &cluster.nodes[node].name;
                // It prints its progress until the node is empty; ending it stops nothing.
                let mut drain = cluster.operator(&["drain", name, "--deadline", "20s"])?;
                let drain = drain.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn();
                let drain = drain.context("run usher drain")?;
                let began = Instant::now();
                if let Ok(output) = time::timeout(lasts, drain.wait_with_output()).await {
                    let output = output.context("wait for usher drain")?;
                    let error = String::from_utf8_lossy(&output.stderr).into_owned();
                    ensure!(output.status.success(), "usher drain: {}", error.trim_end());
                }
                time::sleep(lasts.saturating_sub(began.elapsed())).await;
                self.operate(&["undrain", name]).await
            }
            Fault::Rebalance => self.operate(&["rebalance"]).await,
        }
    }

    async fn operate(&self, args: &[&str]) -> anyhow::Result<()> {
        let command = args.join(" ");
        let output = time::timeout(COMMAND_LIMIT, self.cluster.operator(args)?.output()).await;
        let output = output.with_context(|| format!("usher {command} did not end"))?.context("run usher")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "usher {command}: {}", error.trim_end());
        Ok(())
    }
}
