//! Headers a target sends.

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{
    AsyncEvent, BHS, LogoutResult, Opcode, RejectReason, ServiceResponse, TaskManagementResult, U24, flag,
    header,
};

header! {
    /// SCSI Response (RFC 7143 11.4).
    ScsiResponse(Opcode::SCSI_RESPONSE, flag::FINAL)
    [
        /// Service response.
        response: ServiceResponse,
        /// SCSI status.
        status: u8,
    ]
    {
        /// Status qualifier (RFC 7144).
        status_qualifier: U16,
        #[doc(hidden)]
        reserved: [u8; 6],
        /// Initiator task tag.
        task_tag: U32,
        /// SNACK tag.
        snack_tag: U32,
        /// Status sequence number.
        stat_sn: U32,
        /// Next CmdSN the target waits for.
        exp_cmd_sn: U32,
        /// Last CmdSN the target accepts.
        max_cmd_sn: U32,
        /// Number of Data-In and R2T PDUs sent for the command; 0 if there was no Data-In.
        exp_data_sn: U32,
        /// Residual count of the read part of a bidirectional command.
        bidi_residual: U32,
        /// Residual count.
        residual: U32,
    }
}

header! {
    /// Task Management Function Response (RFC 7143 11.6).
    TaskManagementResponse(Opcode::TASK_MANAGEMENT_RESPONSE, flag::FINAL)
    [
        /// The answer.
        result: TaskManagementResult,
        #[doc(hidden)]
        reserved: u8,
    ]
    {
        /// Additional response information (RFC 7144).
        additional: [u8; 3],
        #[doc(hidden)]
        reserved2: [u8; 5],
        /// Initiator task tag.
        task_tag: U32,
        #[doc(hidden)]
        reserved3: [u8; 4],
        /// Status sequence number.
        stat_sn: U32,
        /// Next CmdSN the target waits for.
        exp_cmd_sn: U32,
        /// Last CmdSN the target accepts.
        max_cmd_sn: U32,
        #[doc(hidden)]
        reserved4: [u8; 12],
    }
}

header! {
    /// SCSI Data-In (RFC 7143 11.7).
    DataIn(Opcode::DATA_IN, 0)
    [
        #[doc(hidden)]
        reserved: u8,
        /// SCSI status, if the S bit is set.
        status: u8,
    ]
    {
        /// Logical unit number, if the A bit is set.
        lun: [u8; 8],
        /// Initiator task tag.
        task_tag: U32,
        /// Target transfer tag; all ones unless the A bit is set.
        transfer_tag: U32,
        /// Status sequence number, if the S bit is set.
        stat_sn: U32,
        /// Next CmdSN the target waits for.
        exp_cmd_sn: U32,
        /// Last CmdSN the target accepts.
        max_cmd_sn: U32,
        /// Number of this PDU among the Data-In and R2T PDUs of the command.
        data_sn: U32,
        /// Offset of the data in the command's buffer, in bytes.
        buffer_offset: U32,
        /// Residual count, if the S bit is set.
        residual: U32,
    }
}

header! {
    /// Ready To Transfer (RFC 7143 11.8).
    ReadyToTransfer(Opcode::READY_TO_TRANSFER, flag::FINAL)
    [
        #[doc(hidden)]
        reserved: [u8; 2],
    ]
    {
        /// Logical unit number.
        lun: [u8; 8],
        /// Initiator task tag.
        task_tag: U32,
        /// Tag the Data-Out PDUs must carry.
        transfer_tag: U32,
        /// Next status sequence number; not used up.
        stat_sn: U32,
        /// Next CmdSN the target waits for.
        exp_cmd_sn: U32,
        /// Last CmdSN the target accepts.
        max_cmd_sn: U32,
        /// Number of this PDU among the Data-In and R2T PDUs of the command.
        r2t_sn: U32,
        /// Offset of the wanted data in the command's buffer, in bytes.
        buffer_offset: U32,
        /// Bytes wanted.
        desired_length: U32,
    }
}

header! {
    /// Asynchronous Message (RFC 7143 11.9).
    AsynchronousMessage(Opcode::ASYNCHRONOUS_MESSAGE, flag::FINAL)
    [
        #[doc(hidden)]
        reserved: [u8; 2],
    ]
    {
        /// Logical unit number of a SCSI event.
        lun: [u8; 8],
        /// Always all ones.
        task_tag: U32,
        #[doc(hidden)]
        reserved2: [u8; 4],
        /// Status sequence number.
        stat_sn: U32,
        /// Next CmdSN the target waits for.
        exp_cmd_sn: U32,
        /// Last CmdSN the target accepts.
        max_cmd_sn: U32,
        /// What happened.
        event: AsyncEvent,
        /// Vendor code.
        vendor_code: u8,
        /// Connection identifier, if the event is about one.
        parameter1: U16,
        /// Time to wait, in seconds.
        parameter2: U16,
        /// Time to retain, in seconds.
        parameter3: U16,
        #[doc(hidden)]
        reserved3: [u8; 4],
    }
}

