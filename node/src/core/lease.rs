//! The end of a session whose ticket was not renewed. All times are Unix seconds, as in tickets.

use usher_proto::ticket::LEEWAY_SECS;

/// Minimum time in seconds that a session continues after a master has returned: its client has to find the master too.
const RENEWAL_TIME: u64 = 60;

/// Whether the node is attached to a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MasterState {
    /// Attached.
    Attached {
        /// Start of the attachment, in Unix seconds.
        since: u64,
    },
    /// No master, so no client can renew a ticket.
    Absent,
}

/// Unix second at which a session ends whose ticket ends at `until`; `None` for never. Without a master it may continue
/// for `grace` seconds more.
pub fn end(until: Option<u64>, master: MasterState, grace: u64) -> Option<u64> {
    let until = until?.saturating_add(LEEWAY_SECS);
    Some(match master {
        MasterState::Attached { since } => until.max(since.saturating_add(RENEWAL_TIME)),
        MasterState::Absent => until.saturating_add(grace),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_ends_a_session_only_while_it_could_be_renewed() {
        let (attached, hour) = (|since| MasterState::Attached { since }, 3600);
        for (what, until, master, grace, over) in [
            ("for ever", None, attached(0), hour, None),
            ("for ever, alone", None, MasterState::Absent, 0, None),
            ("at its end and a clock's error", Some(1000), attached(100), hour, Some(1010)),
            ("alone, by the grace later", Some(1000), MasterState::Absent, hour, Some(4610)),
            ("alone, without grace", Some(1000), MasterState::Absent, 0, Some(1010)),
            ("the master came back after its end", Some(1000), attached(3000), hour, Some(3060)),
            ("the master came back just before", Some(1000), attached(990), hour, Some(1050)),
            ("nothing overflows", Some(u64::MAX), MasterState::Absent, u64::MAX, Some(u64::MAX)),
            ("nor here", Some(0), attached(u64::MAX), 0, Some(u64::MAX)),
        ] {
            assert_eq!(end(until, master, grace), over, "{what}");
        }
    }
}
