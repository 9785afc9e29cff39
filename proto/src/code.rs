//! The table of errors: reason → gRPC status → QUIC application code → exit code → retry or not. All parts of the cluster map
//! errors through it, so that a failure has one name everywhere.

use std::{collections::HashMap, fmt, time::Duration};

use tonic::Code as Grpc;
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{pb, text::printable, units};

/// The domain of `ErrorInfo` in gRPC statuses.
pub const DOMAIN: &str = "usher";

/// Longest time before a retry that a peer can ask for.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// Kind of a failure, shared by all three roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// No node holds the title or content.
    NotFound,
    /// Every holder, or the request queue, is full.
    NoCapacity,
    /// The caller, or its network, has its share of what there is.
    BudgetExceeded,
    /// Holders exist, but none can serve now.
    Unavailable,
    /// No holder can do what the request needs.
    Unequipped,
    /// The node finishes its sessions and accepts no new ones.
    Draining,
    /// The caller lacks the right to this.
    Denied,
    /// The caller must authenticate with a certificate or a token.
    Unauthenticated,
    /// The ticket is altered, or signed with a key the node does not have.
    TicketInvalid,
    /// The ticket has expired, or is not valid yet.
    TicketExpired,
    /// The ticket was redeemed before.
    TicketReplayed,
    /// The ticket is for another node, title or range.
    TicketMismatch,
    /// A request, frame or field is malformed.
    BadRequest,
    /// The range lies outside the title.
    BadRange,
    /// The file changed or vanished under the session.
    ContentChanged,
    /// The bytes do not hash to the content id.
    VerificationFailed,
    /// The other side did not answer in time.
    Timeout,
    /// The network failed.
    Network,
    /// A disk is full or failed.
    Disk,
    /// Interrupted by the user; the partial result can be resumed.
    Interrupted,
    /// The output exists.
    Exists,
    /// A command line or config file is wrong.
    Usage,
    /// The session ended because its reader left.
    Cancelled,
    /// A fault of this software.
    Internal,
}

/// One row of the table.
struct Row {
    code: Code,
    reason: &'static str,
    grpc: Grpc,
    /// QUIC application error code (RFC 9000, section 20.2), for `reset`, `stop` and `close`.
    quic: u32,
    /// Exit code of the command line.
    exit: u8,
    /// Whether the same request may succeed elsewhere or later.
    retry: bool,
}

const fn row(code: Code, reason: &'static str, grpc: Grpc, quic: u32, exit: u8, retry: bool) -> Row {
    Row { code, reason, grpc, quic, exit, retry }
}

const TABLE: [Row; 24] = [
    row(Code::NotFound, "NOT_FOUND", Grpc::NotFound, 0x10, 3, false),
    row(Code::NoCapacity, "NO_CAPACITY", Grpc::ResourceExhausted, 0x11, 4, true),
    row(Code::Unavailable, "UNAVAILABLE", Grpc::Unavailable, 0x12, 6, true),
    row(Code::Draining, "DRAINING", Grpc::Unavailable, 0x13, 6, true),
    row(Code::Denied, "DENIED", Grpc::PermissionDenied, 0x14, 5, false),
    row(Code::TicketInvalid, "TICKET_INVALID", Grpc::Unauthenticated, 0x15, 5, true),
    row(Code::TicketExpired, "TICKET_EXPIRED", Grpc::Unauthenticated, 0x16, 5, true),
    row(Code::TicketReplayed, "TICKET_REPLAYED", Grpc::Unauthenticated, 0x17, 5, true),
    row(Code::TicketMismatch, "TICKET_MISMATCH", Grpc::PermissionDenied, 0x18, 5, false),
    row(Code::BadRequest, "BAD_REQUEST", Grpc::InvalidArgument, 0x19, 1, false),
    row(Code::BadRange, "BAD_RANGE", Grpc::OutOfRange, 0x1a, 2, false),
    row(Code::ContentChanged, "CONTENT_CHANGED", Grpc::Aborted, 0x1b, 6, true),
    row(Code::VerificationFailed, "VERIFICATION_FAILED", Grpc::DataLoss, 0x1c, 32, true),
    row(Code::Timeout, "TIMEOUT", Grpc::DeadlineExceeded, 0x1d, 8, true),
    row(Code::Network, "NETWORK", Grpc::Unavailable, 0x1e, 6, true),
    row(Code::Disk, "DISK", Grpc::Internal, 0x1f, 9, false),
    row(Code::Interrupted, "INTERRUPTED", Grpc::Cancelled, 0x20, 7, true),
    row(Code::Exists, "EXISTS", Grpc::AlreadyExists, 0x21, 13, false),
    row(Code::Usage, "USAGE", Grpc::InvalidArgument, 0x22, 2, false),
    row(Code::Cancelled, "CANCELLED", Grpc::Cancelled, 0x23, 1, false),
    row(Code::Unauthenticated, "UNAUTHENTICATED", Grpc::Unauthenticated, 0x25, 5, false),
    row(Code::Unequipped, "UNEQUIPPED", Grpc::FailedPrecondition, 0x26, 4, false),
    row(Code::BudgetExceeded, "BUDGET_EXCEEDED", Grpc::ResourceExhausted, 0x27, 4, true),
    row(Code::Internal, "INTERNAL", Grpc::Internal, 0x24, 1, true),
];

