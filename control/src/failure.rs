//! Why a request is not carried out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt::Display;
use thiserror::Error;

/// Why a request is not carried out: the error object of JSON-RPC 2.0 (clause 5.1).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema, Error)]
#[error("{message}")]
pub struct Failure {
    /// For programs: one of those below.
    pub code: i64,
    /// For people.
    pub message: String,
    /// More for programs, where the code has more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// Codes by number, name and meaning, as they are documented.
pub const CODES: &[(i64, &str, &str)] = &[
    (Failure::PARSE, "PARSE", "what has come is not JSON"),
    (Failure::REQUEST, "REQUEST", "it is JSON, but not a request"),
    (Failure::METHOD, "METHOD", "there is no such method"),
    (Failure::PARAMETERS, "PARAMETERS", "the method does not take these parameters"),
    (Failure::INTERNAL, "INTERNAL", "a fault of the daemon; its log says more"),
    (Failure::NOT_FOUND, "NOT_FOUND", "what the request speaks of is not there"),
    (Failure::DENIED, "DENIED", "the caller has no right to this"),
    (
        Failure::GENERATION,
        "GENERATION",
        "something has changed since `if_generation`; `data.generation` is the current one",
    ),
    (Failure::BUSY, "BUSY", "there is too much to do already; try again later"),
    (Failure::CANCELLED, "CANCELLED", "the job was cancelled"),
    (Failure::STOPPING, "STOPPING", "the daemon is about to end"),
    (Failure::CONFLICT, "CONFLICT", "there is something else of this name, or at this place"),
    (Failure::FAILED, "FAILED", "it was tried and is not possible; the message says why"),
    (
        Failure::PARTLY,
        "PARTLY",
        "it was tried, is not possible, and not everything could be changed back; the message says what",
    ),
];

#[expect(missing_docs, reason = "`CODES` says what they mean")]
impl Failure {
    pub const PARSE: i64 = -32700;
    pub const REQUEST: i64 = -32600;
    pub const METHOD: i64 = -32601;
    pub const PARAMETERS: i64 = -32602;
    pub const INTERNAL: i64 = -32603;
    pub const NOT_FOUND: i64 = -32001;
    pub const DENIED: i64 = -32002;
    pub const GENERATION: i64 = -32003;
    pub const BUSY: i64 = -32004;
    pub const CANCELLED: i64 = -32005;
    pub const STOPPING: i64 = -32006;
    pub const FAILED: i64 = -32007;
    pub const CONFLICT: i64 = -32008;
    pub const PARTLY: i64 = -32009;
}

impl Failure {
    /// One with a code of those above, or of the owner's.
    pub fn new(code: i64, message: impl Display) -> Self {
        Self { code, message: message.to_string(), data: None }
    }

    /// The same with more for programs.
    pub fn with_data(self, data: Value) -> Self {
        Self { data: Some(data), ..self }
    }

    /// The same, of what is done all the same if the boolean parameter of this name is true: `data.allowed_by` tells it.
    pub fn allowed_by(mut self, parameter: &str) -> Self {
        let data = self.data.get_or_insert_with(|| json!({}));
        if let Some(data) = data.as_object_mut() {
            data.insert("allowed_by".to_owned(), parameter.into());
        }
        self
    }

    /// The parameter that allows it, if there is one.
    pub fn parameter(&self) -> Option<&str> {
        self.data.as_ref()?.get("allowed_by")?.as_str()
    }

    /// What the request speaks of is not there.
    pub fn not_found(message: impl Display) -> Self {
        Self::new(Self::NOT_FOUND, message)
    }

    /// It was tried and is not possible.
    pub fn failed(message: impl Display) -> Self {
        Self::new(Self::FAILED, message)
    }

    /// The parameters are not what the method takes.
    pub fn parameters(message: impl Display) -> Self {
        Self::new(Self::PARAMETERS, message)
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(Self::CANCELLED, "the job was cancelled")
    }

    pub(crate) fn busy(message: impl Display) -> Self {
        Self::new(Self::BUSY, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_allows_it_is_told_with_the_rest() {
        let failure = Failure::failed("no").with_data(json!({ "steps": [] })).allowed_by("shrink");
        assert_eq!(failure.data, Some(json!({ "steps": [], "allowed_by": "shrink" })));
        assert_eq!(failure.parameter(), Some("shrink"));
        assert_eq!(Failure::failed("no").allowed_by("x").data, Some(json!({ "allowed_by": "x" })));
        assert_eq!(Failure::failed("no").parameter(), None);
    }
}
