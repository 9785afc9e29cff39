//! How clients reach the node, as reported to the master: addresses, media certificates, and whether it drains. Rotates
//! the certificates; does not know how the master receives this.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use tokio::{sync::watch, time};
use tracing::{debug, error, info, warn};
use usher_certs::media::{Keeper, MediaCertResolver};
use usher_proto::{model, pb::v1, ticket::LIFETIME_SECS};

use crate::sync::lock;

/// Maximum sleep of the rotation, since people and NTP may set the clock.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// The presence of the node.
pub(crate) struct Presence {
    keeper: Mutex<Keeper>,
    /// Listening addresses from which the node's address is determined; empty when it is configured.
    listen: Vec<SocketAddr>,
    state: watch::Sender<model::Presence>,
    /// Time at which a draining node ends its remaining sessions.
    ends: Mutex<Option<Instant>>,
}

impl Presence {
    /// The presence of a node that clients dial at `advertise`.
    ///
    /// # Errors
    /// When browsers would not accept the lifetime of the certificate.
    pub(crate) fn new(node: &str, lifetime: Duration, advertise: Vec<SocketAddr>) -> anyhow::Result<Self> {
        let ticket_life = Duration::from_secs(LIFETIME_SECS);
        let keeper = Keeper::new(node, lifetime, ticket_life, SystemTime::now()).context("make a media certificate")?;
        let certificates = keeper.hashes();
        let state = model::Presence { drain_left: Duration::ZERO, addresses: advertise, certificates, draining: false };
        let state = watch::Sender::new(state);
        Ok(Self { keeper: Mutex::new(keeper), listen: Vec::new(), state, ends: Mutex::new(None) })
    }

    /// The same for a node that listens on `listen`, from which its addresses are determined unless they are
    /// configured.
    pub(crate) fn listening_on(self, listen: Vec<SocketAddr>) -> Self {
        let set = !self.state.borrow().addresses.is_empty();
        Self { listen: if set { Vec::new() } else { listen }, ..self }
    }

    /// Certificate resolver for the QUIC server.
    pub(crate) fn resolver(&self) -> Arc<MediaCertResolver> {
        lock(&self.keeper).resolver()
    }

    /// Watches the presence.
    pub(crate) fn subscribe(&self) -> watch::Receiver<model::Presence> {
        self.state.subscribe()
    }

    /// The message for the master, with the time left of a drain from now.
    pub(crate) fn to_pb(&self, state: &model::Presence) -> v1::Presence {
        let ends = *lock(&self.ends);
        let left = ends.map(|ends| ends.saturating_duration_since(Instant::now()));
        // At least 1 ms: 0 would mean that the drain has ended.
        let drain_left = left.map_or(Duration::ZERO, |left| left.max(Duration::from_millis(1)));
        model::Presence { drain_left, ..state.clone() }.to_pb()
    }

    /// Reports that the node accepts no sessions, and ends active ones at `ends`.
    pub(crate) fn drain(&self, ends: Instant) {
        self.turn(true, Some(ends));
    }

    /// Reports that the node has ended its sessions, and accepts none.
    pub(crate) fn drained(&self) {
        self.turn(true, None);
    }

    /// Reports that the node accepts sessions again.
    pub(crate) fn undrain(&self) {
        self.turn(false, None);
    }

    fn turn(&self, draining: bool, ends: Option<Instant>) {
        *lock(&self.ends) = ends;
        self.state.send_modify(|state| state.draining = draining);
    }

    /// Determines the addresses at which clients reach this node, unless they are configured: an unspecified address is
    /// replaced by the local one towards `master`.
    ///
    /// # Errors
    /// When there is no route to the master.
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
            warn!(%master, "the master sends clients a loopback address for this node; set --advertise");
        }
        Ok(())
    }

    /// Performs the rotation that is due at `now`. Returns the time of the next step.
    pub(crate) fn rotate(&self, now: SystemTime) -> SystemTime {
        let mut keeper = lock(&self.keeper);
        match keeper.poll(now) {
            Ok(true) => {
                info!(announced = keeper.hashes().len(), "media certificate rotation");
                self.state.send_modify(|state| state.certificates = keeper.hashes());
            }
            Ok(false) => {}
            Err(error) => error!(%error, "cannot make the next media certificate; retrying"),
        }
        keeper.deadline()
    }

    /// Rotates forever.
    pub(crate) async fn keep(&self) {
        loop {
            let now = SystemTime::now();
            let wait = self.rotate(now).duration_since(now).unwrap_or_default();
            debug!(seconds = wait.as_secs(), "next step of the media certificate rotation");
            // A failed step is due at once, but retried at most once a second.
            time::sleep(wait.clamp(Duration::from_secs(1), MAX_SLEEP)).await;
        }
    }
}

/// The local address that the kernel would use towards `peer`; sends nothing.
fn local_ip(peer: SocketAddr) -> anyhow::Result<std::net::IpAddr> {
    let any = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let probe = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(peer)?;
        socket.local_addr()
    });
    Ok(probe.with_context(|| format!("find this host's address towards {peer}"))?.ip())
}