impl Code {
    fn row(self) -> &'static Row {
        // The table has a row for every variant; the test below walks all of them.
        TABLE.iter().find(|row| row.code == self).unwrap_or(&TABLE[TABLE.len() - 1])
    }

    /// The stable name, as in `ErrorInfo.reason` and `Refused.reason`.
    pub fn reason(self) -> &'static str {
        self.row().reason
    }

    /// The gRPC status code.
    pub fn grpc(self) -> Grpc {
        self.row().grpc
    }

    /// The QUIC application error code.
    pub fn quic(self) -> u32 {
        self.row().quic
    }

    /// The command line's exit code.
    pub fn exit(self) -> u8 {
        self.row().exit
    }

    /// Whether the same request may succeed elsewhere or later.
    pub fn retry(self) -> bool {
        self.row().retry
    }

    /// The code with this reason; `Internal` for a reason of a newer peer.
    pub fn from_reason(reason: &str) -> Self {
        TABLE.iter().find(|row| row.reason == reason).map_or(Self::Internal, |row| row.code)
    }

    /// The code with this QUIC application error code; `Internal` for one of a newer peer.
    pub fn from_quic(quic: u64) -> Self {
        TABLE.iter().find(|row| u64::from(row.quic) == quic).map_or(Self::Internal, |row| row.code)
    }
}

/// A failure as it travels between the roles and to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Kind of the failure.
    pub code: Code,
    /// A lowercase fragment: what was wrong, with what, and what to do.
    pub message: String,
    /// Delay before a retry, if a retry can help.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// Creates a fault without a retry delay.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// Sets the retry delay.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The retry delay in whole milliseconds, at least 1; 0 for none.
    pub fn retry_after_ms(&self) -> u64 {
        self.retry_after.map_or(0, |wait| units::millis(wait).max(1))
    }

    /// Creates a fault from a peer's message. The text is bounded and its invisible characters are escaped, since it is
    /// printed on terminals.
    pub fn from_parts(reason: &str, message: &str, retry_after_ms: u64) -> Self {
        Self {
            code: Code::from_reason(reason),
            message: printable(message),
            retry_after: (retry_after_ms > 0).then(|| Duration::from_millis(retry_after_ms).min(LONGEST_RETRY)),
        }
    }

    /// Converts to a gRPC status with `ErrorInfo`, and `RetryInfo` where a retry delay is known.
    pub fn to_status(&self) -> tonic::Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(self.code.reason(), DOMAIN, HashMap::<String, String>::new());
        if let Some(wait) = self.retry_after {
            details.set_retry_info(Some(wait));
        }
        tonic::Status::with_error_details(self.code.grpc(), self.message.clone(), details)
    }

    /// Converts from a gRPC status: by its `ErrorInfo` of domain [`DOMAIN`], else by its status code.
    pub fn from_status(status: &tonic::Status) -> Self {
        let details = status.get_error_details();
        let code = match details.error_info() {
            Some(info) if info.domain == DOMAIN => Code::from_reason(&info.reason),
            _ => match status.code() {
                Grpc::NotFound => Code::NotFound,
                Grpc::ResourceExhausted => Code::NoCapacity,
                Grpc::Unavailable => Code::Network,
                Grpc::PermissionDenied | Grpc::Unauthenticated => Code::Denied,
                Grpc::InvalidArgument | Grpc::OutOfRange => Code::BadRequest,
                Grpc::DeadlineExceeded => Code::Timeout,
                Grpc::Cancelled => Code::Cancelled,
                _ => Code::Internal,
            },
        };
        let mut message = printable(status.message());
        if let Some(bad) = details.bad_request() {
            for violation in bad.field_violations.iter().take(8) {
                let text = format!("{}: {}", violation.field, violation.description);
                if !message.contains(&violation.description) {
                    message = format!("{message}: {}", printable(&text));
                }
            }
        }
        Self {
            code,
            message,
            retry_after: details.retry_info().and_then(|info| info.retry_delay).map(|wait| wait.min(LONGEST_RETRY)),
        }
    }
}

