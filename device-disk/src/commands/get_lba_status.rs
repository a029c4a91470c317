//! GET LBA STATUS (SBC-4 clause 5).

use super::{DiskCommand, medium_access};
use crate::Disk;
use crate::medium::Medium;
use lunette_engine::{Decoded, Direction, Plan, Request, Reservation};
use lunette_scsi::lba_status::{
    CompletionCondition, LbaStatus, ProvisioningStatus, ReportType, data_length, descriptors_in,
    encode_lba_status,
};
use lunette_scsi::{AdditionalSense, Opcode, Sense, service_action};

/// The most descriptors of one answer; the initiator asks on from where they end.
const MOST: usize = 256;

pub(crate) static GET_LBA_STATUS_16: DiskCommand = DiskCommand {
    spec: medium_access(
        Opcode::SERVICE_ACTION_IN_16,
        &[0x9e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
        Direction::In,
        Reservation::Read,
    )
    .action(service_action::GET_LBA_STATUS_16),
    decode: |disk, request| {
        let cdb = request.cdb;
        decode(disk, request, &Question { lba: cdb.u64(2), scan: 0, report_at: 14, allocation: cdb.u32(10) })
    },
};

// There are no physical elements, so no ELEMENT IDENTIFIER.
pub(crate) static GET_LBA_STATUS_32: DiskCommand = DiskCommand {
    spec: medium_access(
        Opcode::VARIABLE_LENGTH_CDB,
        &[
            0x7f, 0, 0, 0, 0, 0, 0, 0x18, 0x00, 0x12, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
        ],
        Direction::In,
        Reservation::Read,
    )
    .action(service_action::GET_LBA_STATUS_32),
    decode: |disk, request| {
        let cdb = request.cdb;
        let (scan, allocation) = (cdb.u32(20), cdb.u32(28));
        decode(disk, request, &Question { lba: cdb.u64(12), scan, report_at: 10, allocation })
    },
};

struct Question {
    lba: u64,
    /// How many blocks to look at; zero: all that follow.
    scan: u32,
    /// Where REPORT TYPE stands in the CDB.
    report_at: u16,
    allocation: u32,
}

/// On a disk that is fully provisioned all blocks are mapped (SBC-4 4.7); the store of another one is asked.
fn decode(disk: &Disk, request: &Request<'_>, question: &Question) -> Decoded {
    let &Question { lba, scan, report_at, allocation } = question;
    let (geometry, thin) = (disk.geometry(), disk.discard.is_some());
    if lba >= geometry.blocks {
        return Err(Sense::illegal_request(AdditionalSense::LBA_OUT_OF_RANGE));
    }
    let report = ReportType(request.cdb.u8(report_at.into()));
    if report.name().is_none() {
        return Err(Sense::invalid_field_in_cdb(report_at, None));
    }
    let scanned = lba.saturating_add(scan.into());
    let mut list = List {
        report,
        end: if scan > 0 && scanned < geometry.blocks { scanned } else { geometry.blocks },
        room: descriptors_in(allocation).clamp(1, MOST),
        found: Vec::new(),
    };
    let wanted = u64::from(allocation).min(data_length(MOST) as u64);
    Ok(Plan::run_in(wanted, async move |run| {
        let medium = Medium { run, geometry };
        let mut at = lba;
        while at < list.end && list.has_room() {
            let (status, end) = match thin && list.looks_for_some() {
                true => medium.provisioning(at).await?,
                false => (ProvisioningStatus::MAPPED, geometry.blocks),
            };
            at = list.add(at, end, status);
        }
        let condition = match at {
            _ if at == geometry.blocks => CompletionCondition::CAPACITY,
            _ if at == list.end => CompletionCondition::SCAN_LENGTH,
            _ if list.room < MOST => CompletionCondition::ALLOCATION_LENGTH,
            _ => CompletionCondition::NONE,
        };
        let mut data = encode_lba_status(&list.found, condition);
        data.truncate(allocation as usize);
        medium.run.set_data_in_len(data.len() as u64);
        medium.run.put_data_in(0, &data);
        Ok(())
    }))
}

/// The descriptors found so far.
struct List {
    report: ReportType,
    /// The block after the last one of interest.
    end: u64,
    room: usize,
    found: Vec<LbaStatus>,
}

impl List {
    fn has_room(&self) -> bool {
        self.found.len() < self.room
    }

    /// Whether there can be blocks to report; none are anchored or known to be bad.
    fn looks_for_some(&self) -> bool {
        !matches!(self.report, ReportType::ANCHORED | ReportType::UNRECOVERED)
    }

    fn reports(&self, status: ProvisioningStatus) -> bool {
        match self.report {
            ReportType::ALL => true,
            ReportType::MAPPED => status == ProvisioningStatus::MAPPED,
            ReportType::NOT_MAPPED | ReportType::DEALLOCATED => status == ProvisioningStatus::DEALLOCATED,
            _ => false,
        }
    }

    /// Adds what is to be reported of the blocks `from..to`, which have one status, as far as there is room; returns where
    /// to go on.
    fn add(&mut self, from: u64, to: u64, status: ProvisioningStatus) -> u64 {
        let to = to.min(self.end);
        if !self.reports(status) {
            return to;
        }
        let mut at = from;
        while at < to && self.has_room() {
            let blocks = u32::try_from(to - at).unwrap_or(u32::MAX);
            self.found.push(LbaStatus { lba: at, blocks, status });
            at += u64::from(blocks);
        }
        at
    }
}
