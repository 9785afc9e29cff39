//! The feeds of a node: who sends them here, who watches them, what they take of memory, and where they come from when
//! nobody sends them here. Owns the locks, each short and never held across an await; what is kept of a feed is
//! `core::feed`'s. Refuses to know how frames travel.

mod groups;
pub(crate) mod ingest;
pub(crate) mod record;
pub(crate) mod relay;
mod room;
#[cfg(test)]
mod tests;
pub(crate) mod watch;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch as signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};
use usher_proto::{
    Code, Fault, PublisherId, Title,
    feed::FeedKey,
    model::{Failed, FeedState, MAX_FEEDS, Offer, Relay, TAKEN_OVER},
    pb::{v1, wire::FeedStart},
    ticket::FeedGrant,
};

pub(crate) use self::groups::GroupRouter;
use self::room::{Inner, Room, Source};

/// How long a feed waits for a publisher that left without a word.
pub(crate) const GRACE: Duration = Duration::from_secs(15);

/// How long an order for a feed that nobody watches yet is good.
const ORDERED: Duration = Duration::from_secs(20);

/// What the operator set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Whether feeds may be sent here.
    pub(crate) ingest: bool,
    /// How much of a feed is kept.
    pub(crate) window: Duration,
    /// Media of all feeds together, in bytes.
    pub(crate) memory: u64,
    /// See [`GRACE`].
    pub(crate) grace: Duration,
}

/// The feeds of a node.
pub(crate) struct Live {
    settings: Settings,
    rooms: Mutex<HashMap<Title, Arc<Room>>>,
    /// Upstreams that the master named before anyone came.
    ordered: Mutex<HashMap<Title, (Instant, Relay)>>,
    /// What the master is to be asked for.
    wanted: Mutex<Vec<v1::RelayWanted>>,
    bytes: AtomicU64,
    subscriptions: AtomicU64,
    /// Where feeds are recorded; nowhere, unless that is said.
    recorder: OnceLock<Arc<record::Recorder>>,
    /// Something is to be told to the master.
    tells: Notify,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A publisher's session, from its beginning to its end.
pub(crate) struct Publishing {
    live: Arc<Live>,
    pub(crate) room: Arc<Room>,
    id: PublisherId,
    number: u64,
    end: signal::Receiver<Option<Fault>>,
    /// The feed is over with it.
    finished: bool,
}

/// Someone who watches a feed, or relays it, until it drops.
pub(crate) struct Watching {
    live: Arc<Live>,
    pub(crate) room: Arc<Room>,
    relay: bool,
}

/// Every change under these locks is whole before anything can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            rooms: Mutex::default(),
            ordered: Mutex::default(),
            wanted: Mutex::default(),
            bytes: AtomicU64::new(0),
            subscriptions: AtomicU64::new(1),
            recorder: OnceLock::new(),
            tells: Notify::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// A number for a session's groups that no other has.
    pub(crate) fn subscription(&self) -> u64 {
        self.subscriptions.fetch_add(1, Ordering::Relaxed)
    }

    /// How much of a feed is kept, in milliseconds.
    pub(crate) fn window_ms(&self) -> u64 {
        usher_proto::units::millis(self.settings.window)
    }