impl From<Fault> for tonic::Status {
    fn from(fault: Fault) -> Self {
        fault.to_status()
    }
}

impl From<&pb::wire::Refused> for Fault {
    fn from(no: &pb::wire::Refused) -> Self {
        Self::from_parts(&no.reason, &no.message, no.retry_after_ms)
    }
}

impl From<&pb::v1::Refusal> for Fault {
    fn from(no: &pb::v1::Refusal) -> Self {
        Self::from_parts(&no.reason, &no.message, no.retry_after_ms)
    }
}

impl From<&pb::v1::Failure> for Fault {
    fn from(no: &pb::v1::Failure) -> Self {
        Self::from_parts(&no.reason, &no.message, no.retry_after_ms)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_its_own() {
        for (i, a) in TABLE.iter().enumerate() {
            assert_eq!(Code::from_reason(a.reason), a.code);
            assert_eq!(Code::from_quic(u64::from(a.quic)), a.code);
            assert_eq!(a.code.exit(), a.exit);
            for b in &TABLE[i + 1..] {
                assert!(a.code != b.code && a.reason != b.reason && a.quic != b.quic, "{} and {}", a.reason, b.reason);
            }
        }
        assert_eq!(TABLE.last().map(|row| row.code), Some(Code::Internal));
        // A match without a wildcard: a new variant fails to compile here until the table is looked at.
        let count = |code: Code| match code {
            Code::NotFound | Code::NoCapacity | Code::Unavailable | Code::Unequipped | Code::Draining => 1,
            Code::TicketInvalid | Code::TicketExpired | Code::TicketReplayed | Code::TicketMismatch => 1,
            Code::BadRequest | Code::BadRange | Code::ContentChanged | Code::VerificationFailed => 1,
            Code::Timeout | Code::Network | Code::Disk | Code::Interrupted | Code::Exists | Code::Usage => 1,
            Code::Cancelled | Code::Internal | Code::Unauthenticated | Code::Denied => 1,
            Code::BudgetExceeded => 1,
        };
        assert_eq!(TABLE.iter().map(|row| count(row.code)).sum::<usize>(), 24);
    }

    #[test]
    fn a_fault_survives_grpc() {
        let fault = Fault::new(Code::NoCapacity, "all 2 holders of `a` are full").after(Duration::from_millis(1500));
        assert_eq!(Fault::from_status(&fault.to_status()), fault);
    }

    #[test]
    fn a_peer_cannot_write_to_the_terminal() {
        let fault = Fault::from_parts("NOPE", "a\x1b[2Jb\n", u64::MAX);
        assert_eq!((fault.code, fault.message.as_str()), (Code::Internal, r"a\u{1b}[2Jb\u{a}"));
        assert_eq!(fault.retry_after, Some(Duration::from_secs(3600)));
    }
}
