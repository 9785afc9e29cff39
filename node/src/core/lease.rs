//! When a session must end whose ticket was not renewed. Knows times, not sessions; all of them are Unix seconds, as
//! tickets have them.

use usher_proto::ticket::LEEWAY_SECS;

/// How long after a master has come back a session runs on at least: its client has to find the master too.
const CHANCE: u64 = 60;

/// Whether the node has a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tie {
    /// It has one since then.
    Attached {
        /// Unix seconds.
        since: u64,
    },
    /// It has none, so that no client can renew a ticket.
    Alone,
}

/// The Unix second from which on a session is over that may run until `until`; `None` for never. A node without a master
/// lets it run for `grace` seconds more.
pub fn end(until: Option<u64>, tie: Tie, grace: u64) -> Option<u64> {
    let until = until?.saturating_add(LEEWAY_SECS);
    Some(match tie {
        Tie::Attached { since } => until.max(since.saturating_add(CHANCE)),
        Tie::Alone => until.saturating_add(grace),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_ends_a_session_only_while_it_could_be_renewed() {
        let (attached, hour) = (|since| Tie::Attached { since }, 3600);
        for (what, until, tie, grace, over) in [
            ("for ever", None, attached(0), hour, None),
            ("for ever, alone", None, Tie::Alone, 0, None),
            ("at its end and a clock's error", Some(1000), attached(100), hour, Some(1010)),
            ("alone, by the grace later", Some(1000), Tie::Alone, hour, Some(4610)),
            ("alone, without grace", Some(1000), Tie::Alone, 0, Some(1010)),
            ("the master came back after its end", Some(1000), attached(3000), hour, Some(3060)),
            ("the master came back just before", Some(1000), attached(990), hour, Some(1050)),
            ("nothing overflows", Some(u64::MAX), Tie::Alone, u64::MAX, Some(u64::MAX)),
            ("nor here", Some(0), attached(u64::MAX), 0, Some(u64::MAX)),
        ] {
            assert_eq!(end(until, tie, grace), over, "{what}");
        }
    }
}
