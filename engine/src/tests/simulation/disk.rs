//! A small disk: four blocks of eight bytes, each a number.

use crate::{
    ChangeError, Command, CommandSpec, Decoded, Device, Direction, Io, IoKind, Plan, Request, Reservation,
    Run, sense_of,
};
use lunette_scsi::{AdditionalSense, Opcode, Sense, SenseKey};
use lunette_store::Memory;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub(super) const BLOCKS: usize = 4;
pub(super) const BLOCK: usize = 8;

/// How long work in the background sleeps before it writes.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) struct Disk(AtomicUsize);

impl Disk {
    pub(super) fn new() -> Self {
        Self(AtomicUsize::new(BLOCKS))
    }
}

const USAGE: [u8; 10] = [0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0];

const fn usage(opcode: Opcode) -> [u8; 10] {
    let mut usage = USAGE;
    usage[0] = opcode.0;
    usage
}

macro_rules! row {
    ($opcode:ident, $direction:ident, $reservation:ident, $decode:expr) => {
        Command {
            spec: CommandSpec::new(Opcode::$opcode, &const { usage(Opcode::$opcode) }, Direction::$direction)
                .reservation(Reservation::$reservation)
                .when_ready(),
            decode: $decode,
        }
    };
}

/// In one operation, or in steps.
static COMMANDS: [Command<Disk>; 5] = [
    row!(READ_10, In, Read, |disk, request| io(disk, request, IoKind::Read).map(Plan::Io)),
    row!(WRITE_10, Out, Write, |disk, request| io(disk, request, IoKind::Write { durable: false })
        .map(Plan::Io)),
    row!(READ_12, In, Read, |disk, request| io(disk, request, IoKind::Read).map(Io::in_steps)),
    row!(COMPARE_AND_WRITE, Out, Write, |disk, request| {
        io(disk, request, IoKind::Write { durable: false })?;
        let io = io(disk, request, IoKind::Read)?;
        Ok(Plan::run(2 * BLOCK as u64, move |run| compare_and_write(run, io)))
    }),
    row!(WRITE_ATOMIC_16, Out, Write, |disk, request| {
        let io = io(disk, request, IoKind::Write { durable: false })?;
        Ok(Plan::run(io.length, move |run| write_atomic(run, io)))
    }),
];

fn io(disk: &Disk, request: &Request<'_>, kind: IoKind) -> Result<Io, Sense> {
    if kind != IoKind::Read && request.unit.write_protected() {
        return Err(Sense::data_protect(AdditionalSense::WRITE_PROTECTED));
    }
    let (first, count) = (u64::from(request.cdb.u32(2)), u64::from(request.cdb.u16(7)));
    if first + count > disk.0.load(Ordering::Acquire) as u64 {
        return Err(Sense::illegal_request(AdditionalSense::LBA_OUT_OF_RANGE));
    }
    let block = BLOCK as u64;
    Ok(Io { kind, offset: first * block, length: count * block, granularity: BLOCK as u32 })
}

async fn compare_and_write(run: Run, io: Io) -> Result<(), Sense> {
    let block = BLOCK as u64;
    let _range = run.claim(io.offset..io.offset + block).await?;
    let memory = Rc::new(Memory::zeroed(BLOCK));
    run.read(io.offset, &memory, block).await.map_err(|error| sense_of(IoKind::Read, error))?;
    if memory.to_vec() != run.data_out(0, block) {
        return Err(Sense::new(SenseKey::MISCOMPARE, AdditionalSense::MISCOMPARE_DURING_VERIFY_OPERATION));
    }
    let written = run.write_data_out(io.offset, block..2 * block, false).await;
    written.map(drop).map_err(|error| sense_of(IoKind::Write { durable: false }, error))
}

/// In the background, whatever becomes of the command.
async fn write_atomic(run: Run, io: Io) -> Result<(), Sense> {
    let range = run.claim(io.bytes()).await?;
    let new = run.data_out(0, io.length);
    run.detach(async move |steps, _hold| {
        let _range = range;
        let new = Rc::new(Memory::from_bytes(&new));
        steps.sleep(PAUSE).await.map_err(|error| sense_of(io.kind, error))?;
        let written = steps.write(io.offset, &new, io.length, false).await;
        written.map(drop).map_err(|error| sense_of(io.kind, error))
    })
    .await
}

impl Device for Disk {
    fn peripheral(&self) -> u8 {
        0
    }

    fn commands(&self) -> Box<dyn Iterator<Item = &'static CommandSpec>> {
        Box::new(COMMANDS.iter().map(|command| &command.spec))
    }

    fn begin_resize(&self, _: u64) -> Result<(), ChangeError> {
        Ok(())
    }

    fn set_size(&self, size: u64) {
        self.0.store(size as usize / BLOCK, Ordering::Release);
    }

    fn decode(&self, row: usize, request: &Request<'_>) -> Decoded {
        (COMMANDS[row].decode)(self, request)
    }
}
