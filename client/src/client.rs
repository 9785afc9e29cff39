//! The client as a library: fetch titles, watch and publish feeds, and ask a master what it knows.

mod operate;
mod options;
mod retry;

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use usher_proto::{
    Bitrate, ContentId, Fault, NodeName, Title,
    model::{Range, What},
    pb::v1,
    ticket::Purpose,
};
use usher_session::{
    ConnectionSettings, Pool, RateLimit,
    core::rate::{LEAST_BURST, TokenBucket},
};

use crate::{
    core::url::Address,
    driver::{
        self, Connector, Context, FeedEvent, FeedSink, FeedStats, FetchEvent, MediaInput, Order, Outcome, Publication,
        PublishEvent, PublishStats, Sink, StartAt, WatchOrder,
    },
    master::{Answer, Authority, Master},
};

pub use self::options::Options;

/// Titles of one page of a list: about a megabyte.
const PAGE: u32 = 1000;

/// A master's choice of nodes for a title.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// The title.
    pub title: Title,
    /// Its content id; `None` while no node has hashed it, and of a feed.
    pub content: Option<ContentId>,
    /// Size of the title in bytes; 0 of a feed.
    pub size: u64,
    /// Rate reserved at the first node.
    pub rate: Bitrate,
    /// The chosen nodes, the best first.
    pub nodes: Vec<NodeName>,
    /// Why the first node was chosen.
    pub reason: String,
    /// Id of the request, for `usher explain --request`.
    pub request_id: String,
}

/// A client of one master.
///
/// Sessions share their connections to nodes. Calls take `&self` and may run at once; a caller that drops a call cancels it.
/// Every method needs a Tokio runtime with time and I/O enabled.
///
/// ```
/// use usher_client::{Address, Authority, Client, Options, Url};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let url: Url = "usher://media.example/films/dune.mp4".parse()?;
/// assert_eq!(url.title()?.as_str(), "films/dune.mp4");
/// // The certificate that every master and node of the cluster is trusted by.
/// let pem = "not a certificate".to_owned();
/// let authority = Authority { pem, source: "ca.pem".into() };
/// let refused = Client::new(url.master, authority, Options::default());
/// assert!(refused.is_err());
/// # Ok(())
/// # }
/// ```
pub struct Client {
    connector: Connector,
    options: Options,
    on_wait: Option<fn(&Fault)>,
}

impl Client {
    /// A client of the master at `address`, which must show a certificate of `authority`. Dials nothing yet.
    ///
    /// # Errors
    /// [`Code::Usage`](crate::Code::Usage) when a certificate cannot be used.
    pub fn new(address: Address, authority: Authority, options: Options) -> Result<Self, Fault> {
        let master = Master::new(address, authority, options.identity.as_ref(), options.token.clone(), rand::random())?;
        let throttle = options.limit.map(|rate| RateLimit::new(TokenBucket::new(rate, LEAST_BURST).into()));
        let pool =
            Arc::new(Pool::new(ConnectionSettings { congestion: options.congestion, ..ConnectionSettings::default() }));
        let connector = Connector { master: Arc::new(master), pool, throttle };
        Ok(Self { connector, options, on_wait: None })
    }

    /// Calls `on_wait` once in each call that waits for the master, with the reason. Transfers report it to their observer
    /// instead.
    #[must_use]
    pub fn on_wait(mut self, on_wait: fn(&Fault)) -> Self {
        self.on_wait = Some(on_wait);
        self
    }

    /// The master's address.
    pub fn address(&self) -> &Address {
        self.connector.master.address()
    }

    /// Id of this client's requests in the logs of the cluster, and for `usher explain --request`.
    pub fn request_id(&self) -> &str {
        self.connector.master.request_id()
    }

    /// Fetches a title into `sink` and verifies every byte. `observer` receives the events of the transfer.
    ///
    /// Nodes that fail, move the session or fall silent are replaced without a gap in the bytes.
    ///
    /// ```no_run
    /// # async fn example(client: usher_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use usher_client::{FetchEvent, Title, sink::FileSink};
    ///
    /// let title = Title::parse("films/dune.mp4")?;
    /// let mut sink = FileSink::new("dune.mp4".into(), false);
    /// let outcome = client
    ///     .fetch_to(&title, &mut sink, &|event| {
    ///         if let FetchEvent::Progress { verified, total, .. } = event {
    ///             eprintln!("{verified} of {total} bytes");
    ///         }
    ///     })
    ///     .await?;
    /// println!("{} bytes, BLAKE3 {}", outcome.bytes, outcome.content);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The last [`Fault`], once no other node helped within the timeout; [`Code::Disk`](crate::Code::Disk) and other failures of the sink at
    /// once. The sink was paused, so that a later run can resume.
    pub async fn fetch_to(
        &self,
        title: &Title,
        sink: &mut impl Sink,
        observer: &(dyn Fn(&FetchEvent) + Send + Sync),
    ) -> Result<Outcome, Fault> {
        let order = self.order(What::Title(title.clone()), Purpose::Fetch, Range::default());
        self.fetch_order(&order, sink, observer, None).await
    }

