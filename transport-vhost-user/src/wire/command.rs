//! Commands and their responses (VIRTIO 1.2 5.6.6.1).

use super::{Address, Response, array, put};
use lunette_engine::Outcome;
use lunette_scsi::{Cdb, Sense, SenseFormat, Status, TaskAttribute};
use lunette_store::Sg;

/// The sizes that the driver chooses through the configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sizes {
    /// Bytes of the CDB field, at least one. Of a longer one we look at as much as a [`Cdb`] holds.
    pub(crate) cdb: u16,
    /// Bytes of the sense field.
    pub(crate) sense: u16,
}

impl Sizes {
    /// What a driver finds and most leave as it is.
    pub(crate) const DEFAULT: Self = Self { cdb: 32, sense: 96 };

    /// Bytes of a command before data-out.
    pub(crate) fn command(self) -> u64 {
        COMMAND_FIXED as u64 + u64::from(self.cdb)
    }

    /// Bytes of a command's response before data-in.
    pub(crate) fn response(self) -> u64 {
        RESPONSE_FIXED as u64 + u64::from(self.sense)
    }
}

const COMMAND_FIXED: usize = 19;
const RESPONSE_FIXED: usize = 12;
/// Bytes of a response of the usual size.
const RESPONSE_USUAL: usize = RESPONSE_FIXED + Sizes::DEFAULT.sense as usize;
/// Bytes of a response with the longest sense data.
const RESPONSE_LONGEST: usize = RESPONSE_FIXED + 252;

/// A command's header.
#[derive(Debug)]
pub(crate) struct Command {
    /// `None`: in no known form.
    pub(crate) address: Option<Address>,
    pub(crate) tag: u64,
    pub(crate) attribute: TaskAttribute,
    pub(crate) priority: u8,
    pub(crate) reference_number: u8,
    pub(crate) cdb: Cdb,
}

impl Command {
    /// Reads the header at the start of the readable bytes, which are at least [`Sizes::command`].
    #[inline(always)]
    pub(crate) fn read(readable: &Sg<'_>, sizes: Sizes) -> Self {
        let mut bytes = [0; COMMAND_FIXED + Cdb::CAPACITY];
        let cdb_size = usize::from(sizes.cdb).min(Cdb::CAPACITY);
        readable.copy_out(0, &mut bytes[..COMMAND_FIXED + cdb_size]);
        // A device may take every attribute for SIMPLE, so it may take an unknown one.
        let attribute = match bytes[16] {
            1 => TaskAttribute::Ordered,
            2 => TaskAttribute::HeadOfQueue,
            3 => TaskAttribute::Aca,
            _ => TaskAttribute::Simple,
        };
        Self {
            address: Address::read(array(&bytes, 0)),
            tag: u64::from_le_bytes(array(&bytes, 8)),
            attribute,
            priority: bytes[17] & 0x0f,
            reference_number: bytes[18],
            cdb: Cdb::from_padded(&bytes[COMMAND_FIXED..][..cdb_size]),
        }
    }
}

/// How many bytes of data a request has room for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Expected {
    pub(crate) data_in: u64,
    pub(crate) data_out: u64,
}

/// Where the response to a command goes, before its data-in.
pub(crate) struct ResponseField<'a> {
    /// [`Sizes::response`] bytes, by the sizes that the command came with.
    pub(crate) bytes: Sg<'a>,
    pub(crate) expected: Expected,
}

