//! A node's media certificates over time: makes them when they are due, switches the resolver, says what to announce.
//!
//! It refuses to know clocks and the way the hashes reach the master: the shell calls [`Keeper::poll`] at
//! [`Keeper::deadline`] and reports [`Keeper::hashes`] when told that they changed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Action, MAX_MEDIA_LIFETIME, MediaCertResolver, MediaCertificate, MediaError, Rotation};
use crate::certificate::BACKDATE;

/// The current, next and former media certificate of one node.
#[derive(Debug)]
pub struct Keeper {
    node: String,
    lifetime: Duration,
    rotation: Rotation,
    resolver: Arc<MediaCertResolver>,
    current: MediaCertificate,
    next: Option<MediaCertificate>,
    old: Option<MediaCertificate>,
}

impl Keeper {
    /// Makes the first certificate. `lifetime` is each certificate's, `ticket_life` how long a seat may be dialled.
    ///
    /// # Errors
    /// As [`MediaCertificate::generate`].
    pub fn new(node: &str, lifetime: Duration, ticket_life: Duration, now: SystemTime) -> Result<Self, MediaError> {
        let current = MediaCertificate::generate(node, lifetime, now)?;
        // The rotation counts from now on, and the hour of backdating is part of the longest validity.
        let lifetime = lifetime.min(MAX_MEDIA_LIFETIME - BACKDATE);
        Ok(Self {
            node: node.to_owned(),
            lifetime,
            rotation: Rotation::new(lifetime, ticket_life, now),
            resolver: MediaCertResolver::new(current.certified_key()),
            current,
            next: None,
            old: None,
        })
    }

    /// What the server serves from, for [`crate::tls::media_server_config`].
    pub fn resolver(&self) -> Arc<MediaCertResolver> {
        Arc::clone(&self.resolver)
    }

    /// SHA-256 of every certificate that a viewer may meet, the one that is served at present first.
    pub fn hashes(&self) -> Vec<[u8; 32]> {
        [Some(&self.current), self.next.as_ref(), self.old.as_ref()].into_iter().flatten().map(|c| c.sha256).collect()
    }

    /// When to call [`Self::poll`] next.
    pub fn deadline(&self) -> SystemTime {
        self.rotation.deadline()
    }

    /// Does everything that is due at `now` and says whether [`Self::hashes`] changed.
    ///
    /// # Errors
    /// As [`MediaCertificate::generate`]; the announcement stays due, and what is served does not change.
    pub fn poll(&mut self, now: SystemTime) -> Result<bool, MediaError> {
        let before = self.hashes();
        loop {
            // Made before it is taken as done: a failure leaves it due.
            if self.rotation.due(now) == Action::Announce {
                self.next = Some(MediaCertificate::generate(&self.node, self.lifetime, now)?);
            }
            match self.rotation.poll(now) {
                Action::Nothing => return Ok(self.hashes() != before),
                Action::Announce => {}
                Action::Switch => {
                    if let Some(next) = self.next.take() {
                        self.resolver.set(next.certified_key());
                        self.old = Some(std::mem::replace(&mut self.current, next));
                    }
                }
                Action::Drop => self.old = None,
            }
        }
    }
}
