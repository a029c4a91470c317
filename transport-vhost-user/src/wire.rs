//! The requests and responses of a virtio-scsi device (VIRTIO 1.2 5.6.6). All numbers are little-endian.

use crate::ring::RingError;
use lunette_engine::{Aborted, Outcome, Residual};
use lunette_scsi::{
    Cdb, Lun, NotificationClasses, Sense, SenseFormat, ServiceResponse, Status, TaskAttribute,
    TaskManagementFunction,
};
use lunette_store::Sg;

/// A response code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Response(pub(crate) u8);

impl Response {
    /// The command ended with a status; for task management, FUNCTION COMPLETE.
    pub(crate) const OK: Self = Self(0);
    /// The CDB asks for more data than the buffers hold.
    pub(crate) const OVERRUN: Self = Self(1);
    /// Ended by a task management function.
    pub(crate) const ABORTED: Self = Self(2);
    /// There is no such target.
    pub(crate) const BAD_TARGET: Self = Self(3);
    /// Ended by a reset.
    pub(crate) const RESET: Self = Self(4);
    /// Any other failure.
    pub(crate) const FAILURE: Self = Self(9);
    /// FUNCTION SUCCEEDED.
    pub(crate) const FUNCTION_SUCCEEDED: Self = Self(10);
    /// FUNCTION REJECTED.
    pub(crate) const FUNCTION_REJECTED: Self = Self(11);
    /// INCORRECT LOGICAL UNIT NUMBER.
    pub(crate) const INCORRECT_LUN: Self = Self(12);
}

impl From<ServiceResponse> for Response {
    fn from(response: ServiceResponse) -> Self {
        match response {
            ServiceResponse::FunctionComplete => Self::OK,
            ServiceResponse::FunctionSucceeded { .. } => Self::FUNCTION_SUCCEEDED,
            ServiceResponse::FunctionRejected => Self::FUNCTION_REJECTED,
            ServiceResponse::IncorrectLogicalUnitNumber => Self::INCORRECT_LUN,
            ServiceResponse::ServiceDeliveryOrTargetFailure => Self::FAILURE,
        }
    }
}

impl From<Aborted> for Response {
    fn from(aborted: Aborted) -> Self {
        match aborted {
            Aborted::ByItsNexus | Aborted::ByAnotherNexus => Self::ABORTED,
            Aborted::ByReset | Aborted::NexusLost => Self::RESET,
        }
    }
}

/// What a request addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    /// `None`: the device as a whole, for which any target may speak.
    pub(crate) target: Option<u8>,
    /// A logical unit of the target.
    pub(crate) lun: Lun,
}

impl Address {
    /// Reads the 8-byte address of a request: 01h, the target and a single-level LUN; or the REPORT LUNS well-known
    /// logical unit by itself.
    fn read(bytes: [u8; 8]) -> Option<Self> {
        match bytes {
            [1, target, ..] => {
                let lun = (u64::from_be_bytes(bytes) << 16).to_be_bytes();
                Some(Self { target: Some(target), lun: Lun::from_bytes(lun) })
            }
            _ if Lun::from_bytes(bytes) == Lun::REPORT_LUNS_WLUN => {
                Some(Self { target: None, lun: Lun::REPORT_LUNS_WLUN })
            }
            _ => None,
        }
    }
}

/// The sizes that the driver chooses through the configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sizes {
    /// Bytes of the CDB field.
    pub(crate) cdb: u16,
    /// Bytes of the sense field.
    pub(crate) sense: u16,
}

impl Sizes {
    /// Largest CDB field.
    pub(crate) const MAX_CDB: u16 = 256;
    /// Largest sense field.
    pub(crate) const MAX_SENSE: u16 = 256;

    /// Bytes of a command before data-out.
    pub(crate) fn command(self) -> u64 {
        COMMAND_FIXED as u64 + u64::from(self.cdb)
    }

    /// Bytes of a command's response before data-in.
    pub(crate) fn response(self) -> u64 {
        RESPONSE_FIXED as u64 + u64::from(self.sense)
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self { cdb: 32, sense: 96 }
    }
}

