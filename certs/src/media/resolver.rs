//! The media certificate of a handshake. Its owner decides when to switch.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The served certificate, shared by the whole server. It can be switched while serving: a handshake that has begun keeps
/// its certificate, and connections are unaffected.
pub struct MediaCertResolver {
    current: RwLock<Arc<CertifiedKey>>,
}

impl MediaCertResolver {
    /// A resolver that serves `current`.
    pub fn new(current: Arc<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self { current: RwLock::new(current) })
    }

    /// Serves `key` from the next handshake on.
    pub fn set(&self, key: Arc<CertifiedKey>) {
        // A poisoned lock still holds a whole `Arc`: nothing under it can be half done.
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = key;
    }

    /// The certificate of the next handshake.
    pub fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for MediaCertResolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl fmt::Debug for MediaCertResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MediaCertResolver").finish_non_exhaustive()
    }
}
