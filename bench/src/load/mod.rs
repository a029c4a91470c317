//! The load generator, whatever the transport: keeps commands in flight, checks every block that comes back, measures.

pub(crate) mod histogram;
pub(crate) mod pattern;
pub(crate) mod workload;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lunette_scsi::Opcode;

use crate::cpu::Usage;

use histogram::Histogram;
use pattern::{BLOCK, WORDS};
use workload::{Access, Addresses, Direction, Workload};

/// How long a command may take before the daemon counts as hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A command in a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    pub(crate) cdb: [u8; 16],
    /// The first block of a READ or WRITE, for transports without CDBs.
    pub(crate) lba: u64,
    pub(crate) direction: Direction,
    /// Bytes of data.
    pub(crate) length: usize,
}

impl Command {
    fn data_in(cdb: &[u8], length: usize) -> Self {
        let mut command = Self { cdb: [0; 16], lba: 0, direction: Direction::Read, length };
        command.cdb[..cdb.len()].copy_from_slice(cdb);
        command
    }

    /// READ or WRITE, in the 10-byte form where that reaches; of no blocks: TEST UNIT READY.
    fn transfer(direction: Direction, lba: u64, blocks: u32) -> Self {
        if blocks == 0 {
            return Self::data_in(&[Opcode::TEST_UNIT_READY.0], 0);
        }
        let read = direction == Direction::Read;
        let mut cdb = [0; 16];
        if let (Ok(lba), Ok(blocks)) = (u32::try_from(lba), u16::try_from(blocks)) {
            cdb[0] = if read { Opcode::READ_10 } else { Opcode::WRITE_10 }.0;
            cdb[2..6].copy_from_slice(&lba.to_be_bytes());
            cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
        } else {
            cdb[0] = if read { Opcode::READ_16 } else { Opcode::WRITE_16 }.0;
            cdb[2..10].copy_from_slice(&lba.to_be_bytes());
            cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        }
        Self { cdb, lba, direction, length: blocks as usize * BLOCK }
    }
}

/// A command that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) slot: usize,
    /// SCSI status; [`Completion::FAILED`] if the command did not even reach a logical unit.
    pub(crate) status: u8,
    /// Bytes less than announced.
    pub(crate) residual: u32,
}

impl Completion {
    /// No status: the transport refused the command.
    pub(crate) const FAILED: u8 = 0xff;
    pub(crate) const GOOD: u8 = 0x00;
    const CHECK_CONDITION: u8 = 0x02;
}

/// A connection to a logical unit with a fixed number of slots. Each slot holds one command and its data.
pub(crate) trait Initiator {
    /// Takes a command for a free slot; it need not leave before [`wait`](Self::wait).
    fn submit(&mut self, slot: usize, command: &Command) -> Result<()>;
    /// Waits until at least one command has ended and appends all that have.
    fn wait(&mut self, done: &mut Vec<Completion>) -> Result<()>;
    /// A little-endian word of a slot's data.
    fn word(&self, slot: usize, index: usize) -> u64;
    /// Sets a word of a slot's data.
    fn set_word(&mut self, slot: usize, index: usize, value: u64);
}

/// How much of the data is made and looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    Nothing,
    /// The first word of each block written, of the first and the last block read.
    Stamps,
    Everything,
}

/// One READ or WRITE.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    direction: Direction,
    lba: u64,
    /// What is written, or what must be found; `None` takes any generation.
    generation: Option<u8>,
}

impl Transfer {
    fn prepare(&self, initiator: &mut impl Initiator, slot: usize, blocks: u32, care: Care) {
        let (Direction::Write, Some(generation)) = (self.direction, self.generation) else { return };
        let words = match care {
            Care::Nothing => return,
            Care::Stamps => 1,
            Care::Everything => WORDS,
        };
        for block in 0..blocks as usize {
            let lba = self.lba + block as u64;
            for index in 0..words {
                initiator.set_word(slot, block * WORDS + index, pattern::word(lba, generation, index));
            }
        }
    }

    fn check(&self, initiator: &impl Initiator, slot: usize, blocks: u32, care: Care) -> Result<()> {
        if self.direction == Direction::Write {
            return Ok(());
        }
        // The load generator must not become the bottleneck: each block looked at is a cache miss.
        let (step, words) = match care {
            Care::Nothing => return Ok(()),
            Care::Everything => (1, WORDS),
            Care::Stamps => ((blocks as usize - 1).max(1), 1),
        };
        for block in (0..blocks as usize).step_by(step) {
            let lba = self.lba + block as u64;
            let stamp = initiator.word(slot, block * WORDS);
            let (found, generation) = pattern::read_stamp(stamp);
            let right = found == lba
                && self.generation.is_none_or(|wanted| wanted == generation)
                && (1..words).all(|index| {
                    initiator.word(slot, block * WORDS + index) == pattern::word(lba, generation, index)
                });
            ensure!(right, "wrong data in block {lba}: it begins with {stamp:#018x}");
        }
        Ok(())
    }
}