const COMMAND_FIXED: usize = 19;
const RESPONSE_FIXED: usize = 12;
/// With the sense field that drivers rarely change.
const RESPONSE_USUAL: usize = RESPONSE_FIXED + 96;
const RESPONSE_MAX: usize = RESPONSE_FIXED + Sizes::MAX_SENSE as usize;

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
        let residual = self.expected.data_in + self.expected.data_out;
        self.write(0, residual, 0, response, [0; RESPONSE_MAX])
    }

    /// Writes the response with the status of `outcome`. Returns how many of the request's writable bytes have been
    /// written.
    #[inline]
    pub(crate) fn end(&self, outcome: &Outcome) -> u32 {
        let Expected { data_in, data_out } = self.expected;
        let (response, residual) = match (outcome.residual_in(data_in), outcome.residual_out(data_out)) {
            // Drivers do not look at status and sense data beside any response but OK.
            _ if outcome.status != Status::GOOD => (
                Response::OK,
                data_in.saturating_sub(outcome.moved_in).max(data_out.saturating_sub(outcome.moved_out)),
            ),
            (Residual::Overflow(_), _) | (_, Residual::Overflow(_)) => (Response::OVERRUN, 0),
            (Residual::Underflow(residual), _) | (_, Residual::Underflow(residual)) => {
                (Response::OK, residual)
            }
            (Residual::None, Residual::None) => (Response::OK, 0),
        };
        let status = outcome.status.0;
        let written = match &outcome.sense {
            None if self.size() <= RESPONSE_USUAL => {
                self.write(0, residual, status, response, [0; RESPONSE_USUAL])
            }
            sense => self.write_sense(sense.as_deref(), outcome, residual, response),
        };
        clamp(u64::from(written) + outcome.moved_in)
    }

    /// Writes a response with sense data, as much as the field holds, or of an unusual size.
    #[cold]
    fn write_sense(
        &self,
        sense: Option<&Sense>,
        outcome: &Outcome,
        residual: u64,
        response: Response,
    ) -> u32 {
        let format = if outcome.descriptor_sense { SenseFormat::Descriptor } else { SenseFormat::Fixed };
        let sense = sense.map(|sense| sense.encode(format)).unwrap_or_default();
        let length = sense.len().min(self.size() - RESPONSE_FIXED);
        let mut bytes = [0; RESPONSE_MAX];
        bytes[RESPONSE_FIXED..][..length].copy_from_slice(&sense[..length]);
        self.write(length, residual, outcome.status.0, response, bytes)
    }

    /// Writes a response; `bytes` are at least as many as the field has, with the sense data in place.
    #[inline]
    fn write<const N: usize>(
        &self,
        sense_length: usize,
        residual: u64,
        status: u8,
        response: Response,
        mut bytes: [u8; N],
    ) -> u32 {
        put(&mut bytes, 0, (sense_length as u32).to_le_bytes());
        put(&mut bytes, 4, clamp(residual).to_le_bytes());
        bytes[10] = status;
        bytes[11] = response.0;
        self.bytes.copy_in(0, &bytes[..self.size()]) as u32
    }

    fn size(&self) -> usize {
        self.bytes.len().clamp(RESPONSE_FIXED as u64, RESPONSE_MAX as u64) as usize
    }
}

/// A request on the control queue.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum ControlRequest {
    /// A task management function.
    Manage {
        /// `None`: unknown.
        function: Option<TaskManagementFunction>,
        address: Option<Address>,
        tag: u64,
    },
    /// Query of, or subscription to, asynchronous notifications.
    Notifications { subscribe: bool, address: Option<Address>, classes: NotificationClasses },
}

impl ControlRequest {
    pub(crate) const NOTIFICATIONS_RESPONSE: usize = 5;
    const MANAGE_RESPONSE: usize = 1;