impl ResponseField<'_> {
    /// Writes a response without a status: `response` says why. Returns how many of the request's writable bytes have
    /// been written.
    pub(crate) fn fail(&self, response: Response) -> u32 {
        let Expected { data_in, data_out } = self.expected;
        self.write(data_in.saturating_add(data_out), 0, response, &[])
    }

    /// Writes the response with the status of `outcome`. Returns how many of the request's writable bytes have been
    /// written.
    ///
    /// There is one residual for both directions: what was not moved, of both buffers. A driver that gives a bidirectional
    /// command just the buffers that its CDB is about can tell from it which of them was moved in part, as data-out goes
    /// first; one that gives larger ones cannot.
    #[inline]
    pub(crate) fn end(&self, outcome: &Outcome) -> u32 {
        let Expected { data_in, data_out } = self.expected;
        // With another status than GOOD the driver is to see that, and sense data.
        let overrun = outcome.status == Status::GOOD && outcome.overflows(data_in, data_out);
        let response = if overrun { Response::OVERRUN } else { Response::OK };
        let (residual, status) = (outcome.not_moved(data_in, data_out), outcome.status.0);
        let written = match &outcome.sense {
            None => self.write(residual, status, response, &[]),
            Some(sense) => self.write_sense(residual, status, sense, outcome.descriptor_sense),
        };
        clamp(u64::from(written) + outcome.moved_in)
    }

    #[cold]
    fn write_sense(&self, residual: u64, status: u8, sense: &Sense, descriptor: bool) -> u32 {
        let format = if descriptor { SenseFormat::Descriptor } else { SenseFormat::Fixed };
        self.write(residual, status, Response::OK, &sense.encode(format))
    }

    /// Writes the whole field, for the driver is told that all of it was written.
    #[inline]
    fn write(&self, residual: u64, status: u8, response: Response, sense: &[u8]) -> u32 {
        match self.bytes.len() == RESPONSE_USUAL as u64 {
            true => self.write_as::<RESPONSE_USUAL>(residual, status, response, sense),
            false => self.write_unusual(residual, status, response, sense),
        }
    }

    #[cold]
    fn write_unusual(&self, residual: u64, status: u8, response: Response, sense: &[u8]) -> u32 {
        const ZEROES: [u8; 512] = [0; 512];
        let mut written = self.write_as::<RESPONSE_LONGEST>(residual, status, response, sense);
        while u64::from(written) < self.bytes.len() {
            written += self.bytes.copy_in(written.into(), &ZEROES) as u32;
        }
        written
    }

    /// Writes the first `SIZE` bytes, or as many as there are.
    #[inline]
    fn write_as<const SIZE: usize>(
        &self,
        residual: u64,
        status: u8,
        response: Response,
        sense: &[u8],
    ) -> u32 {
        let mut bytes = [0; SIZE];
        if !sense.is_empty() {
            let room = (self.bytes.len() as usize).min(SIZE).saturating_sub(RESPONSE_FIXED);
            let length = sense.len().min(room);
            put(&mut bytes, 0, (length as u32).to_le_bytes());
            bytes[RESPONSE_FIXED..][..length].copy_from_slice(&sense[..length]);
        }
        put(&mut bytes, 4, clamp(residual).to_le_bytes());
        bytes[10] = status;
        bytes[11] = response.0;
        self.bytes.copy_in(0, &bytes) as u32
    }
}

