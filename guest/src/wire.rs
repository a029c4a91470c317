//! The requests and responses of virtio-scsi (VIRTIO 1.2, 5.6.6), as a driver writes and reads them.

use std::sync::atomic::Ordering::Relaxed;

use crate::memory::View;

/// Response codes (5.6.6.1).
pub mod response {
    /// The command has a status; of a task management function: FUNCTION COMPLETE.
    pub const OK: u8 = 0;
    /// The buffers are too small.
    pub const OVERRUN: u8 = 1;
    /// Cancelled by a task management function.
    pub const ABORTED: u8 = 2;
    /// There is no such target.
    pub const BAD_TARGET: u8 = 3;
    /// Cancelled by a reset.
    pub const RESET: u8 = 4;
    /// To be tried again.
    pub const BUSY: u8 = 5;
    /// The target cannot be reached.
    pub const TRANSPORT_FAILURE: u8 = 6;
    /// The target has failed; other paths will not help.
    pub const TARGET_FAILURE: u8 = 7;
    /// The nexus has failed; other paths may help.
    pub const NEXUS_FAILURE: u8 = 8;
    /// Anything else.
    pub const FAILURE: u8 = 9;
    /// FUNCTION SUCCEEDED.
    pub const FUNCTION_SUCCEEDED: u8 = 10;
    /// FUNCTION REJECTED.
    pub const FUNCTION_REJECTED: u8 = 11;
    /// INCORRECT LOGICAL UNIT NUMBER.
    pub const INCORRECT_LUN: u8 = 12;
}

/// Task management functions (5.6.6.2).
pub mod function {
    /// ABORT TASK.
    pub const ABORT_TASK: u32 = 0;
    /// ABORT TASK SET.
    pub const ABORT_TASK_SET: u32 = 1;
    /// CLEAR ACA.
    pub const CLEAR_ACA: u32 = 2;
    /// CLEAR TASK SET.
    pub const CLEAR_TASK_SET: u32 = 3;
    /// I_T NEXUS RESET.
    pub const I_T_NEXUS_RESET: u32 = 4;
    /// LOGICAL UNIT RESET.
    pub const LOGICAL_UNIT_RESET: u32 = 5;
    /// QUERY TASK.
    pub const QUERY_TASK: u32 = 6;
    /// QUERY TASK SET.
    pub const QUERY_TASK_SET: u32 = 7;
}

/// Task attributes (5.6.6.1).
pub mod attribute {
    /// SIMPLE.
    pub const SIMPLE: u8 = 0;
    /// ORDERED.
    pub const ORDERED: u8 = 1;
    /// HEAD OF QUEUE.
    pub const HEAD_OF_QUEUE: u8 = 2;
    /// ACA.
    pub const ACA: u8 = 3;
}

/// The address of a logical unit of a target, in the form that Linux uses.
pub const fn address(target: u8, lun: u16) -> [u8; 8] {
    let [high, low] = lun.to_be_bytes();
    [1, target, high | 0x40, low, 0, 0, 0, 0]
}

/// Sizes that the driver can choose (5.6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of the CDB field.
    pub cdb: u16,
    /// Bytes of the sense field.
    pub sense: u16,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { cdb: 32, sense: 96 }
    }
}

impl Sizes {
    /// Offsets in the configuration space.
    pub(crate) const SENSE_SIZE: u32 = 20;
    pub(crate) const CDB_SIZE: u32 = 24;

    /// Bytes of a request before data-out.
    pub fn request(self) -> usize {
        REQUEST_FIXED + usize::from(self.cdb)
    }

    /// Bytes of a response before data-in.
    pub fn response(self) -> usize {
        RESPONSE_FIXED + usize::from(self.sense)
    }
}

const REQUEST_FIXED: usize = 19;
const RESPONSE_FIXED: usize = 12;
const CDB_MAX: usize = 256;

/// A command for a logical unit, but for its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// The logical unit: [`address`], or anything else.
    pub lun: [u8; 8],
    /// The identifier by which task management knows it.
    pub tag: u64,
    /// One of [`attribute`].
    pub attribute: u8,
    /// The command priority.
    pub priority: u8,
    /// The command reference number.
    pub crn: u8,
    /// The CDB, which is padded with zeroes.
    pub cdb: &'a [u8],
}

impl<'a> Command<'a> {
    /// A SIMPLE command for LUN 0 of target 0, with the tag 0.
    pub fn new(cdb: &'a [u8]) -> Self {
        Self { lun: address(0, 0), tag: 0, attribute: attribute::SIMPLE, priority: 0, crn: 0, cdb }
    }

    /// The same for another logical unit.
    pub fn to(self, lun: [u8; 8]) -> Self {
        Self { lun, ..self }
    }

    /// The same with a tag.
    pub fn tagged(self, tag: u64) -> Self {
        Self { tag, ..self }
    }

    /// Writes the request.
    pub(crate) fn store(&self, view: &View, offset: usize, sizes: Sizes) {
        // The usual size fits into one cache line.
        match sizes.request() {
            ..=64 => self.store_within::<64>(view, offset, sizes),
            _ => self.store_within::<{ REQUEST_FIXED + CDB_MAX }>(view, offset, sizes),
        }
    }