    /// Reads a request, for whose response there must be room.
    pub(crate) fn read(readable: &Sg<'_>, writable: &Sg<'_>) -> Result<Self, RingError> {
        let mut bytes = [0; 24];
        let there = readable.copy_out(0, &mut bytes);
        let require = |read, written| match there >= read && writable.len() >= written as u64 {
            true => Ok(()),
            false => Err(RingError::TooShort { readable: readable.len(), writable: writable.len() }),
        };
        require(4, 0)?;
        match u32::from_le_bytes(array(&bytes, 0)) {
            0 => {
                require(24, Self::MANAGE_RESPONSE)?;
                Ok(Self::Manage {
                    function: function(u32::from_le_bytes(array(&bytes, 4))),
                    address: Address::read(array(&bytes, 8)),
                    tag: u64::from_le_bytes(array(&bytes, 16)),
                })
            }
            kind @ (1 | 2) => {
                require(16, Self::NOTIFICATIONS_RESPONSE)?;
                Ok(Self::Notifications {
                    subscribe: kind == 2,
                    address: Address::read(array(&bytes, 4)),
                    // The bits above are of no class.
                    classes: NotificationClasses(bytes[12]),
                })
            }
            other => Err(RingError::ControlType(other)),
        }
    }

    /// The response to a query or subscription.
    pub(crate) fn notifications(
        actual: NotificationClasses,
        response: Response,
    ) -> [u8; Self::NOTIFICATIONS_RESPONSE] {
        [actual.0, 0, 0, 0, response.0]
    }
}

fn function(subtype: u32) -> Option<TaskManagementFunction> {
    Some(match subtype {
        0 => TaskManagementFunction::AbortTask,
        1 => TaskManagementFunction::AbortTaskSet,
        2 => TaskManagementFunction::ClearAca,
        3 => TaskManagementFunction::ClearTaskSet,
        4 => TaskManagementFunction::ITNexusReset,
        5 => TaskManagementFunction::LogicalUnitReset,
        6 => TaskManagementFunction::QueryTask,
        7 => TaskManagementFunction::QueryTaskSet,
        _ => return None,
    })
}

/// The configuration space (VIRTIO 1.2 5.6.4).
#[derive(Clone, Debug)]
pub(crate) struct ConfigSpace {
    /// Number of request queues.
    pub(crate) queues: u16,
    pub(crate) sizes: Sizes,
}

impl ConfigSpace {
    const SIZE: usize = 36;
    const SENSE_SIZE: usize = 20;
    const CDB_SIZE: usize = 24;

    pub(crate) fn bytes(&self) -> [u8; Self::SIZE] {
        /// So that no chain is longer than a queue of 256; a longer one is taken too.
        const SEG_MAX: u32 = 254;
        const MAX_SECTORS: u32 = 0xffff;
        const COMMANDS_PER_LUN: u32 = 128;
        const EVENT_SIZE: u32 = 16;
        const MAX_TARGET: u16 = 255;
        const MAX_LUN: u32 = 16383;
        let mut bytes = [0; _];
        let words = [u32::from(self.queues), SEG_MAX, MAX_SECTORS, COMMANDS_PER_LUN, EVENT_SIZE];
        for (n, word) in words.into_iter().enumerate() {
            put(&mut bytes, 4 * n, word.to_le_bytes());
        }
        put(&mut bytes, Self::SENSE_SIZE, u32::from(self.sizes.sense).to_le_bytes());
        put(&mut bytes, Self::CDB_SIZE, u32::from(self.sizes.cdb).to_le_bytes());
        // max_channel at 28 stays 0: there is one bus.
        put(&mut bytes, 30, MAX_TARGET.to_le_bytes());
        put(&mut bytes, 32, MAX_LUN.to_le_bytes());
        bytes
    }

    /// Writes what the driver may write: the sizes. Returns whether that was all it wrote.
    pub(crate) fn write(&mut self, offset: u32, new: &[u8]) -> bool {
        let old = self.bytes();
        let mut bytes = old;
        let Some(field) = bytes.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..new.len())) else {
            return false;
        };
        field.copy_from_slice(new);
        let number = |at, min, max: u16| {
            let value = u32::from_le_bytes(array(&bytes, at));
            u16::try_from(value).ok().filter(|value| (min..=max).contains(value))
        };
        let sense = number(Self::SENSE_SIZE, 0, Sizes::MAX_SENSE);
        let cdb = number(Self::CDB_SIZE, 1, Sizes::MAX_CDB);
        let rest = bytes[..Self::SENSE_SIZE] == old[..Self::SENSE_SIZE] && bytes[28..] == old[28..];
        match (sense, cdb, rest) {
            (Some(sense), Some(cdb), true) => {
                self.sizes = Sizes { sense, cdb };
                true
            }
            _ => false,
        }
    }
}

