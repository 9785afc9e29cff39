//! A node's media certificates over time: generates them when due, switches the resolver, and lists the hashes to announce.
//! The caller owns the clock: it calls [`Keeper::poll`] at [`Keeper::deadline`] and announces [`Keeper::hashes`] when they
//! changed.

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
    /// Generates the first certificate. `lifetime` is that of each certificate, `ticket_life` the time for which a seat can be
    /// dialled.
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

    /// The resolver of the server, for [`crate::tls::media_server_config`].
    pub fn resolver(&self) -> Arc<MediaCertResolver> {
        Arc::clone(&self.resolver)
    }

    /// SHA-256 of every certificate that a viewer may be shown, the present one first.
    pub fn hashes(&self) -> Vec<[u8; 32]> {
        [Some(&self.current), self.next.as_ref(), self.old.as_ref()].into_iter().flatten().map(|c| c.sha256).collect()
    }

    /// Time of the next call of [`Self::poll`].
    pub fn deadline(&self) -> SystemTime {
        self.rotation.deadline()
    }

    /// Performs every action due at `now` and returns whether [`Self::hashes`] changed.
    ///
    /// # Errors
    /// As [`MediaCertificate::generate`]; the announcement stays due, and the served certificate does not change.
    pub fn poll(&mut self, now: SystemTime) -> Result<bool, MediaError> {
        let before = self.hashes();
        loop {
            // Generated before the action counts as done: a failure leaves it due.
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
