//! Every bound of this transport but the [`LoginLimits`](crate::LoginLimits); those of the protocol stand in [`lunette_iscsi::limits`].

/// Longest data-out or data-in of one command, in bytes; a command that wants more is refused.
pub const MAX_TRANSFER: u64 = 32 << 20;
/// Bytes of buffers that one connection holds for data-in and for data-out that it asks for by R2T. Commands beyond wait, but
/// for one of each logical unit, so that none is shut out by others. Data that comes without R2T is bounded by the command
/// window and FirstBurstLength.
pub const CONNECTION_BUFFERS: usize = 32 << 20;
/// Bytes of buffers on one reactor. Commands beyond wait; one whose data comes unasked is answered BUSY.
pub const REACTOR_BUFFERS: usize = 256 << 20;
/// Bytes of those that the sessions share: none takes more than it leaves to others.
pub const SHARED_BUFFERS: usize = 224 << 20;
/// Bytes of those that stores may have of commands that were aborted: of one that does not answer, more commands are only over when it
/// has.
pub const LENT_BUFFERS: usize = 32 << 20;
/// Bytes of those that data without R2T may take, shared in the same way.
pub const UNSOLICITED_BUFFERS: usize = 160 << 20;
/// Bytes of buffers that a session gets even if others have taken all of the shared ones.
pub const LEAST_SHARE: usize = 64 << 10;
/// Bytes of buffers that one reactor keeps when nobody uses them.
pub const REACTOR_BUFFERS_KEPT: usize = 32 << 20;
/// Bytes that the connections of one reactor occupy for requests that have come in part and answers that are to be sent,
/// beside a fixed amount for each. When there are more, the connection with the most is closed.
pub const CONNECTION_MEMORY: usize = 128 << 20;
/// Bytes that an initiator has to send, of data that commands wait for, in each
/// [`silence_time`](crate::EntityOptions::silence_time), and bytes that it has to take; fewer if there are fewer.
pub const LEAST_PROGRESS: u64 = 256 << 10;
/// Work of one connection before others have their turn: the bytes that commands move, and [`COMMAND_WORK`] for each.
pub const TURN: u64 = 4 << 20;
/// What a command counts beside the bytes that it moves.
pub const COMMAND_WORK: u64 = 16 << 10;
/// Addresses without a connection of which it is remembered how often they have logged in.
pub const REMEMBERED_ADDRESSES: usize = 4096;

/// Closed connections of one reactor whose last input is still taken in.
pub(crate) const LINGERING: usize = 256;
/// How much that is of each, in bytes.
pub(crate) const LINGERING_BYTES: usize = 4 << 20;
/// Bytes received by one call, beside data that has its place.
pub(crate) const RECEIVE: usize = 256 << 10;
/// The same while an initiator sends [`LARGE_DATA`], so that the next header comes with the data before it, and little of its
/// own data has to be copied to its place.
pub(crate) const RECEIVE_LITTLE: usize = 4 << 10;
/// Data of one PDU, still to come, that counts as large.
pub(crate) const LARGE_DATA: usize = 32 << 10;
/// Buffers of at most twice [`RECEIVE`] that a reactor keeps for input that has to wait.
pub(crate) const SPARES: usize = 4;
/// Calls before other connections have their turn.
pub(crate) const RECEIVES_PER_TURN: usize = 16;
/// Data worth receiving straight into a command's buffer, in bytes.
pub(crate) const DIRECT_RECEIVE: u64 = 4096;
/// Most data-in for which a command gets a buffer before it is known how much it gives, in bytes.
pub(crate) const AT_ONCE: u32 = 1 << 20;
/// Bytes received for a batch of answers, and to be sent with it, at which it is not held back any longer.
pub(crate) const BATCH: usize = 256 << 10;
/// Bytes to be sent above which nothing more is received, until half of them are gone.
pub(crate) const OUTBOX: usize = 4 << 20;
/// Connections taken from the listening socket in one turn.
pub(crate) const ACCEPTS_PER_TURN: usize = 64;
