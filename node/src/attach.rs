//! Dials masters, and classifies and logs the loss of a channel. The messages of a channel are in `report`.

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::time;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tracing::{debug, error, info, warn};
use usher_certs::{files::PemSet, tls};
use usher_proto::{Fault, MASTER_PORT};

use crate::presence::Presence;

/// The wait after a refusal that only an operator can resolve.
const REFUSED_WAIT: Duration = Duration::from_secs(10);

/// Time limit of one step of dialling.
const DIAL: Duration = Duration::from_secs(5);

/// Time after which a master that answers no ping counts as lost.
const PING: Duration = Duration::from_secs(5);

/// Address of a master.
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

/// Dials masters with the node's certificate.
pub(crate) struct Dialer {
    pub(crate) masters: Vec<Master>,
    pub(crate) identity: PemSet,
    pub(crate) presence: Arc<Presence>,
}

/// The reason why there is no channel to a master.
#[derive(Debug)]
pub(crate) enum AttachError {
    /// The next attempt may succeed, perhaps at another master.
    Unreachable(anyhow::Error),
    /// Another process is attached under this node's name.
    Taken(Fault),
    /// The master refuses this node as it is configured.
    Rejected(Fault),
}

impl From<tonic::Status> for AttachError {
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
            Some(source) => Self::Unreachable(anyhow::anyhow!("{fault}: {}", chain(source))),
            None => Self::Unreachable(fault.into()),
        }
    }
}

impl From<anyhow::Error> for AttachError {
    fn from(error: anyhow::Error) -> Self {
        Self::Unreachable(error)
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "{error:#}"),
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

impl Dialer {
    /// Dials a master at each of its addresses until one answers.
    ///
    /// # Errors
    /// [`AttachError::Unreachable`] when none does, or none suits the addresses of this node.
    pub(crate) async fn dial(&self, master: &Master) -> Result<Channel, AttachError> {
        match time::timeout(DIAL * 2, self.dial_any(master)).await {
            Ok(dialled) => Ok(dialled?),
            Err(_) => Err(anyhow::anyhow!("master {master} does not answer").into()),
        }
    }

    async fn dial_any(&self, master: &Master) -> anyhow::Result<Channel> {
        let text = master.to_string();
        let found = tokio::net::lookup_host((master.host.as_str(), master.port)).await;
        let found = found.with_context(|| format!("look up master {text}"))?;
        let mut last = anyhow::anyhow!("master {text} has no address");
        for address in found {
            // No address of this node suits this one, so the master could not send clients here.
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

    async fn dial_at(&self, master: &Master, address: SocketAddr) -> anyhow::Result<Channel> {
        let text = master.to_string();
        let config = ClientTlsConfig::new()
            .domain_name(&master.host)
            .ca_certificate(Certificate::from_pem(&self.identity.ca))
            .identity(Identity::from_pem(&self.identity.cert, &self.identity.key));
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .and_then(|endpoint| endpoint.tls_config(config))
            .with_context(|| format!("set up the channel to master {text}"))?
            .connect_timeout(DIAL)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true);
        endpoint.connect().await.map_err(|error| {
            let remedy = match tls::error_in(&error) {
                Some(rustls::Error::InvalidCertificate(_)) => {
                    "; take ca.pem from the authority that issued the master's certificate, and dial a name that is in it"
                }
                Some(rustls::Error::InvalidMessage(_)) => "; that port does not speak TLS: correct --master",
                _ => "",
            };
            anyhow::anyhow!("dial master {text} at {address}: {}{remedy}", chain(&error))
        })
    }
}

/// Logs changes of the attachment, not each attempt.
#[derive(Default)]
pub(crate) struct AttachLog(Logged);

/// The last logged state.
#[derive(Debug, Default, PartialEq, Eq)]
enum Logged {
    #[default]
    Nothing,
    Attached,
    Unreachable,
    Taken(String),
    Rejected(String),
}

impl AttachLog {
    pub(crate) fn attached(&mut self, master: &Master, attachment: u64) {
        info!(%master, attachment, "attached");
        self.0 = Logged::Attached;
    }

    /// Logs an error, if the last one was another. Returns the wait before the next attempt, if it is not the usual one.
    pub(crate) fn lost(&mut self, master: &Master, error: &AttachError) -> Option<Duration> {
        let (logged, wait) = match error {
            AttachError::Unreachable(_) => (Logged::Unreachable, None),
            // A process that was killed gives its name back within a lease.
            AttachError::Taken(fault) => (Logged::Taken(fault.to_string()), None),
            AttachError::Rejected(fault) => (Logged::Rejected(fault.to_string()), Some(REFUSED_WAIT)),
        };
        match error {
            _ if self.0 == logged => debug!(%master, %error, "still not attached"),
            AttachError::Unreachable(_) => {
                warn!(%master, %error, "not attached to a master; running sessions go on, and the node keeps trying");
            }
            AttachError::Taken(_) => {
                error!(%master, %error, "not attached: the name is taken; the node keeps trying");
            }
            AttachError::Rejected(fault) => {
                let reason = fault.code.reason();
                error!(%master, reason, %error, "the master refuses this node; correct its certificate or settings");
            }
        }
        self.0 = logged;
        wait
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
        let unreachable = || AttachError::Unreachable(anyhow::anyhow!("gone"));
        let rejected = |text: &str| AttachError::from(tonic::Status::permission_denied(text));
        let mut log = AttachLog(Logged::Attached);
        assert_eq!(log.lost(&master, &unreachable()), None);
        assert!(log.0 == Logged::Unreachable);
        assert_eq!(log.lost(&master, &rejected("a")), Some(REFUSED_WAIT));
        assert!(log.0 == Logged::Rejected("a".into()));
        assert_eq!(log.lost(&master, &rejected("b")), Some(REFUSED_WAIT));
        assert!(log.0 == Logged::Rejected("b".into()));
        let taken = |text: &str| AttachError::from(tonic::Status::already_exists(text));
        assert_eq!(log.lost(&master, &taken("c")), None);
        assert!(matches!(&log.0, Logged::Taken(text) if text.contains('c')));
        assert_eq!(log.lost(&master, &unreachable()), None);
        assert!(log.0 == Logged::Unreachable);
    }
}
