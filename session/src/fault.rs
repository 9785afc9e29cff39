//! The faults of a connection and its streams, each with the node's name. Peers' texts are bounded and printable.

use std::{fmt::Display, time::Duration};

use quinn::{ConnectionError, ReadError};
use usher_proto::{Code, Fault, NodeName, text::printable};

/// `TIMEOUT`: `node` sent nothing for `timeout`.
pub fn silent(node: &NodeName, timeout: Duration) -> Fault {
    Fault::new(Code::Timeout, format!("node {node} sent nothing for {} s", timeout.as_secs_f32()))
}

/// The code that the node closed the connection with, or `NETWORK` when the connection failed.
pub fn connection_lost(node: &NodeName, error: &ConnectionError) -> Fault {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = Code::from_quic(close.error_code.into_inner());
            let reason = printable(&String::from_utf8_lossy(&close.reason));
            Fault::new(code, format!("node {node} closed the connection: {} {reason}", code.reason()))
        }
        _ => Fault::new(Code::Network, format!("connection to node {node}: {}", printable(&error.to_string()))),
    }
}

/// The code that the node reset the stream with, or that of the connection's loss.
pub(crate) fn read_failed(node: &NodeName, error: &ReadError) -> Fault {
    match error {
        ReadError::Reset(code) => {
            let code = Code::from_quic(code.into_inner());
            Fault::new(code, format!("node {node} reset the session's stream: {}", code.reason()))
        }
        ReadError::ConnectionLost(error) => connection_lost(node, error),
        other => Fault::new(Code::Internal, format!("read from node {node}: {other}")),
    }
}

/// `INTERNAL`: bytes that are not usher/1. Not `BAD_REQUEST`, which is about frames that this side sent: another node may
/// send valid ones.
pub(crate) fn malformed(node: &NodeName, error: &dyn Display) -> Fault {
    Fault::new(Code::Internal, format!("node {node}: {error}"))
}