    /// Plays a feed into `sink`, from `start` to its end. Groups are dropped once the sink falls behind by more than
    /// `latency`. `observer` receives the events of the feed.
    ///
    /// ```no_run
    /// # async fn example(client: usher_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use usher_client::{StartAt, Title, sink::LiveSink};
    ///
    /// let title = Title::parse("live/cam1")?;
    /// let mut sink = LiveSink::stdout()?;
    /// let latency = Duration::from_secs(10);
    /// let stats = client.play(&title, StartAt::LastWhole, latency, &mut sink, &|_| ()).await?;
    /// eprintln!("{} groups, {} dropped", stats.groups, stats.dropped);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The last [`Fault`], once no other node helped within the timeout; failures of the sink at once.
    pub async fn play(
        &self,
        title: &Title,
        start: StartAt,
        latency: Duration,
        sink: &mut impl FeedSink,
        observer: &(dyn Fn(&FeedEvent) + Send + Sync),
    ) -> Result<FeedStats, Fault> {
        let order = self.watch_order(title, Purpose::Play, start, latency, None);
        self.watch_feed(&order, sink, observer).await
    }

    /// Publishes a feed until its input ends, or a message on `stop` asks to stop; a second message ends it at once.
    /// `observer` receives the events of the feed.
    ///
    /// ```no_run
    /// # async fn example(client: usher_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use usher_client::{MediaInput, Publication, Title};
    ///
    /// let input = MediaInput::read(std::fs::File::open("clip.ts")?, "clip.ts", true)?;
    /// let publication = Publication::new(Title::parse("live/cam1")?);
    /// let (stop, mut stopped) = tokio::sync::mpsc::channel(1);
    /// let stats = client.publish(&publication, input, &mut stopped, &|_| ()).await?;
    /// eprintln!("{} groups", stats.groups);
    /// # drop(stop);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The failure of the input; the last [`Fault`], once no node received the feed within the timeout;
    /// [`Code::Exists`](crate::Code::Exists) when another publisher has the feed.
    pub async fn publish(
        &self,
        publication: &Publication,
        input: MediaInput,
        stop: &mut mpsc::Receiver<()>,
        observer: &(dyn Fn(&PublishEvent) + Send + Sync),
    ) -> Result<PublishStats, Fault> {
        driver::publish(&self.connector, publication, input, stop, observer).await
    }

    /// Lists titles and feeds that begin with `prefix`, in order; at most `most` of them, which take about 1 KiB each.
    ///
    /// ```no_run
    /// # async fn example(client: usher_client::Client) -> Result<(), usher_client::Fault> {
    /// for title in client.list("films/", 100).await? {
    ///     println!("{} {} bytes, {} copies", title.title, title.size, title.nodes.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The master's refusal, or the failure to reach it within the timeout.
    pub async fn list(&self, prefix: &str, most: usize) -> Result<Vec<v1::Title>, Fault> {
        let mut titles: Vec<v1::Title> = Vec::new();
        let each = |page: Vec<v1::Title>| {
            titles.extend(page);
            titles.len() < most
        };
        self.list_pages(prefix, most, each).await?;
        titles.truncate(most);
        Ok(titles)
    }

    /// Passes the pages of [`Client::list`] to `each` until it returns false or there are no more, so that no master can
    /// fill the memory. A page has at most `most` titles.
    pub(crate) async fn list_pages(
        &self,
        prefix: &str,
        most: usize,
        mut each: impl FnMut(Vec<v1::Title>) -> bool,
    ) -> Result<(), Fault> {
        let page_size = u32::try_from(most).unwrap_or(u32::MAX).min(PAGE);
        let mut page_token = String::new();
        loop {
            let request = v1::ListTitlesRequest { prefix: prefix.to_owned(), page_size, page_token };
            let page = self.retry_unavailable(|| self.connector.master.list_titles(request.clone())).await?;
            // An empty page with a token would never end.
            let last = page.titles.is_empty() || page.next_page_token.is_empty();
            page_token = page.next_page_token;
            if !each(page.titles) || last {
                return Ok(());
            }
        }
    }