fn clamp(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_scsi::{AdditionalSense, Lun};
    use lunette_store::Memory;

    /// Moved and wanted, in and out.
    fn outcome(moved_in: u64, wanted_in: u64, moved_out: u64, wanted_out: u64) -> Outcome {
        let status = Status::GOOD;
        Outcome { status, sense: None, descriptor_sense: false, moved_in, moved_out, wanted_in, wanted_out }
    }

    /// Sense length, residual, status and response code, bytes written, sense bytes.
    fn written(
        (data_in, data_out): (u64, u64),
        sizes: Sizes,
        write: impl FnOnce(&ResponseField<'_>) -> u32,
    ) -> (u32, u32, u8, u8, u32, Vec<u8>) {
        let memory = Memory::from_bytes(&[0xee; 3000]);
        let segs = [memory.seg()];
        let bytes = Sg::new(&segs).part(0, sizes.response());
        let length = write(&ResponseField { bytes, expected: Expected { data_in, data_out } });
        let bytes = memory.to_vec();
        let size = sizes.response() as usize;
        assert!(bytes[size..].iter().all(|&byte| byte == 0xee));
        let word = |at| u32::from_le_bytes(array(&bytes, at));
        (word(0), word(4), bytes[10], bytes[11], length, bytes[12..size].to_vec())
    }

    #[test]
    fn residuals_and_overruns() {
        let ended = |outcome: Outcome, data_in, data_out| {
            let (_, residual, _, response, length, _) =
                written((data_in, data_out), Sizes::DEFAULT, |field| field.end(&outcome));
            (residual, Response(response), length)
        };
        assert_eq!(ended(outcome(512, 512, 0, 0), 512, 0), (0, Response::OK, 108 + 512));
        assert_eq!(ended(outcome(36, 36, 0, 0), 512, 0), (476, Response::OK, 144));
        assert_eq!(ended(outcome(512, 1024, 0, 0), 512, 0), (0, Response::OVERRUN, 620));
        assert_eq!(ended(outcome(0, 0, 512, 512), 0, 4096), (3584, Response::OK, 108));
        assert_eq!(ended(outcome(0, 0, 512, 1024), 0, 700), (188, Response::OVERRUN, 108));
        assert_eq!(ended(outcome(0, 0, 0, 512), 4096, 0), (4096, Response::OVERRUN, 108));
        let failed = Outcome { status: Status::BUSY, ..outcome(0, 1024, 0, 0) };
        assert_eq!(ended(failed, 512, 0), (512, Response::OK, 108));
        assert_eq!(ended(outcome(0, 0, 0, 0), 1 << 40, 0), (u32::MAX, Response::OK, 108));
        assert_eq!(ended(outcome(1 << 40, 1 << 40, 0, 0), 1 << 40, 0), (0, Response::OK, u32::MAX));
    }

    #[test]
    fn one_residual_is_for_both_directions() {
        let ended = |outcome: Outcome, data_in, data_out| {
            let (_, residual, _, response, length, _) =
                written((data_in, data_out), Sizes::DEFAULT, |field| field.end(&outcome));
            (residual, Response(response), length)
        };
        assert_eq!(ended(outcome(512, 512, 512, 512), 512, 512), (0, Response::OK, 620));
        assert_eq!(ended(outcome(0, 512, 512, 512), 0, 512), (0, Response::OVERRUN, 108));
        assert_eq!(ended(outcome(512, 512, 512, 512), 600, 1024), (88 + 512, Response::OK, 620));
        // A command of one direction, with room for the other as well.
        assert_eq!(ended(outcome(0, 0, 512, 512), 64, 512), (64, Response::OK, 108));
        assert_eq!(ended(outcome(36, 36, 0, 0), 36, 512), (512, Response::OK, 144));
        let failed = Outcome { status: Status::CHECK_CONDITION, ..outcome(0, 512, 100, 512) };
        assert_eq!(ended(failed, 512, 512), (512 + 412, Response::OK, 108));
        assert_eq!(ended(outcome(0, 0, 0, 0), u64::MAX, u64::MAX).0, u32::MAX);
    }

    #[test]
    fn sense_is_cut_to_its_field() {
        let sense = Sense::illegal_request(AdditionalSense::LBA_OUT_OF_RANGE);
        let mut outcome = outcome(0, 0, 0, 0);
        outcome.status = Status::CHECK_CONDITION;
        outcome.sense = Some(Box::new(sense));
        for (size, descriptor, expected, code) in [
            (96, false, 18, 0x70),
            (10, false, 10, 0x70),
            (252, true, 8, 0x72),
            (0, false, 0, 0),
            (253, false, 18, 0x70),
            (2000, false, 18, 0x70),
        ] {
            outcome.descriptor_sense = descriptor;
            let sizes = Sizes { sense: size, cdb: 32 };
            let (length, residual, status, response, used, bytes) =
                written((9, 0), sizes, |field| field.end(&outcome));
            assert_eq!((length, residual, status, response), (expected, 9, 2, 0));
            assert_eq!(bytes.first().copied().unwrap_or(0), code);
            assert_eq!(used, 12 + u32::from(size));
            assert!(bytes[expected as usize..].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn failures_move_nothing() {
        let failed = written((0, 77), Sizes::DEFAULT, |field| field.fail(Response::BAD_TARGET));
        assert_eq!(failed, (0, 77, 0, 3, 108, vec![0; 96]));
        let failed = written((100, 77), Sizes { sense: 0, cdb: 32 }, |field| field.fail(Response::FAILURE));
        assert_eq!(failed, (0, 177, 0, 9, 12, vec![]));
    }

    #[test]
    fn header() {
        let mut bytes = vec![1, 0, 0x40, 3, 0, 0, 0, 0];
        bytes.extend(0x1122_3344_5566_7788u64.to_le_bytes());
        bytes.extend([1, 0xf3, 200]);
        bytes.extend([0x12, 0, 0, 0, 36, 0]);
        bytes.resize(51, 0xaa);
        let memory = Memory::from_bytes(&bytes);
        let segs: Vec<_> = (0..51).map(|at| memory.seg().part(at, 1)).collect();
        let command = Command::read(&Sg::new(&segs), Sizes::DEFAULT);
        assert_eq!(
            (command.address, command.tag),
            (Some(Address { target: Some(0), lun: Lun(0x4003 << 48) }), 0x1122_3344_5566_7788)
        );
        assert_eq!(command.attribute, TaskAttribute::Ordered);
        assert_eq!((command.priority, command.reference_number), (3, 200));
        assert_eq!(command.cdb.as_bytes(), [0x12, 0, 0, 0, 36, 0]);
        for (cdb, expected) in
            [(5, &[0x12, 0, 0, 0, 36][..]), (1, &[0x12]), (u16::MAX, &[0x12, 0, 0, 0, 36, 0])]
        {
            let command = Command::read(&Sg::new(&segs), Sizes { cdb, sense: 96 });
            assert_eq!(command.cdb.as_bytes(), expected);
        }
    }
}
