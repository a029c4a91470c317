//! Opcodes and other coded fields. Unknown values survive.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bits of byte 1.
pub mod flag {
    /// F: the last PDU of a sequence.
    pub const FINAL: u8 = 0x80;
    /// C: the text goes on in the next PDU.
    pub const CONTINUE: u8 = 0x40;
    /// T: the sender is ready for the next login stage.
    pub const TRANSIT: u8 = 0x80;
    /// R: a SCSI command expects data from the target.
    pub const READ: u8 = 0x40;
    /// W: a SCSI command expects data from the initiator.
    pub const WRITE: u8 = 0x20;
    /// Task attribute of a SCSI command.
    pub const ATTRIBUTE: u8 = 0x07;
    /// A: a Data-In asks for an acknowledgement.
    pub const ACKNOWLEDGE: u8 = 0x40;
    /// o: residual overflow of the read part of a bidirectional command.
    pub const BIDI_OVERFLOW: u8 = 0x10;
    /// u: residual underflow of the read part of a bidirectional command.
    pub const BIDI_UNDERFLOW: u8 = 0x08;
    /// O: residual overflow.
    pub const OVERFLOW: u8 = 0x04;
    /// U: residual underflow.
    pub const UNDERFLOW: u8 = 0x02;
    /// S: a Data-In carries the status of the command.
    pub const STATUS: u8 = 0x01;
}

