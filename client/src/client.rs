//! The client as a library: one master, the nodes that it names, and what can be asked of them.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use usher_certs::files::PemSet;
use usher_proto::{
    Bitrate, Code, Fault, Title,
    backoff::Backoff,
    model::{Range, What},
    pb::v1,
    ticket::Purpose,
    units,
};

use crate::{
    core::{
        limit::Limit,
        resume::{FIRST_WAIT, LONGEST_WAIT},
        url::Address,
    },
    driver::{
        self, Drain, Means, Order, Outcome, Progress, Sight, Sink, Start, Tally, View, Watch,
        publish::{Feed, Input, Status, Told},
    },
    master::{Answer, Authority, Master},
    quic::{Congestion, Pool, Throttle},
};

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Without any progress for this long, work fails.
    pub timeout: Duration,
    /// The client's zone; empty if unknown.
    pub zone: String,
    /// The rate of all transfers together; `None` for no limit.
    pub limit: Option<Bitrate>,
    /// What the master is shown, if it wants to know who asks.
    pub identity: Option<PemSet>,
    /// How congestion on the way to the nodes is answered.
    pub congestion: Congestion,
    /// Nodes that may send a fetched title at once; `None` for as many as help.
    pub sources: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        let (timeout, congestion) = (Duration::from_secs(30), Congestion::default());
        Self { timeout, zone: String::new(), limit: None, identity: None, congestion, sources: None }
    }
}

/// A client of one master. Sessions share connections to nodes.
pub struct Client {
    master: Arc<Master>,
    pool: Arc<Pool>,
    throttle: Option<Throttle>,
    options: Options,
    waits: Option<fn(&Fault)>,
}

impl Client {
    /// A client of the master at `address`; dials nothing yet.
    ///
    /// # Errors
    /// [`Code::Usage`] when the authority's certificate cannot be used.
    pub fn new(address: Address, authority: Authority, options: Options) -> Result<Self, Fault> {
        let master = Master::new(address, authority, options.identity.as_ref(), rand::random())?;
        let throttle = options.limit.map(|rate| Throttle::new(std::sync::Mutex::new(Limit::new(rate))));
        let pool = Arc::new(Pool::new(options.congestion));
        Ok(Self { master: Arc::new(master), pool, throttle, options, waits: None })
    }

    /// Tells `waits` once in each call why it waits for the master. Transfers tell their observer instead.
    #[must_use]
    pub fn telling(mut self, waits: fn(&Fault)) -> Self {
        self.waits = Some(waits);
        self
    }

    /// The master's address.
    pub fn address(&self) -> &Address {
        self.master.address()
    }

    /// What names everything that this client asks for, in logs and for [`Client::explain`].
    pub fn request_id(&self) -> &str {
        self.master.request_id()
    }

