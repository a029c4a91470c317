//! What a peripheral device type is to the engine.

use crate::{
    ChangeError, CommandSpec, Decoded, Io, IoKind, LogicalUnit, ModePageSpec, NexusId, Request, Saved,
    StateError,
};
use lunette_scsi::log::{LogPageCode, LogParameter};
use lunette_scsi::mode::BlockDescriptor;
use lunette_scsi::{AdditionalSense, NotificationClasses, Sense, SenseKey};
use lunette_store::{Backing, IoError, IoResult, Post};
use std::sync::Arc;

/// A peripheral device type: its commands and pages. One for each logical unit; its methods are called from every reactor.
pub trait Device: Send + Sync {
    /// Peripheral qualifier and device type: byte 0 of INQUIRY data and of VPD pages (SPC-4 6.6.2).
    fn peripheral(&self) -> u8;

    /// The rows of its commands; [`decode`](Device::decode) is called with an index into them.
    fn commands(&self) -> Box<dyn Iterator<Item = &'static CommandSpec>>;

    /// Checks a CDB of the row `row` and says what is to be done.
    fn decode(&self, row: usize, request: &Request<'_>) -> Decoded;

    /// Whether the medium can be removed (RMB).
    fn removable(&self) -> bool {
        false
    }

    /// Version descriptors for INQUIRY data after SAM and SPC (SPC-4 6.6.2).
    fn version_descriptors(&self) -> &'static [u16] {
        &[]
    }

    /// The device's own vital product data pages: codes, ascending.
    fn vpd_pages(&self) -> &'static [u8] {
        &[]
    }

    /// The vital product data page `code`, one of [`vpd_pages`](Device::vpd_pages), whole.
    fn vpd_page(&self, code: u8, unit: &LogicalUnit) -> Option<Vec<u8>> {
        let _ = (code, unit);
        None
    }

    /// The device's own mode pages.
    fn mode_pages(&self, unit: &LogicalUnit) -> Vec<ModePageSpec> {
        let _ = unit;
        Vec::new()
    }

    /// The device's own log pages.
    fn log_pages(&self) -> &'static [LogPageCode] {
        &[]
    }

    /// The parameters of the log page `code`, one of [`log_pages`](Device::log_pages).
    fn log_page(&self, code: LogPageCode, unit: &LogicalUnit) -> Option<Vec<LogParameter>> {
        let _ = (code, unit);
        None
    }

    /// What has to be seen of the store before the log page `code` is right, if anything has.
    fn log_page_look(&self, code: LogPageCode) -> Option<StoreLook> {
        let _ = code;
        None
    }

    /// A MODE SELECT has been carried out.
    fn modes_selected(&self, unit: &Arc<LogicalUnit>, post: &dyn Post) {
        let _ = (unit, post);
    }

    /// The mode parameter block descriptor, if the device has one: the short form, or the long one if `long` and the device
    /// knows it.
    fn block_descriptor(&self, long: bool) -> Option<BlockDescriptor> {
        let _ = long;
        None
    }

    /// Byte 2 of the mode parameter header (device-specific parameter).
    fn mode_device_specific(&self, unit: &LogicalUnit) -> u8 {
        let _ = unit;
        0
    }

    /// The classes of which an initiator can be notified, where its transport can do that.
    fn notifications(&self) -> NotificationClasses {
        NotificationClasses::NONE
    }

    /// Whether the unit is ready for commands that access the medium; TEST UNIT READY's answer.
    fn ready(&self) -> Result<(), Sense> {
        Ok(())
    }

    /// The unit has been reset, but for its tasks and mode pages.
    fn reset(&self, unit: &LogicalUnit) {
        let _ = unit;
    }

    /// A nexus is lost: what it asked for ends with it.
    fn nexus_lost(&self, unit: &LogicalUnit, nexus: NexusId) {
        let _ = (unit, nexus);
    }

    /// PREEMPT AND ABORT has taken the registration of a nexus and ended its commands: it prevents the removal of the medium no
    /// more (SPC-4 5.12.11.2.6).
    fn preempted(&self, unit: &LogicalUnit, nexus: NexusId) {
        let _ = (unit, nexus);
    }

    /// Puts saved state into effect, before the first command.
    ///
    /// # Errors
    /// When it is not what this device has saved.
    fn restore(&self, unit: &LogicalUnit) -> Result<(), StateError> {
        let _ = unit;
        Ok(())
    }

    /// Goes on with the operations that were going on when the state was saved.
    fn resume(&self, unit: &Arc<LogicalUnit>, post: &dyn Post) {
        let _ = (unit, post);
    }

    /// What it knows that is neither configured nor saved, for a process that goes on with the unit.
    fn hand_over(&self) -> Saved {
        Saved::default()
    }

    /// Goes on from there, before the first command.
    ///
    /// # Errors
    /// When that is not what this device hands over.
    fn take_over(&self, unit: &LogicalUnit, from: &Saved) -> Result<(), StateError> {
        let _ = (unit, from);
        Ok(())
    }

    /// What a nexus has asked for that ends with it, for a process that goes on with the nexus.
    fn hand_over_nexus(&self, nexus: NexusId) -> Saved {
        let _ = nexus;
        Saved::default()
    }

    /// Goes on from there, before the first command of the nexus.
    ///
    /// # Errors
    /// When that is not what this device hands over.
    fn take_over_nexus(&self, unit: &LogicalUnit, nexus: NexusId, from: &Saved) -> Result<(), StateError> {
        let _ = (unit, nexus, from);
        Ok(())
    }

    /// The sense data for a store operation that failed; a device can add where (INFORMATION).
    fn io_failed(&self, io: &Io, error: IoError) -> Sense {
        sense_of(io.kind, error)
    }

    /// The answer to commands that are in no row.
    fn unknown_command(&self) -> Sense {
        Sense::illegal_request(AdditionalSense::INVALID_COMMAND_OPERATION_CODE)
    }

    /// The unit is to have `size` bytes. Nothing that needs to know how large the medium is begins on all of it until
    /// [`end_resize`](Device::end_resize).
    ///
    /// # Errors
    /// When it cannot have that size, or such a thing goes on; nothing ends then.
    fn begin_resize(&self, size: u64) -> Result<(), ChangeError> {
        let _ = size;
        Err(ChangeError::NoSize)
    }

    /// The unit has `size` bytes from now on, whole logical blocks. Called between the two.
    fn set_size(&self, size: u64) {
        let _ = size;
    }

    /// The unit has the size that it is to have.
    fn end_resize(&self) {}

    /// What goes on with the medium by itself, for nobody's command or beyond it, in words that follow "busy".
    fn occupation(&self) -> Option<&'static str> {
        None
    }

    /// Longest transfer of one command in bytes; `None` if there is no limit.
    fn max_transfer(&self) -> Option<u64> {
        None
    }

    /// Whether this stands for a logical unit that is not there, or for a well-known one: it has no unit attentions.
    fn is_placeholder(&self) -> bool {
        false
    }
}