/// Where [`drive`] takes its transfers from.
trait Source {
    /// The next transfer, or `None`: no more.
    fn next(&mut self, now: Instant) -> Result<Option<Transfer>>;
    /// A transfer has ended well, after so many nanoseconds.
    fn ended(&mut self, _transfer: &Transfer, _latency: u64) {}
}

impl<T: Iterator<Item = Transfer>> Source for T {
    fn next(&mut self, _now: Instant) -> Result<Option<Transfer>> {
        Ok(Iterator::next(self))
    }
}

/// Keeps `depth` transfers of `blocks` blocks in flight until the source runs dry.
fn drive(
    initiator: &mut impl Initiator,
    depth: usize,
    blocks: u32,
    care: Care,
    source: &mut impl Source,
) -> Result<()> {
    let mut in_flight: Vec<Option<(Transfer, u64)>> = vec![None; depth];
    let mut free: Vec<usize> = (0..depth).rev().collect();
    let mut done = Vec::with_capacity(depth);
    let begin = Instant::now();
    // One look at the clock for each burst, in the form that is compared and in nanoseconds.
    let (mut now, mut nanoseconds) = (begin, 0);
    loop {
        while let Some(&slot) = free.last() {
            let Some(transfer) = source.next(now)? else { break };
            transfer.prepare(initiator, slot, blocks, care);
            initiator.submit(slot, &Command::transfer(transfer.direction, transfer.lba, blocks))?;
            in_flight[slot] = Some((transfer, nanoseconds));
            free.pop();
        }
        if free.len() == depth {
            return Ok(());
        }
        initiator.wait(&mut done)?;
        now = Instant::now();
        nanoseconds = (now - begin).as_nanos() as u64;
        for completion in done.drain(..) {
            let slot = in_flight.get_mut(completion.slot).context("a command has ended that was not sent")?;
            let (transfer, started) = slot.take().context("a command has ended twice")?;
            ensure!(
                completion.status == Completion::GOOD && completion.residual == 0,
                "{transfer:?} of {blocks} blocks failed: {completion:?}"
            );
            transfer.check(initiator, completion.slot, blocks, care)?;
            source.ended(&transfer, nanoseconds - started);
            free.push(completion.slot);
        }
    }
}

/// Gets a logical unit ready; its capacity in blocks.
pub(crate) fn prepare(initiator: &mut impl Initiator) -> Result<u64> {
    let mut attempts = 0;
    // The first commands of a nexus meet unit attentions.
    while execute(initiator, &Command::data_in(&[Opcode::TEST_UNIT_READY.0], 0))?
        == Completion::CHECK_CONDITION
    {
        attempts += 1;
        ensure!(attempts < 10, "the logical unit does not become ready");
    }
    let status = execute(initiator, &Command::data_in(&[Opcode::READ_CAPACITY_10.0], 8))?;
    ensure!(status == Completion::GOOD, "READ CAPACITY(10) failed with status {status:#04x}");
    let bytes = initiator.word(0, 0).to_le_bytes();
    let [last, size] =
        [0, 4].map(|at| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    ensure!(size as usize == BLOCK, "the logical unit has blocks of {size} bytes, not {BLOCK}");
    ensure!(last != u32::MAX, "the logical unit is too large for this benchmark");
    Ok(u64::from(last) + 1)
}

fn execute(initiator: &mut impl Initiator, command: &Command) -> Result<u8> {
    initiator.submit(0, command)?;
    let mut done = Vec::new();
    initiator.wait(&mut done)?;
    match done[..] {
        [Completion { slot: 0, status, .. }] => Ok(status),
        _ => bail!("one command was sent, but {done:?} came back"),
    }
}

/// Writes the pattern over the whole disk. All writes are of `blocks` blocks, a divisor of the capacity.
pub(crate) fn fill(initiator: &mut impl Initiator, capacity: u64, blocks: u32, generation: u8) -> Result<()> {
    let lbas = (0..capacity).step_by(blocks as usize);
    let mut writes =
        lbas.map(|lba| Transfer { direction: Direction::Write, lba, generation: Some(generation) });
    drive(initiator, 4, blocks, Care::Everything, &mut writes)
}

/// Reads as often as that, from places all over a disk that was [filled](fill).
pub(crate) fn read(
    initiator: &mut impl Initiator,
    capacity: u64,
    workload: &Workload,
    count: usize,
) -> Result<()> {
    let lbas = Addresses::new(workload.access, workload.blocks(), capacity, 0xdead_beef_cafe_f00d);
    let mut reads =
        lbas.take(count).map(|lba| Transfer { direction: Direction::Read, lba, generation: None });
    drive(initiator, workload.depth, workload.blocks(), Care::Stamps, &mut reads)
}

/// Writes a new generation to places all over the disk and reads it back, every byte.
fn verify(initiator: &mut impl Initiator, capacity: u64, workload: &Workload, generation: u8) -> Result<()> {
    let transfers = |direction| {
        Addresses::new(Access::Random, workload.blocks(), capacity, 0x1234_5678_9abc_def1)
            .take(256)
            .map(move |lba| Transfer { direction, lba, generation: Some(generation) })
    };
    for direction in [Direction::Write, Direction::Read] {
        let depth = workload.depth;
        drive(initiator, depth, workload.blocks(), Care::Everything, &mut transfers(direction))?;
    }
    Ok(())
}

/// What one run has shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Commands per second.
    pub(crate) iops: f64,
    /// CPU time of the daemon per command, all threads, user and system.
    pub(crate) cpu: Duration,
    /// CPU time of the load generator per command; 0 if unknown.
    pub(crate) guest: Duration,
    /// CPUs that other processes kept busy meanwhile.
    pub(crate) others: f64,
    /// Latency that half of the commands do not exceed.
    pub(crate) p50: Duration,
    /// Latency that 99 % of the commands do not exceed.
    pub(crate) p99: Duration,
}