    /// Fetches a whole title into `sink`, and tells `observer` how it goes.
    ///
    /// # Errors
    /// The [`Fault`] that ended it, after other seats and the timeout. The sink was told to pause.
    pub async fn fetch_to(
        &self,
        title: &Title,
        sink: &mut impl Sink,
        observer: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<Outcome, Fault> {
        let order = self.order(What::Title(title.clone()), Purpose::Fetch, Range::default());
        self.run(&order, sink, observer, None).await
    }

    /// An order under this client's options.
    pub(crate) fn order(&self, what: What, purpose: Purpose, range: Range) -> Order {
        let Options { timeout, zone, sources, limit, .. } = self.options.clone();
        // A viewer's rate is reserved at one node, and where a limit makes it slow, others do not help.
        let alone = purpose == Purpose::Play || limit.is_some() && sources.is_none();
        let sources = if alone { Some(1) } else { sources };
        Order { what, purpose, range, zone, timeout, sources }
    }

    /// Runs an order; `first` is the master's answer if it was asked already.
    pub(crate) async fn run(
        &self,
        order: &Order,
        sink: &mut impl Sink,
        observer: &(dyn Fn(&Progress) + Send + Sync),
        first: Option<Result<Answer, Fault>>,
    ) -> Result<Outcome, Fault> {
        let means = Means { master: &self.master, pool: &self.pool, throttle: self.throttle.as_ref(), observer };
        driver::run(means, order, sink, first).await
    }

    /// What is wanted of a feed, under this client's options.
    pub(crate) fn watch_order(
        &self,
        title: &Title,
        purpose: Purpose,
        start: Start,
        latency: Duration,
        duration: Option<Duration>,
    ) -> Watch {
        let order = self.order(What::Title(title.clone()), purpose, Range::default());
        Watch { title: title.clone(), order, start, latency, duration }
    }

    /// Plays a feed into `drain` from `start` on until it is over, and tells `observer` how it goes. Groups are dropped when
    /// it falls behind by more than `latency`.
    ///
    /// # Errors
    /// The [`Fault`] that ended it, after other seats and the timeout.
    pub async fn play_to(
        &self,
        title: &Title,
        start: Start,
        latency: Duration,
        drain: &mut impl Drain,
        observer: &(dyn Fn(&Sight) + Send + Sync),
    ) -> Result<Tally, Fault> {
        let watch = self.watch_order(title, Purpose::Play, start, latency, None);
        self.watch_feed(&watch, drain, observer).await
    }

    /// Watches a feed until it is over, or enough came of it.
    pub(crate) async fn watch_feed(
        &self,
        watch: &Watch,
        drain: &mut impl Drain,
        observer: &(dyn Fn(&Sight) + Send + Sync),
    ) -> Result<Tally, Fault> {
        driver::watch(View { master: &self.master, pool: &self.pool, observer }, watch, drain).await
    }

    /// Publishes a feed until its input ends, or a message asks to stop; a second one ends it at once.
    pub(crate) async fn publish(
        &self,
        feed: &Feed,
        input: Input,
        stop: &mut mpsc::Receiver<()>,
        observer: &(dyn Fn(&Told) + Send + Sync),
    ) -> Result<Status, Fault> {
        driver::publish::run((&self.master, &self.pool), feed, input, stop, observer).await
    }

    /// Asks for nodes for several orders at once, so that one node may serve them all.
    pub(crate) async fn resolve_many(&self, orders: &[&Order]) -> Result<Vec<Result<Answer, Fault>>, Fault> {
        let requests: Vec<_> = orders.iter().map(|order| order.request(None, &[], &[])).collect();
        self.patiently(|| self.master.resolve_many(requests.clone())).await
    }

    /// All titles that begin with `prefix`, in order; at most `most` of them.
    ///
    /// # Errors
    /// What the master, or the way to it, had wrong.
    pub async fn titles(&self, prefix: &str, most: usize) -> Result<Vec<v1::Title>, Fault> {
        let mut titles: Vec<v1::Title> = Vec::new();
        let mut page_token = String::new();
        loop {
            let page_size = u32::try_from(most.saturating_sub(titles.len())).unwrap_or(u32::MAX).min(1000);
            let request = v1::ListTitlesRequest { prefix: prefix.to_owned(), page_size, page_token };
            let page = self.patiently(|| self.master.list_titles(request.clone())).await?;
            let empty = page.titles.is_empty();
            titles.extend(page.titles);
            titles.truncate(most);
            page_token = page.next_page_token;
            // A page without titles and with a token would go round for ever.
            if page_token.is_empty() || empty || titles.len() >= most {
                return Ok(titles);
            }
        }
    }

    /// Every content and copy of a title.
    ///
    /// # Errors
    /// [`Code::NotFound`], or what the master, or the way to it, had wrong.
    pub async fn locate(&self, what: &What) -> Result<Vec<v1::Version>, Fault> {
        let what = match what {
            What::Title(title) => v1::locate_request::What::Title(title.to_string()),
            What::Content(content) => v1::locate_request::What::ContentId(content.to_string()),
        };
        Ok(self.patiently(|| self.master.locate(what.clone())).await?.versions)
    }

    /// The roster.
    ///
    /// # Errors
    /// What the master, or the way to it, had wrong.
    pub async fn nodes(&self) -> Result<Vec<v1::Node>, Fault> {
        self.patiently(|| self.master.list_nodes()).await
    }

    /// One node with its history.
    ///
    /// # Errors
    /// [`Code::NotFound`], or what the master, or the way to it, had wrong.
    pub async fn node(&self, name: &str) -> Result<v1::GetNodeResponse, Fault> {
        self.patiently(|| self.master.node(name.to_owned())).await
    }

    /// Why a decision falls, or fell, as it does.
    ///
    /// # Errors
    /// [`Code::NotFound`], or what the master, or the way to it, had wrong.
    pub async fn explain(&self, about: v1::explain_request::About) -> Result<v1::ExplainResponse, Fault> {
        self.patiently(|| self.master.explain(about.clone())).await
    }

    /// Tells `each` about every node, then about every change, until it answers `false` or the channel ends.
    ///
    /// # Errors
    /// What the master, or the way to it, had wrong.
    pub async fn watch(&self, mut each: impl FnMut(v1::WatchResponse) -> bool) -> Result<(), Fault> {
        let mut changes = self.patiently(|| self.master.watch()).await?;
        while let Some(change) = changes.message().await.map_err(|status| self.master.fault(&status))? {
            if !each(change) {
                return Ok(());
            }
        }
        Err(Fault::new(Code::Network, format!("the master at {} ended the watch", self.master.address())))
    }

    /// Empties a node within `deadline`: tells `each` how that goes, until it is empty, there is no more to tell, or
    /// `each` answers `false`. The drain goes on without who follows it.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Unavailable`] for a node that cannot be told, or what the master, or the way to it, had
    /// wrong.
    pub async fn drain(
        &self,
        node: &str,
        deadline: Duration,
        mut each: impl FnMut(v1::DrainResponse) -> bool,
    ) -> Result<(), Fault> {
        let deadline_ms = units::millis(deadline);
        let request = v1::DrainRequest { node: node.to_owned(), deadline_ms };
        let mut answers = self.while_absent(|| self.master.drain(request.clone())).await?;
        while let Some(answer) = answers.message().await.map_err(|status| self.master.fault(&status))? {
            if !each(answer) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Lets a node take sessions again.
    ///
    /// # Errors
    /// As [`Client::drain`].
    pub async fn undrain(&self, node: &str) -> Result<(), Fault> {
        self.while_absent(|| self.master.undrain(node.to_owned())).await
    }

    /// Spreads load evenly by at most `most` moves, or, with `dry_run`, only tells them.
    ///
    /// # Errors
    /// What the master, or the way to it, had wrong.
    pub async fn rebalance(&self, most: u32, dry_run: bool) -> Result<Vec<v1::PlannedMove>, Fault> {
        self.while_absent(|| self.master.rebalance(v1::RebalanceRequest { dry_run, most })).await
    }

    /// Says goodbye to the nodes.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Tries until the timeout while the master is not there, or cannot serve yet.
    async fn patiently<T, F: Future<Output = Result<T, Fault>>>(&self, call: impl FnMut() -> F) -> Result<T, Fault> {
        self.trying(call, |code| matches!(code, Code::Network | Code::Timeout | Code::Unavailable)).await
    }

    /// Tries until the timeout while the master is not there. That a node is not there, is an answer.
    async fn while_absent<T, F: Future<Output = Result<T, Fault>>>(&self, call: impl FnMut() -> F) -> Result<T, Fault> {
        self.trying(call, |code| code == Code::Network).await
    }

    async fn trying<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        mut call: impl FnMut() -> F,
        again: impl Fn(Code) -> bool,
    ) -> Result<T, Fault> {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut waits = self.waits;
        let deadline = tokio::time::Instant::now() + self.options.timeout;
        loop {
            let fault = match call().await {
                Err(fault) if again(fault.code) => fault,
                other => return other,
            };
            let wait = backoff.wait(&mut rand::rng()).max(fault.retry_after.unwrap_or_default());
            if tokio::time::Instant::now() + wait >= deadline {
                return Err(fault);
            }
            if let Some(tell) = waits.take() {
                tell(&fault);
            }
            tracing::debug!(%fault, ?wait, "the master is tried again");
            tokio::time::sleep(wait).await;
        }
    }
}
