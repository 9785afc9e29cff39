//! Dials the masters in turn, for as long as the node runs, and keeps one channel up. Logs when that changes, not each
//! try. What travels on the channel is in `report`.

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{sync::watch, time};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tracing::{debug, error, info, warn};
use usher_certs::files::PemSet;
use usher_proto::{Bitrate, BootId, Fault, MASTER_PORT, backoff::Backoff, model::Equipment};

use crate::{drain::Drain, house::House, link::Interface, presence::Presence, report};

/// The first wait is at most this.
const FAST: Duration = Duration::from_millis(200);

/// The longest wait for a master that is not there: one that was started again knows nothing until its nodes are back.
/// A thousand nodes then try about once a second each, scattered over the two.
const AWAY: Duration = Duration::from_secs(2);

/// The wait after a refusal that only a person can put right.
const SLOW: Duration = Duration::from_secs(10);

/// How long one step of dialling may take.
const DIAL: Duration = Duration::from_secs(5);

/// A master that answers no ping for this long is gone.
const PING: Duration = Duration::from_secs(5);

/// Where a master listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    host: String,
    port: u16,
}

/// A text that names no master.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no master: write HOST, HOST:PORT, IPv4:PORT or [IPv6]:PORT")]
pub struct MasterError(String);

impl FromStr for Master {
    type Err = MasterError;

    fn from_str(text: &str) -> Result<Self, MasterError> {
        let bad = || MasterError(text.to_owned());
        if let Ok(ip) = text.parse::<std::net::IpAddr>() {
            return Ok(Self { host: ip.to_string(), port: MASTER_PORT });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { host: address.ip().to_string(), port: address.port() });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| bad())?),
            None => (text, MASTER_PORT),
        };
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if host.is_empty() || port == 0 || !host.bytes().all(good) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl From<SocketAddr> for Master {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// All that an attachment needs.
pub(crate) struct Link {
    pub(crate) house: Arc<House>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) drain: Arc<Drain>,
    pub(crate) masters: Vec<Master>,
    pub(crate) identity: PemSet,
    pub(crate) boot: BootId,
    pub(crate) zone: String,
    pub(crate) capacity: Bitrate,
    pub(crate) equipment: Equipment,
    /// Where others' traffic is seen; `None` to see none.
    pub(crate) interface: Option<Interface>,
    /// True while a master has this node's whole catalog.
    pub(crate) attached: watch::Sender<bool>,
}

/// Why a channel is not, or no longer, there.
#[derive(Debug)]
pub(crate) enum Lost {
    /// It may work the next time, or elsewhere.
    Away(anyhow::Error),
    /// Another process is attached under this node's name.
    Taken(Fault),
    /// The master does not want this node as it is.
    Rejected(Fault),
}

impl From<tonic::Status> for Lost {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code::{InvalidArgument, PermissionDenied, Unauthenticated};
        let fault = Fault::from_status(&status);
        if status.code() == tonic::Code::AlreadyExists {
            return Self::Taken(fault);
        }
        if matches!(status.code(), InvalidArgument | PermissionDenied | Unauthenticated) {
            return Self::Rejected(fault);
        }
        // A broken connection has its reason only in its sources.
        match std::error::Error::source(&status) {
            Some(source) => Self::Away(anyhow::anyhow!("{fault}: {}", chain(source))),
            None => Self::Away(fault.into()),
        }
    }
}

