//! Makes the faults of a plan, each at its time, and remembers when each began and ended and whom it hit. An outage waits
//! until the cluster has got over the one before. The effect on clients is left to `run`.

use std::{
    sync::{Arc, Mutex, PoisonError},
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
};

/// How long an outage waits for the end of the one before.
const SETTLES: Duration = Duration::from_secs(40);

/// How long an operator's command may take.
const OPERATOR: Duration = Duration::from_secs(20);

/// How long a node may take to end that was asked to, beyond what it may drain.
const ENDS: Duration = Duration::from_secs(30);

/// A fault that was made.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) fault: Fault,
    /// The name of the node that it hit.
    pub(crate) node: Option<String>,
    pub(crate) began: Instant,
    /// `None` while it lasts.
    pub(crate) ended: Option<Instant>,
}

/// Faults that were made, and those that were not.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) made: Vec<Made>,
    pub(crate) skipped: Vec<Kind>,
    /// Faults that could not be made or undone.
    pub(crate) broken: Vec<String>,
}

/// All that makes faults.
pub(crate) struct Faults {
    cluster: Arc<Cluster>,
    began: Instant,
    log: Mutex<Log>,
    /// One outage at a time, and one damaged copy.
    outage: sync::Mutex<()>,
    damage: sync::Mutex<()>,
    operator: bool,
}

impl Faults {
    pub(crate) async fn new(cluster: Arc<Cluster>, began: Instant) -> Arc<Self> {
        let operator = cluster.knows("drain").await && cluster.knows("rebalance").await;
        let (outage, damage) = (sync::Mutex::new(()), sync::Mutex::new(()));
        Arc::new(Self { cluster, began, log: Mutex::default(), outage, damage, operator })
    }

    /// Makes all of a plan, and returns when the last one is over.
    pub(crate) async fn make(self: Arc<Self>, plan: Vec<(Duration, Fault)>) {
        let mut tasks = JoinSet::new();
        for (at, fault) in plan {
            time::sleep_until((self.began + at).into()).await;
            let this = self.clone();
            tasks.spawn(async move { this.one(fault).await });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Reads the log.
    pub(crate) fn log<T>(&self, tell: impl FnOnce(&Log) -> T) -> T {
        tell(&self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note<T>(&self, change: impl FnOnce(&mut Log) -> T) -> T {
        change(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn one(&self, fault: Fault) {
        let kind = fault.kind();
        if matches!(kind, Kind::Drain | Kind::Rebalance) && !self.operator {
            self.note(|log| log.skipped.push(kind));
            return;
        }
        // A title of two copies bears one fault: that of a copy, or of a node.
        let scarce =
            matches!(fault, Fault::Corrupt { title, .. } if self.cluster.library.titles[title].holders.len() < 3);
        let alone = fault.is_outage() || scarce;
        let _alone = if alone { Some(self.outage.lock().await) } else { None };
        let _damage = if kind == Kind::Corrupt { Some(self.damage.lock().await) } else { None };
        if alone && !self.cluster.settled(SETTLES).await {
            eprintln!("{:6.1} s: {kind} is left out: the cluster has not got over what was before", self.now());
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
            log.made.push(Made { fault, node, began: Instant::now(), ended: None });
            log.made.len() - 1
        });
        if let Err(error) = self.act(fault).await {
            eprintln!("{:6.1} s: {kind}: {error:#}", self.now());
            self.note(|log| log.broken.push(format!("{kind}: {error:#}")));
        }
        self.note(|log| log.made[number].ended = Some(Instant::now()));
    }

    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    async fn act(&self, fault: Fault) -> anyhow::Result<()> {
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
                let ended = time::timeout(fault.lasts() + ENDS, server.wait()).await;
                if ended.is_err() {
                    server.kill().await?;
                }
                cluster.start_again(node, &mut server).await?;
                let status = ended.context("the node did not end when it was asked to")??;
                ensure!(status.success(), "the node ended with {status}");
                Ok(())
            }
            Fault::Master { down } => cluster.restart_master(down).await,
            Fault::Corrupt { title, node, lasts } => {
                let title = &cluster.library.titles[title];
                let copy = cluster.copy_of(title, node);
                library::damage(&copy, cluster.path())?;
                time::sleep(lasts).await;
                // Sessions that run have the old file open: it would rot on beneath them, into the next outage.
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
                if let Ok(said) = time::timeout(lasts, drain.wait_with_output()).await {
                    let said = said.context("wait for usher drain")?;
                    let why = String::from_utf8_lossy(&said.stderr).into_owned();
                    ensure!(said.status.success(), "usher drain: {}", why.trim_end());
                }
                time::sleep(lasts.saturating_sub(began.elapsed())).await;
                self.operate(&["undrain", name]).await
            }
            Fault::Rebalance => self.operate(&["rebalance"]).await,
        }
    }

    async fn operate(&self, args: &[&str]) -> anyhow::Result<()> {
        let command = args.join(" ");
        let said = time::timeout(OPERATOR, self.cluster.operator(args)?.output()).await;
        let said = said.with_context(|| format!("usher {command} did not end"))?.context("run usher")?;
        let why = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "usher {command}: {}", why.trim_end());
        Ok(())
    }
}
