//! Requests that a driver sends.

use crate::disks;
use crate::input::Input;
use lunette_engine::{CommandSpec, Direction};
use lunette_scsi::Lun;

/// Bytes of a command before its CDB, and of its response before the sense data (VIRTIO 1.2 5.6.6.1).
const COMMAND: usize = 19;
pub(super) const RESPONSE: u32 = 12;

/// Bytes of the CDB and sense fields, as the driver chose them.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) cdb: u16,
    pub(super) sense: u16,
}

impl Sizes {
    pub(super) const USUAL: Self = Self { cdb: 32, sense: 96 };

    /// Bytes of a response.
    pub(super) fn response(self) -> u32 {
        RESPONSE + u32::from(self.sense)
    }
}

/// What the device reads of a request, how much it may write, and how much it has to.
pub(super) struct Request {
    pub(super) readable: Vec<u8>,
    pub(super) writable: u32,
    pub(super) least: u32,
}

/// A command with its data.
pub(super) fn command(lun: [u8; 8], tag: u8, attribute: u8, cdb: &[u8], sizes: Sizes) -> Vec<u8> {
    let mut bytes = vec![0; COMMAND + usize::from(sizes.cdb)];
    bytes[..8].copy_from_slice(&lun);
    bytes[8] = tag;
    bytes[16] = attribute;
    let cdb = &cdb[..cdb.len().min(sizes.cdb.into())];
    bytes[COMMAND..][..cdb.len()].copy_from_slice(cdb);
    bytes
}

/// Any command of a table, or none, with data of some size.
pub(super) fn any_command(commands: &[&'static CommandSpec], sizes: Sizes, input: &mut Input<'_>) -> Request {
    let (cdb, direction) = disks::cdb(commands, input);
    let (lun, tag) = (address(input), input.u8() & 7);
    let attribute = input.pick(&[0, 0, 0, 1, 2, 3]);
    let mut readable = command(lun, tag, attribute, cdb.as_bytes(), sizes);
    let length = input.pick(&[0, 8, 24, 36, 255, 512]);
    let (sent, room) = match direction {
        Some(Direction::In) => (0, 4 * length),
        Some(Direction::Out) => (length, 0),
        Some(Direction::Both) => (length, length),
        _ if input.flag() => (0, length),
        _ => (length, 8),
    };
    readable.extend(input.pattern(sent));
    Request { readable, writable: sizes.response() + room as u32, least: sizes.response() }
}

/// A read of a unit whose operations are held.
pub(super) fn held_read(sizes: Sizes, input: &mut Input<'_>) -> Request {
    let blocks = 1 + input.below(4) as u8;
    let lun = [1, input.pick(&[0, 3]), 0x40, HELD, 0, 0, 0, 0];
    let attribute = input.pick(&[0, 0, 0, 1, 2]);
    let cdb = [0x28, 0, 0, 0, 0, input.u8(), 0, 0, blocks, 0];
    let readable = command(lun, input.u8() & 7, attribute, &cdb, sizes);
    Request { readable, writable: sizes.response() + 512 * u32::from(blocks), least: sizes.response() }
}

/// The unit whose operations are held.
pub(super) const HELD: u8 = 1;

/// A request of the control queue.
pub(super) fn control(input: &mut Input<'_>) -> Request {
    let kind = input.pick(&[0u8, 0, 0, 0, 1, 2]);
    let mut readable = vec![kind, 0, 0, 0];
    if kind == 0 {
        readable.extend([input.u8() % 9, 0, 0, 0]);
    }
    readable.extend(address(input));
    readable.extend([input.u8() & 7, 0, 0, 0, 0, 0, 0, 0]);
    let writable = if kind == 0 { 1 } else { 5 };
    Request { readable, writable, least: writable }
}

/// A buffer for an event; some are too short.
pub(super) fn event(input: &mut Input<'_>) -> Request {
    let writable = input.pick(&[16, 16, 16, 24, 8, 1]);
    Request { readable: Vec::new(), writable, least: writable.min(16) }
}

/// The address of a logical unit, mostly of one that is there.
fn address(input: &mut Input<'_>) -> [u8; 8] {
    match input.below(32) {
        0 => input.array(),
        1 => Lun::REPORT_LUNS_WLUN.to_bytes(),
        2 => [1, 1, 0, 0, 0, 0, 0, 0],
        3..8 => [1, 3, 0x40, HELD, 0, 0, 0, 0],
        n => [1, 0, 0x40, n as u8 % 4, 0, 0, 0, 0],
    }
}
