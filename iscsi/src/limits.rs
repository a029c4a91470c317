//! Every bound this crate puts on outside input.

/// MaxRecvDataSegmentLength we declare unless told otherwise, in bytes.
pub const DEFAULT_MAX_RECV_DATA_SEGMENT: u32 = 256 * 1024;
/// MaxBurstLength we agree to unless told otherwise, in bytes.
pub const DEFAULT_MAX_BURST: u32 = 1024 * 1024;
/// FirstBurstLength we agree to unless told otherwise, in bytes.
pub const DEFAULT_FIRST_BURST: u32 = 256 * 1024;
/// MaxOutstandingR2T we agree to unless told otherwise.
pub const DEFAULT_OUTSTANDING_R2T: u32 = 4;
/// Commands an initiator may have open at once in one session unless told otherwise.
pub const DEFAULT_COMMAND_WINDOW: u16 = 128;
/// The widest command window a session may be given.
pub const MAX_COMMAND_WINDOW: u16 = 4096;
/// Immediate commands and task management functions open at once, on top of the window.
pub const MAX_IMMEDIATE_TASKS: u16 = 32;

/// Runs of bytes that the data of one command may be in while others before them are missing (DataPDUInOrder=No).
pub const MAX_EXTENTS: usize = 128;

/// Data segment length both sides may send before MaxRecvDataSegmentLength is declared (RFC 7143 13.12), and
/// in every login PDU.
pub const LOGIN_DATA_SEGMENT: u32 = 8192;
/// Additional header segments accepted in one PDU, in bytes: one extended CDB and one bidirectional length.
pub const MAX_AHS: usize = 4 + 244 + 8;
/// The longest CDB: 16 bytes in the header and 244 in an additional header segment.
pub const MAX_CDB: usize = 260;
/// The longest key of a text (RFC 7143 6.1).
pub const MAX_KEY: usize = 63;
/// The longest value of a text key.
pub const MAX_VALUE: usize = 255;
/// The longest value of a key that carries binary data, such as a CHAP response.
pub const MAX_BINARY_VALUE: usize = 8192;
/// The longest challenge of CHAP that is answered, in bytes (RFC 7143 12.1.3).
pub const MAX_CHALLENGE: usize = 1024;
/// The longest secret of CHAP, in bytes.
pub const MAX_SECRET: usize = 255;
/// The longest iSCSI name, in bytes (RFC 7143 4.2.7.1).
pub const MAX_NAME: usize = 223;
/// One text request, spread over PDUs with the C bit, in bytes.
pub const MAX_TEXT_REQUEST: usize = 64 * 1024;
/// One text response, spread over PDUs, in bytes. A longer list of targets is cut at a whole target.
pub const MAX_TEXT_RESPONSE: usize = 1024 * 1024;
/// Login requests in one login; a peer that needs more is refused.
pub const MAX_LOGIN_REQUESTS: u32 = 64;
/// Sense data in a SCSI Response, in bytes (SPC-6 4.4).
pub const MAX_SENSE: usize = 252;