/// How long to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Before anything counts.
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// Verifies that the disk keeps what it is given, then runs a workload. `usage` tells the CPU time used so far.
pub(crate) fn measure(
    initiator: &mut impl Initiator,
    capacity: u64,
    workload: &Workload,
    span: Span,
    generation: u8,
    usage: impl Fn() -> Result<Usage>,
) -> Result<Sample> {
    ensure!(capacity >= u64::from(workload.blocks()), "the logical unit is smaller than one transfer");
    if workload.blocks() == 0 {
        return measure_null(initiator, capacity, workload, span, usage);
    }
    verify(initiator, capacity, workload, generation).context("verification before the run")?;
    let mut run = Run::new(capacity, workload, span, generation.wrapping_add(1), usage);
    drive(initiator, workload.depth, workload.blocks(), Care::Stamps, &mut run)?;
    if workload.direction == Direction::Write {
        // What was written under load must be there as well.
        let mut reads = run.recent.iter().map(|&lba| Transfer {
            direction: Direction::Read,
            lba,
            generation: Some(run.generation),
        });
        drive(initiator, 1, workload.blocks(), Care::Stamps, &mut reads)
            .context("verification after the run")?;
    }
    run.sample()
}

/// Runs a workload on a disk that keeps nothing.
pub(crate) fn measure_null(
    initiator: &mut impl Initiator,
    capacity: u64,
    workload: &Workload,
    span: Span,
    usage: impl Fn() -> Result<Usage>,
) -> Result<Sample> {
    let mut run = Run::new(capacity, workload, span, 0, usage);
    drive(initiator, workload.depth, workload.blocks(), Care::Nothing, &mut run)?;
    run.sample()
}

/// The timed source of a run.
struct Run<U> {
    addresses: Addresses,
    direction: Direction,
    generation: u8,
    span: Span,
    usage: U,
    /// When the warm-up or the measured part ends.
    deadline: Instant,
    /// Start of the measured part, and the CPU time used until then.
    started: Option<(Instant, Usage)>,
    sample: Option<Sample>,
    latencies: Histogram,
    /// Latest addresses.
    recent: VecDeque<u64>,
}

impl<U: Fn() -> Result<Usage>> Run<U> {
    const RECENT: usize = 128;

    fn new(capacity: u64, workload: &Workload, span: Span, generation: u8, usage: U) -> Self {
        Self {
            addresses: Addresses::new(workload.access, workload.blocks(), capacity, 0xdead_beef_cafe_f00d),
            direction: workload.direction,
            generation,
            span,
            usage,
            deadline: Instant::now() + span.warm_up,
            started: None,
            sample: None,
            latencies: Histogram::new(),
            recent: VecDeque::with_capacity(Self::RECENT),
        }
    }

    fn sample(&self) -> Result<Sample> {
        self.sample.context("the run has not ended")
    }

    /// The sample of a measured part that began with `before` and lasted for `length`.
    fn total(&self, length: Duration, before: &Usage) -> Result<Sample> {
        let usage = (self.usage)()?;
        let commands = self.latencies.count();
        ensure!(commands > 0, "no command has ended in {length:?}");
        Ok(Sample {
            iops: commands as f64 / length.as_secs_f64(),
            cpu: usage.daemon_since(before).div_f64(commands as f64),
            guest: usage.own_since(before).div_f64(commands as f64),
            others: usage.others_since(before),
            p50: self.latencies.quantile(0.5),
            p99: self.latencies.quantile(0.99),
        })
    }
}

impl<U: Fn() -> Result<Usage>> Source for Run<U> {
    fn next(&mut self, now: Instant) -> Result<Option<Transfer>> {
        if now >= self.deadline {
            match self.started {
                None => {
                    self.latencies.clear();
                    self.started = Some((now, (self.usage)()?));
                    self.deadline = now + self.span.measured;
                }
                Some((start, before)) => {
                    if self.sample.is_none() {
                        self.sample = Some(self.total(now - start, &before)?);
                    }
                    return Ok(None);
                }
            }
        }
        let transfer = self.addresses.next().map(|lba| Transfer {
            direction: self.direction,
            lba,
            generation: (self.direction == Direction::Write).then_some(self.generation),
        });
        Ok(transfer)
    }

    fn ended(&mut self, transfer: &Transfer, latency: u64) {
        self.latencies.record(latency);
        if self.direction == Direction::Write {
            if self.recent.len() == Self::RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(transfer.lba);
        }
    }
}