    /// Media of all feeds, in bytes.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A publisher comes, with a good ticket.
    ///
    /// # Errors
    /// `UNEQUIPPED` where no feeds are taken in, or none is recorded and this one is to be, `EXISTS` while another publisher sends the feed, `NO_CAPACITY` when memory
    /// is full of feeds that cannot be shortened.
    pub(crate) fn publish(
        self: &Arc<Self>,
        title: &Title,
        grant: &FeedGrant,
        offer: Offer,
    ) -> Result<Publishing, Fault> {
        if !self.settings.ingest {
            return Err(Fault::new(Code::Unequipped, "this node takes no feeds in; resolve again"));
        }
        let place = self.place(title, grant, &offer)?;
        self.make_room()?;
        let (tell, end) = signal::channel(None);
        let number = self.subscription();
        let room = self.room(title, grant.key)?;
        {
            let mut inner = room.lock();
            match &inner.source {
                Source::Publisher { id, end, .. } if *id != grant.publisher => {
                    if !grant.take_over {
                        let text = format!("`{title}` is being published; take it over with --take-over");
                        return Err(Fault::new(Code::Exists, text));
                    }
                    let text = format!("another publisher has taken over `{title}`");
                    end.send_replace(Some(Fault::new(TAKEN_OVER, text)));
                }
                Source::Publisher { end, .. } => {
                    // It has come back before its old connection was found dead.
                    end.send_replace(Some(Fault::new(Code::Cancelled, "replaced by a newer session")));
                }
                Source::Nobody | Source::Away(_) | Source::Upstream(_) => {}
            }
            if let Some(relaying) = inner.relaying.take() {
                relaying.cancel();
            }
            inner.source = Source::Publisher { id: grant.publisher, number, end: tell };
            if inner.medium.is_none() {
                inner.started_ms = offer.started_ms;
            }
            inner.medium = Some(offer.medium);
            self.record(&room, &mut inner, place);
        }
        room.changed.send_replace(());
        self.tells.notify_one();
        info!(%title, publisher = %grant.publisher, "feed is published");
        Ok(Publishing { live: Arc::clone(self), room, id: grant.publisher, number, end, finished: false })
    }

    /// Someone comes who wants a feed; where it is not here, it is sought.
    ///
    /// # Errors
    /// `NO_CAPACITY` when too many feeds are here.
    pub(crate) fn enter(
        self: &Arc<Self>,
        title: &Title,
        key: FeedKey,
        relay: bool,
        start: &FeedStart,
    ) -> Result<Watching, Fault> {
        let room = self.room(title, key)?;
        room.back_ms.fetch_max(start.back_ms.min(self.window_ms()), Ordering::Relaxed);
        let count = if relay { &room.relays } else { &room.viewers };
        count.fetch_add(1, Ordering::Relaxed);
        self.tells.notify_one();
        let watching = Watching { live: Arc::clone(self), room, relay };
        self.seek(&watching.room);
        Ok(watching)
    }

    /// Looks for an upstream of a feed that nobody sends here, unless that is being done.
    fn seek(self: &Arc<Self>, room: &Arc<Room>) {
        let mut inner = room.lock();
        if !matches!(inner.source, Source::Nobody) || inner.relaying.is_some() || inner.ended.is_some() {
            return;
        }
        let cancel = self.stop.child_token();
        inner.relaying = Some(cancel.clone());
        let ordered = lock(&self.ordered).remove(&room.title);
        if let Some((_, relay)) = ordered.filter(|(at, _)| at.elapsed() < ORDERED) {
            inner.upstreams.send_replace(Some(relay));
        }
        let upstreams = inner.upstreams.subscribe();
        drop(inner);
        self.tasks.spawn(relay::run(Arc::clone(self), Arc::clone(room), upstreams, cancel));
    }

    /// The feed of this title, made if it is not here.
    fn room(&self, title: &Title, key: FeedKey) -> Result<Arc<Room>, Fault> {
        let mut rooms = lock(&self.rooms);
        let many = rooms.len() >= MAX_FEEDS;
        match rooms.entry(title.clone()) {
            Entry::Occupied(known) if known.get().key == key => Ok(Arc::clone(known.get())),
            Entry::Occupied(_) => {
                Err(Fault::new(Code::TicketMismatch, format!("`{title}` is here under another key; resolve again")))
            }
            Entry::Vacant(_) if many => {
                Err(Fault::new(Code::NoCapacity, format!("a node carries at most {MAX_FEEDS} feeds")))
            }
            Entry::Vacant(free) => {
                Ok(Arc::clone(free.insert(Arc::new(Room::new(title.clone(), key, self.settings.window)))))
            }
        }
    }

