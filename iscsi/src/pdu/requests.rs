//! Headers an initiator sends.

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{BHS, Opcode, TaskManagementFunction, U24, flag, header};

header! {
    /// SCSI Command (RFC 7143 11.3).
    ScsiCommand(Opcode::SCSI_COMMAND, flag::FINAL)
    [
        /// Command priority in the four high bits (RFC 7144).
        priority: u8,
        #[doc(hidden)]
        reserved: u8,
    ]
    {
        /// Logical unit number.
        lun: [u8; 8],
        /// Initiator task tag.
        task_tag: U32,
        /// Expected data transfer length: of the write part if the command is bidirectional.
        expected_length: U32,
        /// Command sequence number.
        cmd_sn: U32,
        /// Next StatSN the initiator waits for.
        exp_stat_sn: U32,
        /// The first 16 bytes of the CDB.
        cdb: [u8; 16],
    }
}

header! {
    /// Task Management Function Request (RFC 7143 11.5).
    TaskManagementRequest(Opcode::TASK_MANAGEMENT_REQUEST, flag::FINAL)
    [
        #[doc(hidden)]
        reserved: [u8; 2],
    ]
    {
        /// Logical unit number.
        lun: [u8; 8],
        /// Initiator task tag.
        task_tag: U32,
        /// The task the function is about.
        referenced_task_tag: U32,
        /// Command sequence number.
        cmd_sn: U32,
        /// Next StatSN the initiator waits for.
        exp_stat_sn: U32,
        /// CmdSN of the task the function is about.
        ref_cmd_sn: U32,
        /// For TASK REASSIGN: the next Data-In or R2T expected.
        exp_data_sn: U32,
        #[doc(hidden)]
        reserved2: [u8; 8],
    }
}

impl TaskManagementRequest {
    /// The function in byte 1.
    pub fn function(&self) -> TaskManagementFunction {
        TaskManagementFunction(self.flags & 0x7f)
    }
}

header! {
    /// SCSI Data-Out (RFC 7143 11.7).
    DataOut(Opcode::DATA_OUT, 0)
    [
        #[doc(hidden)]
        reserved: [u8; 2],
    ]
    {
        /// Logical unit number.
        lun: [u8; 8],
        /// Initiator task tag.
        task_tag: U32,
        /// Tag of the R2T this answers; all ones: unsolicited.
        transfer_tag: U32,
        #[doc(hidden)]
        reserved2: [u8; 4],
        /// Next StatSN the initiator waits for.
        exp_stat_sn: U32,
        #[doc(hidden)]
        reserved3: [u8; 4],
        /// Number of this PDU in its sequence.
        data_sn: U32,
        /// Offset of the data in the command's buffer, in bytes.
        buffer_offset: U32,
        #[doc(hidden)]
        reserved4: [u8; 4],
    }
}

header! {
    /// Text Request (RFC 7143 11.10).
    TextRequest(Opcode::TEXT_REQUEST, flag::FINAL)
    [
        #[doc(hidden)]
        reserved: [u8; 2],
    ]
    {
        /// Logical unit number.
        lun: [u8; 8],
        /// Initiator task tag.
        task_tag: U32,
        /// Tag of the text response this goes on from.
        transfer_tag: U32,
        /// Command sequence number.
        cmd_sn: U32,
        /// Next StatSN the initiator waits for.
        exp_stat_sn: U32,
        #[doc(hidden)]
        reserved2: [u8; 16],
    }
}

header! {
    /// Login Request (RFC 7143 11.12).
    LoginRequest(Opcode::LOGIN_REQUEST.immediate(), 0)
    [
        /// Highest version the initiator speaks.
        version_max: u8,
        /// Lowest version the initiator speaks.
        version_min: u8,
    ]
    {
        /// Initiator's part of the session identifier.
        isid: [u8; 6],
        /// Target's part of the session identifier; 0: a new session.
        tsih: U16,
        /// Initiator task tag.
        task_tag: U32,
        /// Connection identifier.
        cid: U16,
        #[doc(hidden)]
        reserved: [u8; 2],
        /// Command sequence number.
        cmd_sn: U32,
        /// Next StatSN the initiator waits for.
        exp_stat_sn: U32,
        #[doc(hidden)]
        reserved2: [u8; 16],
    }
}

header! {
    /// Logout Request (RFC 7143 11.14).
    LogoutRequest(Opcode::LOGOUT_REQUEST, flag::FINAL)
    [
        #[doc(hidden)]
        reserved: [u8; 2],
    ]
    {
        #[doc(hidden)]
        reserved2: [u8; 8],
        /// Initiator task tag.
        task_tag: U32,
        /// The connection to close.
        cid: U16,
        #[doc(hidden)]
        reserved3: [u8; 2],
        /// Command sequence number.
        cmd_sn: U32,
        /// Next StatSN the initiator waits for.
        exp_stat_sn: U32,
        #[doc(hidden)]
        reserved4: [u8; 16],
    }
}

header! {
    /// NOP-Out (RFC 7143 11.18).
    NopOut(Opcode::NOP_OUT, flag::FINAL)
    [
        #[doc(hidden)]
        reserved: [u8; 2],
    ]
    {
        /// Logical unit number.
        lun: [u8; 8],
        /// Initiator task tag; all ones: no answer wanted.
        task_tag: U32,
        /// Tag of the NOP-In this answers.
        transfer_tag: U32,
        /// Command sequence number.
        cmd_sn: U32,
        /// Next StatSN the initiator waits for.
        exp_stat_sn: U32,
        #[doc(hidden)]
        reserved2: [u8; 16],
    }
}
