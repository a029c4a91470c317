use thiserror::Error;

use crate::pdu::{LoginStatus, Opcode};

/// Why a connection cannot go on. Send what is in the outbox, then close it.
///
/// At ErrorRecoveryLevel 0 the session ends with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// A header digest is wrong: the length fields cannot be trusted.
    #[error("a PDU arrived with a wrong header digest")]
    HeaderDigest,
    /// The peer sends more than MaxRecvDataSegmentLength.
    #[error("the peer sent a data segment of {length} bytes; at most {limit} are allowed")]
    DataSegmentTooLong {
        /// What the header says, in bytes.
        length: u32,
        /// What we declared, in bytes.
        limit: u32,
    },
    /// More additional header segments than any PDU needs.
    #[error("the peer sent {length} bytes of additional header segments; at most {limit} are allowed")]
    HeaderTooLong {
        /// What the header says, in bytes.
        length: usize,
        /// [`MAX_AHS`](crate::limits::MAX_AHS).
        limit: usize,
    },
    /// A PDU that cannot come now.
    #[error("the peer sent a {0} PDU where none is allowed")]
    Unexpected(Opcode),
    /// The login was refused; as target, the response is in the outbox.
    #[error("login refused: {0}")]
    LoginRefused(LoginStatus),
    /// The target has not proved who it is, or breaks the rules of the method by which it should have.
    #[error("the target is not authenticated: {0}")]
    NotAuthenticated(&'static str),
    /// The peer's login answers break the rules of negotiation.
    #[error("the target's login answers break the rules of negotiation")]
    Negotiation,
    /// A PDU of the target does not fit the state of the task it names.
    #[error("the target sent a {0} PDU that fits no task")]
    NoSuchTask(Opcode),
    /// The data that the target sends for a command, or asks for, is not what was agreed on.
    #[error("the target breaks the rules of data transfer: {0}")]
    Transfer(&'static str),
    /// The target skipped or repeated a StatSN.
    #[error("the target sent StatSN {received}; {expected} was due")]
    StatSn {
        /// What came.
        received: u32,
        /// What was due.
        expected: u32,
    },
    /// A data digest of the target is wrong.
    #[error("a PDU arrived with a wrong data digest")]
    DataDigest,
    /// A text is longer than [`MAX_TEXT_RESPONSE`](crate::limits::MAX_TEXT_RESPONSE).
    #[error("the peer sent a text longer than the limit")]
    TextTooLong,
}
