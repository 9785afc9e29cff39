//! How a command fails: with an exit code and a message, and advice where a certificate is missing.

use std::fmt;

use usher_proto::{Code, Fault};

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind of failure; its `exit()` is the exit code.
    pub code: Code,
    /// The text to print after `error: `.
    pub message: String,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A mistake on the command line.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// The master's refusal, with `advice` when it asks for a certificate.
    pub(super) fn refused(fault: Fault, advice: &str) -> Self {
        match fault.code {
            Code::Unauthenticated => Self::new(fault.code, format!("{}; {advice}", fault.message)),
            _ => fault.into(),
        }
    }

    /// The master's refusal of an operator's command.
    pub(super) fn for_operator(fault: Fault) -> Self {
        Self::refused(fault, "pass it with --cert FILE --key FILE")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { code: fault.code, message: fault.message }
    }
}