    /// The master names upstreams of a feed.
    pub(crate) fn ordered(self: &Arc<Self>, relay: Relay) {
        let room = lock(&self.rooms).get(&relay.title).cloned();
        if let Some(room) = room {
            {
                let mut inner = room.lock();
                inner.upstreams.send_replace(Some(relay));
                if matches!(inner.source, Source::Away(_)) {
                    // Its publisher has come back at another node.
                    inner.source = Source::Nobody;
                }
            }
            if room.is_used() {
                self.seek(&room);
            }
            return;
        }
        let mut ordered = lock(&self.ordered);
        ordered.retain(|_, (at, _)| at.elapsed() < ORDERED);
        if ordered.len() < MAX_FEEDS {
            ordered.insert(relay.title.clone(), (Instant::now(), relay));
        }
    }

    /// The master wants this publisher to end: another one is elsewhere.
    pub(crate) fn end_publisher(&self, title: &Title, publisher: PublisherId) {
        let Some(room) = lock(&self.rooms).get(title).cloned() else { return };
        let inner = room.lock();
        if let Source::Publisher { id, end, .. } = &inner.source
            && *id == publisher
        {
            end.send_replace(Some(Fault::new(TAKEN_OVER, format!("another publisher has taken over `{title}`"))));
        }
    }

    /// Sends every publisher elsewhere.
    pub(crate) fn drain(&self) {
        let rooms: Vec<_> = lock(&self.rooms).values().cloned().collect();
        for room in rooms {
            if let Source::Publisher { end, .. } = &room.lock().source {
                end.send_replace(Some(Fault::new(Code::Draining, "the node is draining; resolve again")));
            }
        }
    }

    /// Asks the master for an upstream, when it is next told anything.
    fn want(&self, title: &Title, failed: &[Failed]) {
        let failed = failed
            .iter()
            .map(|failed| v1::SeatFailure { node: failed.node.to_string(), reason: failed.code.reason().to_owned() });
        let wanted = v1::RelayWanted { title: title.to_string(), failed: failed.collect() };
        let mut all = lock(&self.wanted);
        all.retain(|other| other.title != wanted.title);
        all.push(wanted);
        drop(all);
        self.tells.notify_one();
    }

    /// What the master is to be asked for, once.
    pub(crate) fn take_wanted(&self) -> Vec<v1::RelayWanted> {
        std::mem::take(&mut *lock(&self.wanted))
    }

    /// Waits until there may be something to tell. For one caller.
    pub(crate) async fn tells(&self) {
        self.tells.notified().await;
    }

    /// All feeds, as the master is told of them.
    pub(crate) fn states(&self) -> Vec<FeedState> {
        let rooms: Vec<_> = lock(&self.rooms).values().cloned().collect();
        let mut states: Vec<_> = rooms.iter().filter_map(|room| room.state(self.window_ms())).collect();
        states.sort_by(|a, b| a.title.cmp(&b.title));
        states
    }

    /// A feed has changed from so many bytes to so many. To be called under its lock.
    fn kept(&self, inner: &Inner, before: u64) {
        // One that is over is not counted any more.
        if inner.ended.is_none() {
            self.bytes.fetch_add(inner.feed.bytes(), Ordering::Relaxed);
            self.bytes.fetch_sub(before, Ordering::Relaxed);
        }
    }

    /// Makes all feeds fit.
    fn make_room(&self) -> Result<(), Fault> {
        while self.bytes.load(Ordering::Relaxed) >= self.settings.memory {
            let rooms: Vec<_> = lock(&self.rooms).values().cloned().collect();
            let lasting = rooms.iter().filter_map(|room| {
                let inner = room.lock();
                Some((inner.feed.oldest().filter(|_| inner.ended.is_none())?, room))
            });
            let oldest = lasting.min_by_key(|(at, _)| *at);
            let Some((_, room)) = oldest else {
                let text = "the memory for feeds is full (--live-memory); resolve again";
                return Err(Fault::new(Code::NoCapacity, text).after(Duration::from_secs(5)));
            };
            let mut inner = room.lock();
            let before = inner.feed.bytes();
            inner.feed.evict_oldest();
            self.kept(&inner, before);
        }
        Ok(())
    }