header! {
    /// Text Response (RFC 7143 11.11).
    TextResponse(Opcode::TEXT_RESPONSE, 0)
    [
        #[doc(hidden)]
        reserved: [u8; 2],
    ]
    {
        /// Logical unit number.
        lun: [u8; 8],
        /// Initiator task tag.
        task_tag: U32,
        /// Tag under which the initiator asks for the rest; all ones: no rest.
        transfer_tag: U32,
        /// Status sequence number.
        stat_sn: U32,
        /// Next CmdSN the target waits for.
        exp_cmd_sn: U32,
        /// Last CmdSN the target accepts.
        max_cmd_sn: U32,
        #[doc(hidden)]
        reserved2: [u8; 12],
    }
}

header! {
    /// Login Response (RFC 7143 11.13).
    LoginResponse(Opcode::LOGIN_RESPONSE, 0)
    [
        /// Highest version the target speaks.
        version_max: u8,
        /// The version in use.
        version_active: u8,
    ]
    {
        /// Initiator's part of the session identifier.
        isid: [u8; 6],
        /// Target's part of the session identifier.
        tsih: U16,
        /// Initiator task tag.
        task_tag: U32,
        #[doc(hidden)]
        reserved: [u8; 4],
        /// Status sequence number.
        stat_sn: U32,
        /// Next CmdSN the target waits for.
        exp_cmd_sn: U32,
        /// Last CmdSN the target accepts.
        max_cmd_sn: U32,
        /// Status class and detail; a [`LoginStatus`](super::LoginStatus).
        status: U16,
        #[doc(hidden)]
        reserved2: [u8; 10],
    }
}

header! {
    /// Logout Response (RFC 7143 11.15).
    LogoutResponse(Opcode::LOGOUT_RESPONSE, flag::FINAL)
    [
        /// The answer.
        result: LogoutResult,
        #[doc(hidden)]
        reserved: u8,
    ]
    {
        #[doc(hidden)]
        reserved2: [u8; 8],
        /// Initiator task tag.
        task_tag: U32,
        #[doc(hidden)]
        reserved3: [u8; 4],
        /// Status sequence number.
        stat_sn: U32,
        /// Next CmdSN the target waits for.
        exp_cmd_sn: U32,
        /// Last CmdSN the target accepts.
        max_cmd_sn: U32,
        #[doc(hidden)]
        reserved4: [u8; 4],
        /// Seconds to wait before a new login.
        time_to_wait: U16,
        /// Seconds after which the tasks are lost.
        time_to_retain: U16,
        #[doc(hidden)]
        reserved5: [u8; 4],
    }
}

header! {
    /// Reject (RFC 7143 11.17). The data segment holds the header of the rejected PDU.
    Reject(Opcode::REJECT, flag::FINAL)
    [
        /// Why.
        reason: RejectReason,
        #[doc(hidden)]
        reserved: u8,
    ]
    {
        #[doc(hidden)]
        reserved2: [u8; 8],
        /// Always all ones.
        task_tag: U32,
        #[doc(hidden)]
        reserved3: [u8; 4],
        /// Status sequence number.
        stat_sn: U32,
        /// Next CmdSN the target waits for.
        exp_cmd_sn: U32,
        /// Last CmdSN the target accepts.
        max_cmd_sn: U32,
        /// For a rejected data acknowledgement: the next DataSN.
        data_sn: U32,
        #[doc(hidden)]
        reserved4: [u8; 8],
    }
}

header! {
    /// NOP-In (RFC 7143 11.19).
    NopIn(Opcode::NOP_IN, flag::FINAL)
    [
        #[doc(hidden)]
        reserved: [u8; 2],
    ]
    {
        /// Logical unit number.
        lun: [u8; 8],
        /// Tag of the NOP-Out this answers; all ones: a ping of the target.
        task_tag: U32,
        /// Tag the answering NOP-Out must carry; all ones: no answer wanted.
        transfer_tag: U32,
        /// Status sequence number; used up only by an answer.
        stat_sn: U32,
        /// Next CmdSN the target waits for.
        exp_cmd_sn: U32,
        /// Last CmdSN the target accepts.
        max_cmd_sn: U32,
        #[doc(hidden)]
        reserved2: [u8; 12],
    }
}