fn clamp(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a range of N bytes")
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_scsi::{AdditionalSense, Status};
    use lunette_store::Memory;

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
        let memory = Memory::from_bytes(&[0xee; 300]);
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
    fn addresses() {
        let read = |[a, b, c, d]: [u8; 4]| Address::read([a, b, c, d, 0, 0, 0, 0]);
        let unit = |bytes| read(bytes).map(|address| (address.target, address.lun.index()));
        assert_eq!(unit([1, 0, 0x40, 5]), Some((Some(0), Some(5))));
        assert_eq!(unit([1, 7, 0, 5]), Some((Some(7), Some(5))));
        assert_eq!(unit([1, 255, 0x7f, 0xff]), Some((Some(255), Some(16383))));
        let well_known = |target| Some(Address { target, lun: Lun::REPORT_LUNS_WLUN });
        assert_eq!(read([0xc1, 1, 0, 0]), well_known(None));
        assert_eq!(read([1, 3, 0xc1, 1]), well_known(Some(3)));
        assert_eq!(read([0, 0, 0, 0]), None);
        assert_eq!(read([0xc1, 2, 0, 0]), None);
        let more = Address::read([1, 0, 0x40, 5, 1, 0, 0, 0]);
        assert_eq!(more.map(|address| address.lun.index()), Some(None));
    }

    #[test]
    fn residuals_and_overruns() {
        let sizes = Sizes::default();
        let ended = |outcome: Outcome, data_in, data_out| {
            let (_, residual, _, response, length, _) =
                written((data_in, data_out), sizes, |field| field.end(&outcome));
            (residual, Response(response), length)
        };
        assert_eq!(ended(outcome(512, 512, 0, 0), 512, 0), (0, Response::OK, 108 + 512));
        assert_eq!(ended(outcome(36, 36, 0, 0), 512, 0), (476, Response::OK, 144));
        assert_eq!(ended(outcome(512, 1024, 0, 0), 512, 0), (0, Response::OVERRUN, 620));
        assert_eq!(ended(outcome(0, 0, 512, 512), 0, 4096), (3584, Response::OK, 108));
        assert_eq!(ended(outcome(0, 0, 0, 512), 4096, 0), (0, Response::OVERRUN, 108));
        let failed = Outcome { status: Status::BUSY, ..outcome(0, 1024, 0, 0) };
        assert_eq!(ended(failed, 512, 0), (512, Response::OK, 108));
        assert_eq!(ended(outcome(0, 0, 0, 0), 1 << 40, 0), (u32::MAX, Response::OK, 108));
        assert_eq!(ended(outcome(1 << 40, 1 << 40, 0, 0), 1 << 40, 0), (0, Response::OK, u32::MAX));
    }

    #[test]
    fn sense_is_cut_to_its_field() {
        let sense = Sense::illegal_request(AdditionalSense::LBA_OUT_OF_RANGE);
        let mut outcome = outcome(0, 0, 0, 0);
        outcome.status = Status::CHECK_CONDITION;
        outcome.sense = Some(Box::new(sense));
        for (size, descriptor, expected, code) in
            [(96, false, 18, 0x70), (10, false, 10, 0x70), (256, true, 8, 0x72), (0, false, 0, 0)]
        {
            outcome.descriptor_sense = descriptor;
            let sizes = Sizes { sense: size, cdb: 32 };
            let (length, residual, status, response, _, bytes) =
                written((9, 0), sizes, |field| field.end(&outcome));
            assert_eq!((length, residual, status, response), (expected, 9, 2, 0));
            assert_eq!(bytes.first().copied().unwrap_or(0), code);
        }
    }

    #[test]
    fn failures_move_nothing() {
        let sizes = Sizes::default();
        let failed = written((0, 77), sizes, |field| field.fail(Response::BAD_TARGET));
        assert_eq!(failed, (0, 77, 0, 3, 108, vec![0; 96]));
    }

    #[test]
    fn command_header() {
        let mut bytes = vec![1, 0, 0x40, 3, 0, 0, 0, 0];
        bytes.extend(0x1122_3344_5566_7788u64.to_le_bytes());
        bytes.extend([1, 0xf3, 200]);
        bytes.extend([0x12, 0, 0, 0, 36, 0]);
        bytes.resize(51, 0xaa);
        let memory = Memory::from_bytes(&bytes);
        let segs: Vec<_> = (0..51).map(|at| memory.seg().part(at, 1)).collect();
        let command = Command::read(&Sg::new(&segs), Sizes::default());
        assert_eq!(
            (command.address, command.tag),
            (Some(Address { target: Some(0), lun: Lun(0x4003 << 48) }), 0x1122_3344_5566_7788)
        );
        assert_eq!(command.attribute, TaskAttribute::Ordered);
        assert_eq!((command.priority, command.reference_number), (3, 200));
        assert_eq!(command.cdb.as_bytes(), [0x12, 0, 0, 0, 36, 0]);
        let command = Command::read(&Sg::new(&segs), Sizes { cdb: 5, sense: 96 });
        assert_eq!(command.cdb.as_bytes(), [0x12, 0, 0, 0, 36]);
    }

    #[test]
    fn control_requests() {
        let read = |words: &[u32], readable: usize, writable: usize| {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.resize(readable, 0);
            let (from, to) = (Memory::from_bytes(&bytes), Memory::zeroed(writable));
            ControlRequest::read(&Sg::new(&[from.seg()]), &Sg::new(&[to.seg()]))
        };
        let unit = u32::from_le_bytes([1, 9, 0x40, 2]);
        let address = Some(Address { target: Some(9), lun: Lun(0x4002 << 48) });
        assert_eq!(
            read(&[0, 5, unit, 0, 7], 24, 1),
            Ok(ControlRequest::Manage {
                function: Some(TaskManagementFunction::LogicalUnitReset),
                address,
                tag: 7,
            })
        );
        assert!(matches!(read(&[0, 8], 24, 1), Ok(ControlRequest::Manage { function: None, .. })));
        let notifications = |subscribe, address, classes| {
            let classes = NotificationClasses(classes);
            Ok(ControlRequest::Notifications { subscribe, address, classes })
        };
        assert_eq!(read(&[1, unit, 0, u32::MAX], 16, 5), notifications(false, address, 0xff));
        assert_eq!(read(&[2, 0, 0, 2], 16, 5), notifications(true, None, 2));
        assert_eq!(read(&[3], 24, 8), Err(RingError::ControlType(3)));
        for (kind, readable, writable) in
            [(0, 23, 1), (0, 24, 0), (1, 15, 5), (2, 16, 4), (0, 3, 9), (0, 0, 0)]
        {
            assert_eq!(
                read(&[kind], readable, writable),
                Err(RingError::TooShort { readable: readable as u64, writable: writable as u64 })
            );
        }
    }

    #[test]
    fn config_space_takes_sizes_only() {
        let mut config = ConfigSpace { queues: 4, sizes: Sizes::default() };
        let bytes = config.bytes();
        assert_eq!(bytes[..4], 4u32.to_le_bytes());
        assert_eq!((bytes[20], bytes[24]), (96, 32));
        assert_eq!(bytes[28..32], [0, 0, 255, 0]);
        assert_eq!(bytes[32..], 16383u32.to_le_bytes());
        assert!(config.write(20, &252u32.to_le_bytes()));
        assert!(config.write(24, &16u32.to_le_bytes()));
        assert_eq!(config.sizes, Sizes { sense: 252, cdb: 16 });
        let mut whole = config.bytes();
        assert!(config.write(0, &whole));
        whole[0] = 9;
        assert!(!config.write(0, &whole));
        assert!(!config.write(20, &257u32.to_le_bytes()));
        assert!(!config.write(24, &0u32.to_le_bytes()));
        assert!(!config.write(35, &[0, 0]));
        assert!(!config.write(u32::MAX, &[0]));
        assert_eq!(config.sizes, Sizes { sense: 252, cdb: 16 });
    }
}