/// Declares a one-byte code with named values.
macro_rules! code {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $number:expr, $text:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(transparent)]
        pub struct $name(pub u8);

        impl $name {
            $($(#[$value_doc])* pub const $value: Self = Self($number);)*

            /// The name in the standard, if the value has one.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$value => Some($text),)*
                    _ => None,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "0x{:02x}", self.0),
                }
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

code! {
    /// Byte 0: the opcode, with the immediate bit 0x40 (RFC 7143 11.2.1.2).
    Opcode {
        /// NOP-Out.
        NOP_OUT = 0x00, "NOP-Out";
        /// SCSI Command.
        SCSI_COMMAND = 0x01, "SCSI Command";
        /// Task Management Function Request.
        TASK_MANAGEMENT_REQUEST = 0x02, "Task Management Function Request";
        /// Login Request.
        LOGIN_REQUEST = 0x03, "Login Request";
        /// Text Request.
        TEXT_REQUEST = 0x04, "Text Request";
        /// SCSI Data-Out.
        DATA_OUT = 0x05, "SCSI Data-Out";
        /// Logout Request.
        LOGOUT_REQUEST = 0x06, "Logout Request";
        /// SNACK Request.
        SNACK_REQUEST = 0x10, "SNACK Request";
        /// NOP-In.
        NOP_IN = 0x20, "NOP-In";
        /// SCSI Response.
        SCSI_RESPONSE = 0x21, "SCSI Response";
        /// Task Management Function Response.
        TASK_MANAGEMENT_RESPONSE = 0x22, "Task Management Function Response";
        /// Login Response.
        LOGIN_RESPONSE = 0x23, "Login Response";
        /// Text Response.
        TEXT_RESPONSE = 0x24, "Text Response";
        /// SCSI Data-In.
        DATA_IN = 0x25, "SCSI Data-In";
        /// Logout Response.
        LOGOUT_RESPONSE = 0x26, "Logout Response";
        /// Ready To Transfer.
        READY_TO_TRANSFER = 0x31, "Ready To Transfer";
        /// Asynchronous Message.
        ASYNCHRONOUS_MESSAGE = 0x32, "Asynchronous Message";
        /// Reject.
        REJECT = 0x3f, "Reject";
    }
}

impl Opcode {
    /// The opcode without the immediate bit and the reserved top bit.
    pub fn kind(self) -> Self {
        Self(self.0 & 0x3f)
    }

    /// The I bit: deliver at once, outside the command order.
    pub fn is_immediate(self) -> bool {
        self.0 & 0x40 != 0
    }

    /// The opcode with the I bit.
    pub fn immediate(self) -> Self {
        Self(self.0 | 0x40)
    }
}

code! {
    /// Task attribute of a SCSI command (RFC 7143 11.3.1.1).
    TaskAttribute {
        /// No attribute given: treated as simple.
        UNTAGGED = 0, "untagged";
        /// Simple.
        SIMPLE = 1, "simple";
        /// Ordered.
        ORDERED = 2, "ordered";
        /// Head of queue.
        HEAD_OF_QUEUE = 3, "head of queue";
        /// ACA.
        ACA = 4, "ACA";
    }
}

code! {
    /// iSCSI service response of a SCSI Response (RFC 7143 11.4.3).
    ServiceResponse {
        /// The status field holds the SCSI status.
        COMPLETED = 0x00, "command completed at target";
        /// The target failed; there is no status.
        TARGET_FAILURE = 0x01, "target failure";
    }
}

code! {
    /// Task management function (RFC 7143 11.5.1).
    TaskManagementFunction {
        /// ABORT TASK.
        ABORT_TASK = 1, "ABORT TASK";
        /// ABORT TASK SET.
        ABORT_TASK_SET = 2, "ABORT TASK SET";
        /// CLEAR ACA.
        CLEAR_ACA = 3, "CLEAR ACA";
        /// CLEAR TASK SET.
        CLEAR_TASK_SET = 4, "CLEAR TASK SET";
        /// LOGICAL UNIT RESET.
        LOGICAL_UNIT_RESET = 5, "LOGICAL UNIT RESET";
        /// TARGET WARM RESET.
        TARGET_WARM_RESET = 6, "TARGET WARM RESET";
        /// TARGET COLD RESET.
        TARGET_COLD_RESET = 7, "TARGET COLD RESET";
        /// TASK REASSIGN.
        TASK_REASSIGN = 8, "TASK REASSIGN";
        /// QUERY TASK (RFC 7144).
        QUERY_TASK = 9, "QUERY TASK";
        /// QUERY TASK SET (RFC 7144).
        QUERY_TASK_SET = 10, "QUERY TASK SET";
        /// I_T NEXUS RESET (RFC 7144).
        I_T_NEXUS_RESET = 11, "I_T NEXUS RESET";
        /// QUERY ASYNCHRONOUS EVENT (RFC 7144).
        QUERY_ASYNCHRONOUS_EVENT = 12, "QUERY ASYNCHRONOUS EVENT";
    }
}

impl TaskManagementFunction {
    /// Only [`Parameters::SCSI_FEATURES`](crate::params::Parameters::SCSI_FEATURES) brings it.
    pub fn is_new(self) -> bool {
        (Self::QUERY_TASK.0..=Self::QUERY_ASYNCHRONOUS_EVENT.0).contains(&self.0)
    }
}

code! {
    /// Answer to a task management function (RFC 7143 11.6.1).
    TaskManagementResult {
        /// Function complete.
        COMPLETE = 0, "function complete";
        /// The task does not exist.
        NO_TASK = 1, "task does not exist";
        /// The LUN does not exist.
        NO_LUN = 2, "LUN does not exist";
        /// The task still has its allegiance to another connection.
        STILL_ALLEGIANT = 3, "task still allegiant";
        /// Task reassignment is not supported.
        NO_REASSIGNMENT = 4, "task allegiance reassignment not supported";
        /// The function is not supported.
        NOT_SUPPORTED = 5, "task management function not supported";
        /// Not authorised.
        NOT_AUTHORIZED = 6, "function authorization failed";
        /// Function succeeded (RFC 7144).
        SUCCEEDED = 7, "function succeeded";
        /// Function rejected.
        REJECTED = 255, "function rejected";
    }
}

code! {
    /// Why a PDU was rejected (RFC 7143 11.17.1).
    RejectReason {
        /// The data digest is wrong.
        DATA_DIGEST = 0x02, "data digest error";
        /// A SNACK was refused.
        SNACK = 0x03, "SNACK reject";
        /// The PDU breaks the protocol.
        PROTOCOL = 0x04, "protocol error";
        /// The target does not know this command.
        NOT_SUPPORTED = 0x05, "command not supported";
        /// Too many immediate commands.
        IMMEDIATE = 0x06, "immediate command reject";
        /// The task tag is in use.
        TASK_IN_PROGRESS = 0x07, "task in progress";
        /// A data acknowledgement names nothing.
        DATA_ACK = 0x08, "invalid data ack";
        /// A field of the PDU is wrong.
        INVALID_FIELD = 0x09, "invalid PDU field";
        /// The target has no room for what is spread over several PDUs.
        OUT_OF_RESOURCES = 0x0a, "long operation reject";
        /// The negotiation was reset: only old targets say that.
        NEGOTIATION_RESET = 0x0b, "negotiation reset";
        /// The target waits for a logout. Ours takes commands until then.
        WAITING_FOR_LOGOUT = 0x0c, "waiting for logout";
    }
}

code! {
    /// What a logout ends (RFC 7143 11.14.1).
    LogoutReason {
        /// The session, with all its connections.
        CLOSE_SESSION = 0, "close the session";
        /// One connection.
        CLOSE_CONNECTION = 1, "close the connection";
        /// One connection, whose tasks another takes over.
        REMOVE_FOR_RECOVERY = 2, "remove the connection for recovery";
    }
}

code! {
    /// Answer to a logout (RFC 7143 11.15.1).
    LogoutResult {
        /// Closed.
        CLOSED = 0, "connection or session closed successfully";
        /// No such connection.
        NO_CONNECTION = 1, "CID not found";
        /// Connection recovery is not supported.
        NO_RECOVERY = 2, "connection recovery not supported";
        /// Cleanup failed.
        CLEANUP_FAILED = 3, "cleanup failed";
    }
}

code! {
    /// Event of an asynchronous message (RFC 7143 11.9.1).
    AsyncEvent {
        /// A SCSI asynchronous event; the data segment holds sense data.
        SCSI = 0, "SCSI event";
        /// The target asks for a logout.
        REQUEST_LOGOUT = 1, "logout requested";
        /// The target will drop, or has dropped, a connection.
        DROP_CONNECTION = 2, "connection dropped";
        /// The target will drop all connections of the session.
        DROP_SESSION = 3, "session dropped";
        /// The target asks for a parameter negotiation.
        RENEGOTIATE = 4, "negotiation requested";
        /// Tasks of the logical unit were aborted by another session (RFC 7143 4.2.3.4).
        FAST_ABORT = 5, "task termination";
    }
}

code! {
    /// Login stage (RFC 7143 11.12.3).
    Stage {
        /// Security negotiation.
        SECURITY = 0, "security negotiation";
        /// Login operational negotiation.
        OPERATIONAL = 1, "operational negotiation";
        /// Full-feature phase.
        FULL_FEATURE = 3, "full-feature phase";
    }
}

/// Login status: class in the high byte, detail in the low byte (RFC 7143 11.13.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LoginStatus(pub u16);

impl LoginStatus {
    /// Login goes on, or is finished.
    pub const SUCCESS: Self = Self(0x0000);
    /// The target has moved for now.
    pub const MOVED_TEMPORARILY: Self = Self(0x0101);
    /// The target has moved for good.
    pub const MOVED_PERMANENTLY: Self = Self(0x0102);
    /// Some other error of the initiator.
    pub const INITIATOR_ERROR: Self = Self(0x0200);
    /// Authentication failed, or is missing.
    pub const AUTHENTICATION_FAILURE: Self = Self(0x0201);
    /// The initiator may not use this target.
    pub const NOT_AUTHORIZED: Self = Self(0x0202);
    /// No such target.
    pub const NOT_FOUND: Self = Self(0x0203);
    /// The target was removed and has no new address.
    pub const REMOVED: Self = Self(0x0204);
    /// No common version.
    pub const UNSUPPORTED_VERSION: Self = Self(0x0205);
    /// Too many connections in this session.
    pub const TOO_MANY_CONNECTIONS: Self = Self(0x0206);
    /// InitiatorName or TargetName is missing.
    pub const MISSING_PARAMETER: Self = Self(0x0207);
    /// The connection cannot join this session.
    pub const CANNOT_JOIN_SESSION: Self = Self(0x0208);
    /// The session type is not supported.
    pub const SESSION_TYPE_NOT_SUPPORTED: Self = Self(0x0209);
    /// No session with this TSIH.
    pub const NO_SUCH_SESSION: Self = Self(0x020a);
    /// A PDU that does not belong into a login.
    pub const INVALID_DURING_LOGIN: Self = Self(0x020b);
    /// The target failed.
    pub const TARGET_ERROR: Self = Self(0x0300);
    /// The target does not serve now.
    pub const SERVICE_UNAVAILABLE: Self = Self(0x0301);
    /// The target is out of resources.
    pub const OUT_OF_RESOURCES: Self = Self(0x0302);

    /// Status class.
    pub fn class(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Status detail.
    pub fn detail(self) -> u8 {
        self.0.to_be_bytes()[1]
    }
}

impl std::fmt::Display for LoginStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match *self {
            Self::SUCCESS => "success",
            Self::MOVED_TEMPORARILY => "the target has moved for now",
            Self::MOVED_PERMANENTLY => "the target has moved for good",
            Self::INITIATOR_ERROR => "initiator error",
            Self::AUTHENTICATION_FAILURE => "authentication failed",
            Self::NOT_AUTHORIZED => "the initiator may not use this target",
            Self::NOT_FOUND => "no such target",
            Self::REMOVED => "the target was removed",
            Self::UNSUPPORTED_VERSION => "no common protocol version",
            Self::TOO_MANY_CONNECTIONS => "too many connections",
            Self::MISSING_PARAMETER => "a name is missing",
            Self::CANNOT_JOIN_SESSION => "the connection cannot join this session",
            Self::SESSION_TYPE_NOT_SUPPORTED => "session type not supported",
            Self::NO_SUCH_SESSION => "no such session",
            Self::INVALID_DURING_LOGIN => "request not allowed during login",
            Self::TARGET_ERROR => "target error",
            Self::SERVICE_UNAVAILABLE => "service unavailable",
            Self::OUT_OF_RESOURCES => "target out of resources",
            _ => "unknown status",
        };
        write!(f, "{text} (0x{:04x})", self.0)
    }
}

impl std::fmt::Debug for LoginStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LoginStatus({self})")
    }
}