impl From<anyhow::Error> for Lost {
    fn from(error: anyhow::Error) -> Self {
        Self::Away(error)
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(error) => write!(f, "{error:#}"),
            Self::Taken(fault) | Self::Rejected(fault) => write!(f, "{fault}"),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// What was logged last, so that it is not logged again.
#[derive(PartialEq, Eq)]
enum Told {
    Nothing,
    Attached,
    Away,
    Taken(String),
    Rejected(String),
}

impl Link {
    /// Keeps the node attached, for ever.
    pub(crate) async fn keep(self) {
        let mut backoff = Backoff::new(FAST, AWAY);
        let mut told = Told::Nothing;
        for attachment in 1.. {
            // The list is not empty: the configuration is checked for that.
            let turn = usize::try_from(attachment - 1).unwrap_or(0) % self.masters.len().max(1);
            let Some(master) = self.masters.get(turn) else { return };
            let welcomed = || {
                backoff.reset();
                info!(%master, attachment, "attached");
                told = Told::Attached;
            };
            let lost = self.attach(master, attachment, welcomed).await;
            self.attached.send_replace(false);
            self.house.meter().away();
            let wait = tell(&mut told, master, &lost).unwrap_or_else(|| backoff.wait(&mut rand::rng()));
            time::sleep(wait).await;
        }
    }

    async fn attach(&self, master: &Master, attachment: u64, welcomed: impl FnOnce()) -> Lost {
        let dialled = match time::timeout(DIAL * 2, self.dial(master)).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return error.into(),
            Err(_) => return anyhow::anyhow!("master {master} does not answer").into(),
        };
        match report::attach(self, dialled, attachment, welcomed).await {
            Ok(never) => match never {},
            Err(lost) => lost,
        }
    }

    async fn dial(&self, master: &Master) -> anyhow::Result<tonic::transport::Channel> {
        let text = master.to_string();
        let found = tokio::net::lookup_host((master.host.as_str(), master.port)).await;
        let found = found.with_context(|| format!("look up master {text}"))?;
        // Addresses that none of this node's suits are of no use: the master could not tell clients where it is.
        let mut last = anyhow::anyhow!("master {text} has no address");
        for address in found {
            if let Err(error) = self.presence.locate(address) {
                last = error;
                continue;
            }
            match self.dial_at(master, address).await {
                Ok(channel) => return Ok(channel),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn dial_at(&self, master: &Master, address: SocketAddr) -> anyhow::Result<tonic::transport::Channel> {
        let text = master.to_string();
        let tls = ClientTlsConfig::new()
            .domain_name(&master.host)
            .ca_certificate(Certificate::from_pem(&self.identity.ca))
            .identity(Identity::from_pem(&self.identity.cert, &self.identity.key));
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .and_then(|endpoint| endpoint.tls_config(tls))
            .with_context(|| format!("set up the channel to master {text}"))?
            .connect_timeout(DIAL)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true);
        endpoint.connect().await.map_err(|error| anyhow::anyhow!("dial master {text} at {address}: {}", chain(&error)))
    }
}

/// Logs a loss, if it is news. Returns the wait, if it is not the usual one.
fn tell(told: &mut Told, master: &Master, lost: &Lost) -> Option<Duration> {
    match lost {
        Lost::Away(_) if *told == Told::Away => {
            debug!(%master, %lost, "still no master");
            None
        }
        Lost::Away(_) => {
            warn!(%master, %lost, "not attached to a master; running sessions go on, and the node keeps trying");
            *told = Told::Away;
            None
        }
        Lost::Taken(fault) => {
            let text = fault.to_string();
            if *told == Told::Taken(text.clone()) {
                debug!(%master, %lost, "still kept out by another process of this name");
            } else {
                error!(%master, %lost, "not attached: the name is taken; the node keeps trying");
                *told = Told::Taken(text);
            }
            // A process that was killed gives its name back within a lease.
            None
        }
        Lost::Rejected(fault) => {
            let text = fault.to_string();
            if *told == Told::Rejected(text.clone()) {
                debug!(%master, %lost, "still refused by the master");
            } else {
                let reason = fault.code.reason();
                error!(%master, reason, %lost, "the master refuses this node; correct its certificate or settings");
                *told = Told::Rejected(text);
            }
            Some(SLOW)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters() {
        for (text, shown) in [
            ("master.example", "master.example:7440"),
            ("localhost:1", "localhost:1"),
            ("127.0.0.1", "127.0.0.1:7440"),
            ("::1", "[::1]:7440"),
            ("[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(text.parse::<Master>().map(|m| m.to_string()), Ok(shown.to_owned()));
        }
        for wrong in ["", ":7440", "a:b", "a:0", "a:70000", "https://a", "a b", "a/b"] {
            assert!(wrong.parse::<Master>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_loss_is_logged_once() {
        let master = "m".parse().expect("a master");
        let away = || Lost::Away(anyhow::anyhow!("gone"));
        let rejected = |text: &str| Lost::from(tonic::Status::permission_denied(text));
        let mut told = Told::Attached;
        assert_eq!(tell(&mut told, &master, &away()), None);
        assert!(told == Told::Away);
        assert_eq!(tell(&mut told, &master, &rejected("a")), Some(SLOW));
        assert!(told == Told::Rejected("a".into()));
        assert_eq!(tell(&mut told, &master, &rejected("b")), Some(SLOW));
        assert!(told == Told::Rejected("b".into()));
        let taken = |text: &str| Lost::from(tonic::Status::already_exists(text));
        assert_eq!(tell(&mut told, &master, &taken("c")), None);
        assert!(matches!(&told, Told::Taken(text) if text.contains('c')));
        assert_eq!(tell(&mut told, &master, &away()), None);
        assert!(told == Told::Away);
    }
}
