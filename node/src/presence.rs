//! How the node can be dialled, as the master is to tell: addresses, media certificates, and whether it drains.
//! Owns the certificates' rotation; refuses to know how the master hears of it.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use tokio::{sync::watch, time};
use tracing::{debug, error, info, warn};
use usher_certs::media::{Keeper, MediaCertResolver};
use usher_proto::{model, pb::v1, ticket::LIFETIME_SECS};

/// Longest sleep between two looks at the calendar, which people and NTP may move.
const LOOK: Duration = Duration::from_secs(60);

/// The node's presence.
pub(crate) struct Presence {
    keeper: Mutex<Keeper>,
    /// Where to find the node's address from; empty when it was set.
    listen: Vec<SocketAddr>,
    state: watch::Sender<model::Presence>,
    /// When a node that drains ends the sessions that still run.
    ends: Mutex<Option<Instant>>,
}

impl Presence {
    /// Of a node that is dialled at `advertise`.
    ///
    /// # Errors
    /// When the certificate's lifetime is not one that browsers take.
    pub(crate) fn new(node: &str, lifetime: Duration, advertise: Vec<SocketAddr>) -> anyhow::Result<Self> {
        let ticket_life = Duration::from_secs(LIFETIME_SECS);
        let keeper = Keeper::new(node, lifetime, ticket_life, SystemTime::now()).context("make a media certificate")?;
        let certificates = keeper.hashes();
        let state = model::Presence { drain_left: Duration::ZERO, addresses: advertise, certificates, draining: false };
        let state = watch::Sender::new(state);
        Ok(Self { keeper: Mutex::new(keeper), listen: Vec::new(), state, ends: Mutex::new(None) })
    }

    /// The same of a node that listens on `listen`: where it is dialled is found out from that, if it was not set.
    pub(crate) fn listening_on(self, listen: Vec<SocketAddr>) -> Self {
        let set = !self.state.borrow().addresses.is_empty();
        Self { listen: if set { Vec::new() } else { listen }, ..self }
    }

    /// What QUIC serves from.
    pub(crate) fn resolver(&self) -> Arc<MediaCertResolver> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner).resolver()
    }

    /// Follows the presence.
    pub(crate) fn subscribe(&self) -> watch::Receiver<model::Presence> {
        self.state.subscribe()
    }

    /// As the master is told now: what is left of a drain is counted from here.
    pub(crate) fn to_pb(&self, state: &model::Presence) -> v1::Presence {
        let ends = *self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let left = ends.map(|ends| ends.saturating_duration_since(Instant::now()));
        // What runs may do so for a moment yet: 0 would say that it has been ended.
        let drain_left = left.map_or(Duration::ZERO, |left| left.max(Duration::from_millis(1)));
        model::Presence { drain_left, ..state.clone() }.to_pb()
    }

    /// The node wants no new sessions, and ends those that run at `ends`.
    pub(crate) fn drain(&self, ends: Instant) {
        self.turn(true, Some(ends));
    }

    /// It has ended the sessions that ran, and wants no new ones.
    pub(crate) fn drained(&self) {
        self.turn(true, None);
    }

    /// It wants sessions again.
    pub(crate) fn undrain(&self) {
        self.turn(false, None);
    }

    fn turn(&self, draining: bool, ends: Option<Instant>) {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = ends;
        self.state.send_modify(|state| state.draining = draining);
    }

    /// Finds out at which address `master` would reach this node, unless that was set: an unspecified address is
    /// replaced by the one from which the master is reached.
    ///
    /// # Errors
    /// When there is no way to the master.
    pub(crate) fn locate(&self, master: SocketAddr) -> anyhow::Result<()> {
        if self.listen.is_empty() {
            return Ok(());
        }
        let mut addresses = Vec::new();
        for listen in &self.listen {
            if !listen.ip().is_unspecified() {
                addresses.push(*listen);
            } else if listen.is_ipv6() || master.is_ipv4() {
                addresses.push(SocketAddr::new(local_ip(master)?, listen.port()));
            }
        }
        let mut seen = std::collections::HashSet::new();
        addresses.retain(|address| seen.insert(*address));
        anyhow::ensure!(!addresses.is_empty(), "no address of this node suits a master at {master}; set --advertise");
        let loopback = self.listen.iter().any(|listen| listen.ip().is_unspecified())
            && addresses.iter().all(|address| address.ip().is_loopback());
        let changed = self.state.send_if_modified(|state| {
            let changed = state.addresses != addresses;
            state.addresses = addresses;
            changed
        });
        if changed && loopback {
            warn!(%master, "clients are told to dial this node at a loopback address; set --advertise");
        }
        Ok(())
    }

    /// Does what is due of the rotation at `now`, and says when to come again.
    pub(crate) fn rotate(&self, now: SystemTime) -> SystemTime {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        match keeper.poll(now) {
            Ok(true) => {
                info!(announced = keeper.hashes().len(), "media certificate rotation");
                self.state.send_modify(|state| state.certificates = keeper.hashes());
            }
            Ok(false) => {}
            Err(error) => error!(%error, "make the next media certificate; trying again"),
        }
        keeper.deadline()
    }

    /// Rotates for ever.
    pub(crate) async fn keep(&self) {
        loop {
            let now = SystemTime::now();
            let wait = self.rotate(now).duration_since(now).unwrap_or_default();
            debug!(seconds = wait.as_secs(), "next step of the media certificate rotation");
            // What failed is due at once: not more often than each second.
            time::sleep(wait.clamp(Duration::from_secs(1), LOOK)).await;
        }
    }
}

/// The address that the kernel would use towards `peer`; nothing is sent.
fn local_ip(peer: SocketAddr) -> anyhow::Result<std::net::IpAddr> {
    let any = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let probe = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(peer)?;
        socket.local_addr()
    });
    Ok(probe.with_context(|| format!("find this host's address towards {peer}"))?.ip())
}
