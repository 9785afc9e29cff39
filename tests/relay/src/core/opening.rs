//! When bytes of a TCP connection arrive through a relay. The kernels of two ends on one machine shake hands in no time,
//! so a relay must charge what the handshake would have cost. Congestion windows are not modelled: the first flights of
//! a TLS and HTTP/2 client fit into an initial window (RFC 6928: ten segments).

use std::time::{Duration, Instant};

/// One accepted connection.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// When the client dialled; its kernel reported the connection as open at once.
    pub accepted: Instant,
    /// One way.
    pub delay: Duration,
}

impl Opening {
    /// When bytes arrive at the server that the client wrote at `now`. Those that it could not have written yet, for its
    /// SYN had not been answered, count as written then.
    pub fn to_server(self, now: Instant) -> Instant {
        now.max(self.accepted + 2 * self.delay) + self.delay
    }

    /// When bytes arrive at the client that the server wrote at `now`.
    pub fn to_client(self, now: Instant) -> Instant {
        now + self.delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_pay_for_the_handshake() {
        let (accepted, ms) = (Instant::now(), Duration::from_millis);
        let opening = Opening { accepted, delay: ms(100) };
        // Written, arrives at the server, at the client; in ms since the connection was accepted.
        for (written, server, client) in [(0, 300, 100), (199, 300, 299), (200, 300, 300), (201, 301, 301)] {
            assert_eq!(opening.to_server(accepted + ms(written)), accepted + ms(server));
            assert_eq!(opening.to_client(accepted + ms(written)), accepted + ms(client));
        }
    }
}