    fn store_within<const MOST: usize>(&self, view: &View, offset: usize, sizes: Sizes) {
        let mut bytes = [0; MOST];
        bytes[..8].copy_from_slice(&self.lun);
        bytes[8..16].copy_from_slice(&self.tag.to_le_bytes());
        bytes[16..19].copy_from_slice(&[self.attribute, self.priority, self.crn]);
        bytes[REQUEST_FIXED..][..self.cdb.len()].copy_from_slice(self.cdb);
        view.write(offset, &bytes[..sizes.request()]);
    }
}

/// The fixed part of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) sense_length: u32,
    pub(crate) residual: u32,
    pub(crate) qualifier: u16,
    pub(crate) status: u8,
    pub(crate) response: u8,
}

impl Response {
    /// Makes a response field look like none that a device writes.
    pub(crate) fn clear(view: &View, offset: usize) {
        view.u32(offset + 8).store(u32::MAX, Relaxed);
    }

    pub(crate) fn load(view: &View, offset: usize) -> Self {
        let [low, high, status, response] = view.u32(offset + 8).load(Relaxed).to_ne_bytes();
        Self {
            sense_length: view.u32(offset).load(Relaxed).to_le(),
            residual: view.u32(offset + 4).load(Relaxed).to_le(),
            qualifier: u16::from_le_bytes([low, high]),
            status,
            response,
        }
    }

    pub(crate) const fn sense_offset() -> usize {
        RESPONSE_FIXED
    }

    /// The fewest bytes of a response that says anything.
    pub(crate) const LEAST: u32 = RESPONSE_FIXED as u32;
}

/// An event (5.6.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What has happened; [`Self::MISSED`] may be set as well.
    pub event: u32,
    /// The logical unit.
    pub lun: [u8; 8],
    /// More about it.
    pub reason: u32,
}

impl Event {
    /// Set if events were lost.
    pub const MISSED: u32 = 1 << 31;
    /// Nothing.
    pub const NONE: u32 = 0;
    /// A logical unit was reset, has come or has gone.
    pub const TRANSPORT_RESET: u32 = 1;
    /// An asynchronous notification.
    pub const ASYNC_NOTIFY: u32 = 2;
    /// A logical unit's parameters have changed.
    pub const PARAMETER_CHANGE: u32 = 3;

    pub(crate) const SIZE: usize = 16;

    pub(crate) fn load(view: &View, offset: usize) -> Self {
        let mut lun = [0; 8];
        view.read(offset + 4, &mut lun);
        let word = |at| view.u32(offset + at).load(Relaxed).to_le();
        Self { event: word(0), lun, reason: word(12) }
    }
}

/// A task management request.
pub fn task_management(function: u32, lun: [u8; 8], tag: u64) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[4..8].copy_from_slice(&function.to_le_bytes());
    bytes[8..16].copy_from_slice(&lun);
    bytes[16..].copy_from_slice(&tag.to_le_bytes());
    bytes
}

/// What an asynchronous notification request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notifications {
    /// Which events the logical unit can report.
    Query,
    /// To report them.
    Subscribe,
}

/// An asynchronous notification request.
pub fn notification_request(kind: Notifications, lun: [u8; 8], events: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = match kind {
        Notifications::Query => 1,
        Notifications::Subscribe => 2,
    };
    bytes[4..12].copy_from_slice(&lun);
    bytes[12..].copy_from_slice(&events.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestMemory;

    #[test]
    fn a_request_is_laid_out_as_the_standard_says() {
        let memory = GuestMemory::with_size(4096).unwrap();
        let view = memory.view(0, 4096).unwrap();
        let command = Command {
            lun: address(3, 0x123),
            tag: 0x0807_0605_0403_0201,
            attribute: attribute::ORDERED,
            priority: 7,
            crn: 9,
            cdb: &[0x28, 1],
        };
        view.fill(0xff);
        command.store(&view, 64, Sizes { cdb: 4, sense: 0 });
        let bytes = [1, 3, 0x41, 0x23, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 7, 9, 0x28, 1, 0, 0, 0xff];
        assert_eq!(view.bytes(64, 24), bytes);
    }

    #[test]
    fn a_response_is_read_as_the_standard_says() {
        let memory = GuestMemory::with_size(4096).unwrap();
        let view = memory.view(0, 64).unwrap();
        view.write(0, &[18, 0, 0, 0, 0, 2, 0, 0, 5, 6, 2, 9]);
        let response = Response { sense_length: 18, residual: 512, qualifier: 0x605, status: 2, response: 9 };
        assert_eq!(Response::load(&view, 0), response);
        Response::clear(&view, 0);
        assert_eq!(Response::load(&view, 0).response, 0xff);
    }

    #[test]
    fn control_requests_are_laid_out_as_the_standard_says() {
        let bytes = task_management(function::QUERY_TASK, address(1, 2), 0x55);
        assert_eq!(bytes[..12], [0, 0, 0, 0, 6, 0, 0, 0, 1, 1, 0x40, 2]);
        assert_eq!(bytes[12..18], [0, 0, 0, 0, 0x55, 0]);
        let bytes = notification_request(Notifications::Subscribe, address(0, 0), 16);
        assert_eq!(bytes, [2, 0, 0, 0, 1, 0, 0x40, 0, 0, 0, 0, 0, 16, 0, 0, 0]);
    }
}