    /// Lists every content and copy of a title.
    ///
    /// ```no_run
    /// # async fn example(client: usher_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use usher_client::{Title, What};
    ///
    /// for version in client.locate(&What::Title(Title::parse("films/dune.mp4")?)).await? {
    ///     for copy in version.copies {
    ///         println!("{}", copy.node);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Code::NotFound`](crate::Code::NotFound), the master's refusal, or the failure to reach it within the timeout.
    pub async fn locate(&self, what: &What) -> Result<Vec<v1::Version>, Fault> {
        let what = match what {
            What::Title(title) => v1::locate_request::What::Title(title.to_string()),
            What::Content(content) => v1::locate_request::What::ContentId(content.to_string()),
        };
        Ok(self.retry_unavailable(|| self.connector.master.locate(what.clone())).await?.versions)
    }

    /// Asks the master which nodes would serve a title now. The master reserves capacity for the answer until its ticket
    /// expires, so this is no cheap way to poll.
    ///
    /// ```no_run
    /// # async fn example(client: usher_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use usher_client::{Purpose, Title, What};
    ///
    /// let title = What::Title(Title::parse("films/dune.mp4")?);
    /// let choice = client.resolve(&title, Purpose::Play).await?;
    /// println!("{:?}: {}", choice.nodes, choice.reason);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Code::NotFound`](crate::Code::NotFound), [`Code::NoCapacity`](crate::Code::NoCapacity), another refusal of the master, or the failure to reach it within the
    /// timeout.
    pub async fn resolve(&self, what: &What, purpose: Purpose) -> Result<Resolution, Fault> {
        let request = self.order(what.clone(), purpose, Range::default()).request(None, &[], &[]);
        let answer = self.retry_unavailable(|| self.connector.master.resolve(request.clone())).await?;
        let Answer { title, content, size, rate, seats, reason, request_id, .. } = answer;
        let nodes = seats.into_iter().map(|seat| seat.node).collect();
        Ok(Resolution { title, content, size, rate, nodes, reason, request_id })
    }

    /// Closes the connections to all nodes, and waits for them a moment.
    pub async fn close(&self) {
        self.connector.pool.close().await;
    }

    /// An order under this client's options.
    pub(crate) fn order(&self, what: What, purpose: Purpose, range: Range) -> Order {
        let Options { timeout, zone, sources, limit, brokered, .. } = self.options.clone();
        // A viewer's rate is reserved at one node; under a rate limit further nodes do not help.
        let alone = purpose == Purpose::Play || limit.is_some() && sources.is_none();
        let sources = if alone { Some(1) } else { sources };
        Order { what, purpose, range, zone, timeout, sources, brokered: brokered && purpose == Purpose::Fetch }
    }

    /// Runs an order; `first` is the master's answer if it was asked already.
    pub(crate) async fn fetch_order(
        &self,
        order: &Order,
        sink: &mut impl Sink,
        observer: &(dyn Fn(&FetchEvent) + Send + Sync),
        first: Option<Result<Answer, Fault>>,
    ) -> Result<Outcome, Fault> {
        driver::fetch(Context { connector: &self.connector, observer }, order, sink, first).await
    }

    /// An order for a feed under this client's options.
    pub(crate) fn watch_order(
        &self,
        title: &Title,
        purpose: Purpose,
        start: StartAt,
        latency: Duration,
        duration: Option<Duration>,
    ) -> WatchOrder {
        let order = Order { brokered: false, ..self.order(What::Title(title.clone()), purpose, Range::default()) };
        WatchOrder { title: title.clone(), order, start, latency, duration }
    }

    /// Watches a feed until it is over, or its wanted duration was received.
    pub(crate) async fn watch_feed(
        &self,
        order: &WatchOrder,
        sink: &mut impl FeedSink,
        observer: &(dyn Fn(&FeedEvent) + Send + Sync),
    ) -> Result<FeedStats, Fault> {
        driver::watch(&self.connector, order, sink, observer).await
    }

    /// Resolves several orders at once, so that one node may serve them all.
    pub(crate) async fn resolve_many(&self, orders: &[&Order]) -> Result<Vec<Result<Answer, Fault>>, Fault> {
        let requests: Vec<_> = orders.iter().map(|order| order.request(None, &[], &[])).collect();
        self.retry_unavailable(|| self.connector.master.resolve_many(requests.clone())).await
    }
}