    /// The feed is over, after the groups before this one.
    fn end(&self, room: &Arc<Room>, end: u64) {
        let mut inner = room.lock();
        if inner.ended.is_some() {
            return;
        }
        inner.ended = Some(end.max(1));
        self.bytes.fetch_sub(inner.feed.bytes(), Ordering::Relaxed);
        inner.source = Source::Nobody;
        if let Some(relaying) = inner.relaying.take() {
            relaying.cancel();
        }
        drop(inner);
        self.forget(room);
        room.changed.send_replace(());
        info!(title = %room.title, "feed is over");
    }

    /// The feed is not among the node's any more; those who have it keep it.
    fn forget(&self, room: &Arc<Room>) {
        let mut rooms = lock(&self.rooms);
        if rooms.get(&room.title).is_some_and(|known| Arc::ptr_eq(known, room)) {
            rooms.remove(&room.title);
        }
        drop(rooms);
        self.tells.notify_one();
    }

    /// Ends all that was begun here.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Publishing {
    /// Waits until this session is to end, and why.
    pub(crate) async fn ended(&mut self) -> Fault {
        loop {
            if let Some(fault) = self.end.borrow_and_update().clone() {
                return fault;
            }
            if self.end.changed().await.is_err() {
                return Fault::new(Code::Cancelled, "replaced by another session");
            }
        }
    }

    /// The publisher has said that the feed is over.
    pub(crate) fn finish(&mut self, end: u64) {
        self.finished = true;
        self.live.end(&self.room, end);
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        let mut inner = self.room.lock();
        let own = matches!(&inner.source, Source::Publisher { number, .. } if *number == self.number);
        if self.finished || !own {
            return;
        }
        let elsewhere = self.end.borrow().as_ref().is_some_and(|why| matches!(why.code, TAKEN_OVER | Code::Draining));
        if elsewhere && self.room.is_used() {
            // The feed goes on at another node, and those who watch it here want it from there.
            inner.source = Source::Nobody;
            drop(inner);
            return self.live.seek(&self.room);
        }
        inner.source = Source::Away(self.id);
        drop(inner);
        self.live.tells.notify_one();
        warn!(title = %self.room.title, grace_s = self.live.settings.grace.as_secs(), "the publisher is gone; it is awaited");
        let (live, room, id) = (Arc::clone(&self.live), Arc::clone(&self.room), self.id);
        let stop = live.stop.clone();
        let tasks = live.tasks.clone();
        tasks.spawn(async move {
            let grace = tokio::time::sleep(live.settings.grace);
            if stop.run_until_cancelled(grace).await.is_none() {
                return;
            }
            let mut inner = room.lock();
            if !matches!(&inner.source, Source::Away(other) if *other == id) {
                return;
            }
            if room.is_used() {
                // It may have gone to another node.
                inner.source = Source::Nobody;
                drop(inner);
                live.seek(&room);
            } else {
                let end = inner.feed.newest() + 1;
                drop(inner);
                live.end(&room, end);
            }
        });
    }
}

impl Watching {
    /// Follows what comes.
    pub(crate) fn follow(&self) -> signal::Receiver<()> {
        self.room.changed.subscribe()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let count = if self.relay { &self.room.relays } else { &self.room.viewers };
        count.fetch_sub(1, Ordering::Relaxed);
        self.room.changed.send_replace(());
        self.live.tells.notify_one();
        debug!(title = %self.room.title, relay = self.relay, "left");
    }
}
