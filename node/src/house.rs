//! What the shells of one node share: its name, library, keys, counters, and whether it drains. Owns the locks, each
//! short and never held across an await; knows neither QUIC nor gRPC.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use usher_proto::{
    Bitrate, Code, ContentId, Fault, NodeName, SessionId,
    buffers::Buffers,
    model::Begun,
    pb::v1::{self, ByteRange},
    ticket::{Key, Purpose, Ticket},
    tree::GROUP,
};

use crate::{
    core::{
        guard::Limits,
        keyring::Keyring,
        meter::Meter,
        replay::Replay,
        schedule::Terms,
        session::{Facts, Session},
        volumes::{self, Loads},
    },
    leases::Leases,
    live::{self, Live},
    media::{FindError, Library, OpenError, OpenMedia},
    moves::Moves,
    quic,
    replica::{self, Puller},
    turns::{Part, Turns},
};

/// One node, seen from within.
pub(crate) struct House {
    pub(crate) name: NodeName,
    pub(crate) library: Library,
    keys: ArcSwap<Keyring>,
    replay: Mutex<Replay>,
    meter: Mutex<Meter>,
    /// For what is read of a turn of groups.
    pub(crate) buffers: Buffers,
    /// Viewers of titles, as far as they are paced.
    pub(crate) viewers: Arc<AtomicUsize>,
    /// Whose bytes go next.
    pub(crate) turns: Arc<Turns>,
    draining: AtomicBool,
    pub(crate) moves: Arc<Moves>,
    pub(crate) leases: Arc<Leases>,
    /// Sessions that run.
    sessions: watch::Sender<usize>,
    /// Told each time that all connections are to end.
    cuts: watch::Sender<()>,
    /// Wakes the one who tells the master of sessions.
    told: Notify,
    /// Copies that the master orders.
    pub(crate) puller: Arc<Puller>,
    /// Feeds.
    pub(crate) live: Arc<Live>,
}

/// Where sessions of feeds read from, as the meter counts volumes: no disk.
const NO_VOLUME: u16 = u16::MAX - 1;

