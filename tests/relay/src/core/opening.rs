//! Arrival times of a TCP connection's bytes through a relay. The handshake with a relay on the same machine takes no time,
//! so the relay adds the time of a handshake with the server. Congestion windows are not modelled: the first flights of a TLS
//! and HTTP/2 client fit into an initial window (RFC 6928: ten segments).

use std::time::{Duration, Instant};

/// One accepted connection.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// When the client dialled; its kernel reported the connection as open at once.
    pub accepted: Instant,
    /// Delay of one direction.
    pub delay: Duration,
}

impl Opening {
    /// The time at which bytes that the client wrote at `now` arrive at the server. Bytes written before the SYN would have
    /// been answered count as written at that answer.
    pub fn to_server(self, now: Instant) -> Instant {
        now.max(self.accepted + 2 * self.delay) + self.delay
    }

    /// The time at which bytes that the server wrote at `now` arrive at the client.
    pub fn to_client(self, now: Instant) -> Instant {
        now + self.delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_include_the_time_of_the_handshake() {
        let (accepted, ms) = (Instant::now(), Duration::from_millis);
        let opening = Opening { accepted, delay: ms(100) };
        // Written, arrives at the server, at the client; in ms since the connection was accepted.
        for (written, server, client) in [(0, 300, 100), (199, 300, 299), (200, 300, 300), (201, 301, 301)] {
            assert_eq!(opening.to_server(accepted + ms(written)), accepted + ms(server));
            assert_eq!(opening.to_client(accepted + ms(written)), accepted + ms(client));
        }
    }
}
