//! Ticket keys of a node: those of the last Welcome, and for a minute those before, since a ticket may have been signed
//! just before a master was replaced.

use std::time::{Duration, Instant};

use usher_proto::{
    NodeName,
    ticket::{self, Key, Ticket, TicketError},
};

/// Time that a replaced key stays valid: the lifetime of a ticket.
pub const GRACE: Duration = Duration::from_secs(ticket::LIFETIME_SECS);

/// Ticket keys, current and recently replaced.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    current: Vec<Key>,
    old: Option<(Instant, Vec<Key>)>,
}

impl Keyring {
    /// The keyring after a Welcome with `keys`.
    #[must_use]
    pub fn welcome(&self, now: Instant, keys: Vec<Key>) -> Self {
        let dropped = |key: &&Key| !keys.iter().any(|new| new.kid() == key.kid());
        let retired: Vec<Key> = self.current.iter().filter(dropped).cloned().collect();
        let old = if retired.is_empty() { self.old.clone() } else { Some((now + GRACE, retired)) };
        Self { current: keys, old: old.filter(|(until, _)| now < *until) }
    }

    /// Verifies a token offline, at `now` for the keys and at `unix` (seconds) for the ticket.
    ///
    /// # Errors
    /// As [`ticket::verify`].
    pub fn verify(&self, now: Instant, unix: u64, node: &NodeName, token: &str) -> Result<Ticket, TicketError> {
        self.by_any(now, |keys| ticket::verify(keys, node, unix, token))
    }

    /// Verifies a token that renews a session.
    ///
    /// # Errors
    /// As [`ticket::verify_renewal`].
    pub fn verify_renewal(&self, now: Instant, unix: u64, node: &NodeName, token: &str) -> Result<Ticket, TicketError> {
        self.by_any(now, |keys| ticket::verify_renewal(keys, node, unix, token))
    }

    fn by_any(
        &self,
        now: Instant,
        check: impl Fn(&[Key]) -> Result<Ticket, TicketError>,
    ) -> Result<Ticket, TicketError> {
        match (check(&self.current), &self.old) {
            (Err(TicketError::Signature), Some((until, old))) if now < *until => check(old),
            (result, _) => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use usher_proto::{
        SessionId,
        ticket::{Claims, Purpose},
    };

    use super::*;

    #[test]
    fn a_replaced_key_lives_for_another_minute() {
        let node = NodeName::parse("n").expect("a name");
        let claims = Claims { exp: 1000, ..Claims::new(&node, SessionId(1), "a", Purpose::Play, 0) };
        let (first, second) = (Key::new([1; 32]), Key::new([2; 32]));
        let (by_first, by_second) = (first.sign(&claims).expect("signs"), second.sign(&claims).expect("signs"));
        let now = Instant::now();
        let check = |ring: &Keyring, after: u64, token: &str| {
            ring.verify(now + Duration::from_secs(after), 10, &node, token).is_ok()
        };
        let ring = Keyring::default();
        assert!(!check(&ring, 0, &by_first));
        let ring = ring.welcome(now, vec![first.clone()]).welcome(now, vec![second.clone()]);
        assert!(check(&ring, 0, &by_first) && check(&ring, 59, &by_first) && check(&ring, 0, &by_second));
        assert!(!check(&ring, 60, &by_first) && check(&ring, 60, &by_second));
        // A restarted master sends the same key again: nothing is retired, and an old key keeps its end.
        let again = ring.welcome(now + Duration::from_secs(30), vec![second]);
        assert!(check(&again, 59, &by_first) && !check(&again, 60, &by_first) && check(&again, 99, &by_second));
    }
}