/// Nothing under these locks is half done when its holder panics: every change is one call of a pure type.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unix seconds.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl House {
    pub(crate) fn new(name: NodeName, library: Library, limits: impl Into<Limits>, feeds: live::Settings) -> Arc<Self> {
        let (now, limits) = (Instant::now(), limits.into());
        let puller = Puller::new(library.replicas().cloned(), replica::STALL);
        Arc::new(Self {
            name,
            library,
            keys: ArcSwap::default(),
            replay: Mutex::default(),
            meter: Mutex::new(Meter::new(now, limits)),
            buffers: quic::buffers(),
            viewers: Arc::default(),
            turns: Turns::new(limits.capacity),
            draining: AtomicBool::new(false),
            moves: Arc::default(),
            leases: Arc::default(),
            sessions: watch::Sender::new(0),
            cuts: watch::Sender::new(()),
            told: Notify::new(),
            puller,
            live: Live::new(feeds),
        })
    }

    pub(crate) fn meter(&self) -> MutexGuard<'_, Meter> {
        lock(&self.meter)
    }

    /// The keys of a Welcome.
    pub(crate) fn welcome(&self, keys: &[Key]) {
        let now = Instant::now();
        self.keys.rcu(|ring| ring.welcome(now, keys.to_vec()));
    }

    /// Takes no new sessions from here on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.puller.drain();
        self.live.drain();
    }

    /// Takes new sessions again.
    pub(crate) fn undrain(&self) {
        self.puller.undrain();
        self.draining.store(false, Ordering::Relaxed);
    }

    /// Ends the connections that are there now, with their sessions: clients go on elsewhere.
    pub(crate) fn cut(&self) {
        self.cuts.send_replace(());
    }

    /// Waits until the connections that are there now are to end.
    pub(crate) fn is_cut(&self) -> impl Future<Output = ()> + use<> {
        let mut cuts = self.cuts.subscribe();
        async move {
            if cuts.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether new sessions are taken.
    ///
    /// # Errors
    /// `DRAINING`.
    pub(crate) fn admits(&self) -> Result<(), Fault> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Fault::new(Code::Draining, format!("node `{}` is draining; resolve again", self.name)));
        }
        Ok(())
    }

    /// Waits until something happened to a session since the last call. For one caller.
    pub(crate) async fn happens(&self) {
        self.told.notified().await;
    }

    /// Follows the number of sessions that run.
    pub(crate) fn sessions(&self) -> watch::Receiver<usize> {
        self.sessions.subscribe()
    }

    /// Waits until no session runs.
    pub(crate) async fn idle(&self) {
        // Fails only when the sender is gone, which is in `self`.
        drop(self.sessions().wait_for(|count| *count == 0).await);
    }

    /// Checks a ticket, without redeeming it.
    ///
    /// # Errors
    /// The codes of [`usher_proto::ticket::TicketError`].
    pub(crate) fn verify(&self, token: &str) -> Result<Ticket, Fault> {
        let ring = self.keys.load();
        ring.verify(Instant::now(), unix_now(), &self.name, token).map_err(|error| Fault::from(&error))
    }

    /// Lets a session run on until the end of its new ticket. Returns the seconds from now; 0 for ever.
    ///
    /// # Errors
    /// The codes of [`usher_proto::ticket::TicketError`]; as [`Leases::renew`].
    pub(crate) fn renew(&self, token: &str) -> Result<u64, Fault> {
        let ring = self.keys.load();
        let ticket = ring.verify_renewal(Instant::now(), unix_now(), &self.name, token);
        self.leases.renew(&ticket.map_err(|error| Fault::from(&error))?)
    }

    /// Redeems a ticket, once.
    ///
    /// # Errors
    /// As [`Replay::redeem`].
    pub(crate) fn redeem(&self, ticket: &Ticket) -> Result<(), Fault> {
        lock(&self.replay).redeem(unix_now(), ticket.session, ticket.forget_at)
    }

    /// Opens the title of a good ticket. Off the runtime's threads, since a disk may take its time.
    ///
    /// # Errors
    /// `DRAINING`, `CONTENT_CHANGED`, `UNAVAILABLE`, those of [`Session::opened`], and those of the guard: a full node
    /// need not look at its disk.
    pub(crate) async fn open(&self, ticket: Ticket, wanted: Option<ByteRange>, more: bool) -> Result<Opened, Fault> {
        self.admits()?;
        let loads = {
            let meter = self.meter();
            meter.check(Bitrate(ticket.rate), ticket.burst)?;
            meter.volumes().clone()
        };
        let library = self.library.clone();
        blocking(move || open(&library, &loads, ticket, wanted, more)).await?
    }

    /// Tells the master that a session was refused, unless it was by the memory of its first try.
    pub(crate) fn turn(&self, session: SessionId, burst: bool, fault: &Fault) {
        if fault.code != Code::TicketReplayed {
            self.meter().turn(session, fault.code, burst);
            self.told.notify_one();
        }
    }

    /// Counts a session in, if there is still room for it; it is counted out when the guard drops.
    ///
    /// # Errors
    /// `NO_CAPACITY`, `UNEQUIPPED` for a rate that no session gets, `TICKET_REPLAYED` for one that runs; `DRAINING` when
    /// that began while its title was opened.
    pub(crate) fn begin(self: &Arc<Self>, opened: &Opened, stream: StreamOf) -> Result<Running, Fault> {
        let ticket = opened.session.ticket();
        let StreamOf { connection, priority } = stream;
        let (purpose, rate) = (ticket.purpose, Bitrate(ticket.rate));
        let terms = Terms { purpose, rate, connection, priority, live: false };
        self.count_in(ticket, opened.media.content(), opened.volume, terms)
    }

    /// The same for a session that watches or relays a feed.
    ///
    /// # Errors
    /// As [`House::begin`].
    pub(crate) fn begin_feed(self: &Arc<Self>, ticket: &Ticket, stream: StreamOf) -> Result<Running, Fault> {
        let StreamOf { connection, priority } = stream;
        let terms = Terms { purpose: Purpose::Play, rate: Bitrate(ticket.rate), connection, priority, live: true };
        self.count_in(ticket, None, NO_VOLUME, terms)
    }

    fn count_in(
        self: &Arc<Self>,
        ticket: &Ticket,
        content: Option<ContentId>,
        volume: u16,
        terms: Terms,
    ) -> Result<Running, Fault> {
        self.admits()?;
        let Terms { rate, purpose, .. } = terms;
        let (now, session) = (Instant::now(), ticket.session);
        let begun = Begun { session, title: ticket.title.clone(), content, rate, purpose };
        self.meter().begin(now, begun, volume, ticket.burst)?;
        self.told.notify_one();
        self.sessions.send_modify(|count| *count += 1);
        let part = self.turns.join(terms);
        Ok(Running { house: self.clone(), id: session, part, began: now, bytes: 0 })
    }
}

