//! Copy sources and copy destinations.

use crate::limit::Cost;
use crate::{Access, LogicalUnit, Needs, Reservation, Run};
use lunette_scsi::mode::BlockDescriptor;
use lunette_scsi::third_party_copy::{Cscd, Segment, SegmentEnd};
use lunette_scsi::{AdditionalSense, Sense, SenseKey, SenseKeySpecific};
use std::ops::Range;
use std::sync::Arc;

/// Which end of a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Source,
    Destination,
}

/// A unit from which, or to which, a segment copies.
pub(super) struct End {
    pub(super) role: Role,
    pub(super) unit: Arc<LogicalUnit>,
    /// Logical block length in bytes, not zero.
    pub(super) block: u64,
    size: u64,
    /// Where the parameter list describes it, if it does.
    described_at: Option<u16>,
}

/// COPY ABORTED: a segment cannot be processed, or no further (SPC-4 5.16.7.4).
pub(super) fn aborted(additional: AdditionalSense) -> Sense {
    Sense::new(SenseKey::COPY_ABORTED, additional)
}

/// The same with a pointer into the segment descriptor.
pub(super) fn aborted_at(additional: AdditionalSense, byte: u16) -> Sense {
    let in_segment_descriptor = true;
    aborted(additional).with_specific(SenseKeySpecific::SegmentPointer {
        in_segment_descriptor,
        byte,
        bit: None,
    })
}

/// The same with a pointer into the parameter list.
fn aborted_in_list(additional: AdditionalSense, byte: u16) -> Sense {
    let in_segment_descriptor = false;
    aborted(additional).with_specific(SenseKeySpecific::SegmentPointer {
        in_segment_descriptor,
        byte,
        bit: None,
    })
}

/// The logical blocks of a unit, and how long they are.
fn size_of(unit: &LogicalUnit) -> Option<(u64, u64)> {
    match unit.device().block_descriptor(true)? {
        BlockDescriptor::Long { blocks, block_length: block @ 1.. } => Some((blocks, block.into())),
        _ => None,
    }
}

impl End {
    /// Finds the unit that a segment names, among those that the nexus of the command sees.
    pub(super) fn find(run: &Run, role: Role, cscds: &[Cscd], named: &SegmentEnd) -> Result<Self, Sense> {
        let cscd = cscds.get(usize::from(named.cscd));
        let inventory = run.nexus.inventory();
        let unit = match cscd {
            Some(cscd) => {
                let is_named = |unit: &&Arc<LogicalUnit>| {
                    !cscd.null && unit.identity.designators().contains(&cscd.designator)
                };
                let unit = inventory.each_unit().find(is_named);
                let not_reachable = AdditionalSense::COPY_TARGET_DEVICE_NOT_REACHABLE;
                unit.ok_or(aborted_in_list(not_reachable, cscd.offset))?
            }
            None if named.cscd == SegmentEnd::COPY_MANAGER => &run.unit,
            None => {
                let unreachable = AdditionalSense::UNREACHABLE_COPY_TARGET;
                return Err(aborted_at(unreachable, Segment::CSCD_AT[role as usize]));
            }
        };
        let wrong_type = || {
            let additional = AdditionalSense::INCORRECT_COPY_TARGET_DEVICE_TYPE;
            cscd.map_or(aborted(additional), |cscd| {
                aborted_in_list(additional, cscd.offset + Cscd::DEVICE_TYPE_AT)
            })
        };
        let Some((blocks, block)) = size_of(unit) else { return Err(wrong_type()) };
        if cscd.is_some_and(|cscd| cscd.device_type.0 != unit.device().peripheral() & 0x1f) {
            return Err(wrong_type());
        }
        if let Some(cscd) = cscd.filter(|cscd| ![0, block].contains(&cscd.block_length.into())) {
            let additional = AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST;
            return Err(aborted_in_list(additional, cscd.offset + Cscd::BLOCK_LENGTH_AT));
        }
        let described_at = cscd.map(|cscd| cscd.offset);
        Ok(Self { role, unit: unit.clone(), block, size: blocks.saturating_mul(block), described_at })
    }

    /// The bytes of the unit that a segment of `length` bytes is about: whole blocks that the unit has.
    pub(super) fn range(&self, named: &SegmentEnd, length: u64) -> Result<Range<u64>, Sense> {
        let offset = u64::from(named.byte_offset);
        if !offset.is_multiple_of(self.block) {
            return Err(aborted(AdditionalSense::COPY_SEGMENT_GRANULARITY_VIOLATION));
        }
        let start = named.lba.checked_mul(self.block).and_then(|start| start.checked_add(offset));
        let end = start.and_then(|start| start.checked_add(length)).filter(|end| *end <= self.size);
        // The standard has no code for this that says more.
        let outside = AdditionalSense::NO_ADDITIONAL_SENSE_INFORMATION;
        start
            .zip(end)
            .map(|(start, end)| start..end)
            .ok_or(aborted_at(outside, Segment::LBA_AT[self.role as usize]))
    }

    /// Whether the nexus of the command could do this part of the copy itself, now.
    pub(super) fn check(&self, run: &Run) -> Result<(), Sense> {
        let not_reachable = || self.refuses(AdditionalSense::COPY_TARGET_DEVICE_NOT_REACHABLE);
        self.unit.accessible(&run.nexus.port, Access::Active).map_err(|_| not_reachable())?;
        let (reservation, protected) = match self.role {
            Role::Source => (Reservation::Read, false),
            Role::Destination => (Reservation::Write, self.unit.write_protected()),
        };
        let excluded = run.itl_with(&self.unit).ok_or_else(not_reachable)?.gate.excludes(reservation);
        if excluded || protected || self.unit.admits(Needs::Ready).is_err() {
            return Err(self.failed());
        }
        Ok(())
    }

    /// Whether the unit still has these bytes, and takes part in what begins for another.
    pub(super) fn check_begin(&self, run: &Run, bytes: &Range<u64>) -> Result<(), Sense> {
        let is_other = self.unit.number() != run.unit.number();
        let has_them =
            size_of(&self.unit).is_some_and(|(blocks, block)| bytes.end <= blocks.saturating_mul(block));
        if has_them && !(is_other && self.unit.is_quiesced()) { Ok(()) } else { Err(self.failed()) }
    }

    /// The nexus of the command could have moved `bytes` itself, so they count for its limits. A copy at work waits for none: who
    /// copied waits with the next command.
    pub(super) fn charge(&self, run: &Run, bytes: u64) {
        if let Some(itl) = run.itl_with(&self.unit).filter(|itl| itl.gate.is_limited()) {
            itl.limits().iter().for_each(|limit| limit.charge(Cost::bytes(bytes), run.now()));
        }
    }

    /// The unit has refused or failed its part.
    pub(super) fn failed(&self) -> Sense {
        self.refuses(AdditionalSense::THIRD_PARTY_DEVICE_FAILURE)
    }

    fn refuses(&self, additional: AdditionalSense) -> Sense {
        self.described_at.map_or(aborted(additional), |at| aborted_in_list(additional, at))
    }
}
