//! Violations: the invalid fields of a message and the expected values.

use std::collections::HashMap;

use tonic_types::{ErrorDetails, StatusExt as _};

use crate::code::{Code, DOMAIN};

/// One invalid field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's path, as in `exclude[3]`.
    pub field: String,
    /// The problem and the expected value.
    pub description: String,
}

/// A message with at least one invalid field.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct Invalid(pub Vec<Violation>);

impl Invalid {
    /// One violation.
    pub fn one(field: impl Into<String>, description: impl ToString) -> Self {
        Self(vec![Violation { field: field.into(), description: description.to_string() }])
    }

    /// Converts to `INVALID_ARGUMENT` with `BadRequest` and `ErrorInfo`.
    pub fn to_status(&self) -> tonic::Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(Code::BadRequest.reason(), DOMAIN, HashMap::<String, String>::new());
        for violation in &self.0 {
            details.add_bad_request_violation(&violation.field, &violation.description);
        }
        tonic::Status::with_error_details(Code::BadRequest.grpc(), self.to_string(), details)
    }

    fn text(&self) -> String {
        let lines: Vec<String> = self.0.iter().take(8).map(|v| format!("{}: {}", v.field, v.description)).collect();
        lines.join("; ")
    }
}

impl From<Invalid> for tonic::Status {
    fn from(invalid: Invalid) -> Self {
        invalid.to_status()
    }
}

/// Collects violations while a message is read.
#[derive(Default)]
pub(crate) struct Check(Vec<Violation>);

impl Check {
    /// Returns a valid value; records an invalid one as a violation.
    pub(crate) fn take<T, E: ToString>(&mut self, field: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|error| self.note(field, error.to_string())).ok()
    }

    /// Records a violation unless `ok`.
    pub(crate) fn require(&mut self, ok: bool, field: &str, description: impl FnOnce() -> String) {
        if !ok {
            self.note(field, description());
        }
    }

    pub(crate) fn note(&mut self, field: &str, description: String) {
        // Bounded: a hostile list may hold thousands of invalid items.
        if self.0.len() < 16 {
            self.0.push(Violation { field: field.to_owned(), description });
        }
    }

    /// Returns the value unless a violation was recorded; `value` is `None` only in that case.
    pub(crate) fn done<T>(self, value: Option<T>) -> Result<T, Invalid> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(Invalid(self.0)),
        }
    }
}