/// A peer's text, fit for a log.
pub(crate) fn request_id(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// Runs what may wait for a disk.
///
/// # Errors
/// `INTERNAL` when it panicked, or the runtime is going down.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Fault::new(Code::Internal, format!("read media: {error}")))
}

/// A title that is open, and the session that it is open for.
pub(crate) struct Opened {
    pub(crate) media: Arc<OpenMedia>,
    /// Where it is read from.
    volume: u16,
    pub(crate) session: Session,
    pub(crate) setup: v1::Setup,
}

fn open(
    library: &Library,
    loads: &Loads,
    ticket: Ticket,
    wanted: Option<ByteRange>,
    more: bool,
) -> Result<Opened, Fault> {
    let title = ticket.title.clone();
    // What a ticket was signed for was here a moment ago, and another node may still have it: worth another try.
    let changed = |what: &dyn std::fmt::Display| Fault::new(Code::ContentChanged, format!("`{title}`: {what}"));
    let mut copies = library.copies(&ticket.title, ticket.content).map_err(|error| match error {
        FindError::NotFound | FindError::OtherContent => changed(&error),
    })?;
    volumes::spread(&mut copies, |copy| copy.content, |copy| loads.of(copy.volume));
    // There is at least one; where a disk fails, another may have the same.
    let mut fault = Fault::new(Code::ContentChanged, format!("`{title}`: no copy is left"));
    let media = copies.iter().find_map(|copy| match library.open_copy(copy) {
        Ok(media) => Some((media, copy.volume)),
        Err(error) => {
            fault = match &error {
                OpenError::Gone | OpenError::Changed => changed(&error),
                OpenError::Io(_) => {
                    tracing::warn!(%title, volume = copy.volume, %error, "media cannot be opened");
                    // DISK would be the client's own.
                    Fault::new(Code::Unavailable, format!("`{title}`: {error}"))
                }
            };
            None
        }
    });
    let (media, volume) = media.ok_or(fault)?;
    let mut session = Session::new(ticket, wanted, more);
    let range = session.opened(Facts { size: media.size(), content: media.content() })?;
    if media.groups() < range.start / GROUP {
        // It would wait for long; another node has it.
        return Err(Fault::new(Code::Unavailable, format!("`{title}`: the copy has not come so far yet")));
    }
    let setup = v1::Setup { range: Some(ByteRange { start: range.start, end: range.end }), ..media.setup() };
    Ok(Opened { media: Arc::new(media), volume, session, setup })
}

/// Whose stream a session is on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamOf {
    /// Tells connections apart.
    pub(crate) connection: u64,
    /// Among the streams of the connection; higher goes first.
    pub(crate) priority: i32,
}

/// A session that counts as running. Dropping it ends that, however the session ended.
pub(crate) struct Running {
    house: Arc<House>,
    id: SessionId,
    part: Part,
    began: Instant,
    bytes: u64,
}

impl Running {
    /// Bytes that are sent at a time.
    pub(crate) fn piece(&self) -> u64 {
        self.part.piece()
    }

    /// Whether it gets no more than its rate in the long run.
    pub(crate) fn paced(&self) -> bool {
        self.part.paced()
    }

    /// Waits until so many bytes may be sent, at most [`Running::piece`].
    pub(crate) async fn turn(&self, bytes: u64) {
        self.part.turn(bytes).await;
    }

    /// Whether it goes on is up to its reader, until something is [`Running::sent`].
    pub(crate) fn offers(&self) {
        self.house.meter().offers(Instant::now(), self.id);
    }

    /// So many bytes were written.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.house.meter().sent(Instant::now(), self.id, bytes);
    }

    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The time since it began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.house.meter().end(Instant::now(), self.id);
        self.house.told.notify_one();
        self.house.sessions.send_modify(|count| *count = count.saturating_sub(1));
    }
}