/// A look at a store, which may block.
pub type StoreLook = Box<dyn FnOnce(&dyn Backing) -> IoResult + Send>;

/// The sense data for an error of a store, before a device adds where it happened.
pub fn sense_of(kind: IoKind, error: IoError) -> Sense {
    match error {
        IoError::OutOfRange => Sense::illegal_request(AdditionalSense::LBA_OUT_OF_RANGE),
        IoError::ReadOnly => Sense::data_protect(AdditionalSense::WRITE_PROTECTED),
        IoError::NoSpace => Sense::data_protect(AdditionalSense::SPACE_ALLOCATION_FAILED_WRITE_PROTECT),
        IoError::Unsupported => Sense::illegal_request(AdditionalSense::INVALID_COMMAND_OPERATION_CODE),
        IoError::Aborted => {
            Sense::new(SenseKey::ABORTED_COMMAND, AdditionalSense::NO_ADDITIONAL_SENSE_INFORMATION)
        }
        IoError::Memory => Sense::new(SenseKey::ABORTED_COMMAND, AdditionalSense::DATA_PHASE_ERROR),
        // The engine answers TASK SET FULL or tries again; this is for a store that never has room.
        IoError::Gone | IoError::Busy => Sense::hardware_error(AdditionalSense::INTERNAL_TARGET_FAILURE),
        IoError::Short { .. } | IoError::Os(_) => Sense::medium_error(match kind {
            IoKind::Read => AdditionalSense::UNRECOVERED_READ_ERROR,
            IoKind::Write { .. } | IoKind::Flush => AdditionalSense::WRITE_ERROR,
        }),
    }
}
