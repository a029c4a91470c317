//! A guest that verifies: it writes blocks and reads them again, with its queues as full as they can be.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use lunette_vhost_user::Features;

use crate::error::Error;
use crate::memory::Piece;
use crate::scsi::{Completion, Data, Options, ScsiDriver};
use crate::wire::Command;

/// Commands of each queue. The lower half writes, the upper half reads.
const SLOTS: u16 = 16;
const QUEUES: u16 = 2;
const BLOCK: usize = 512;
/// Blocks of each queue.
const BLOCKS: u16 = 64;
const PAGE: usize = 4096;
/// Where the data of a slot begins: not where a page does, and it goes over the end of that.
const OFFSET: usize = 3900;

/// What block `block` holds after it was written the `round`th time.
fn pattern(block: u16, round: u32) -> Vec<u8> {
    let seed = u32::from(block).wrapping_mul(0x9e37_79b9) ^ round.wrapping_mul(0x85eb_ca6b);
    (0..BLOCK as u32).map(|n| (seed.wrapping_add(n * 7) >> 3) as u8).collect()
}

/// A guest at the first 64 KiB of LUN 0, in blocks of 512 bytes. What is wrong is a panic.
pub struct Verifier {
    /// Its driver, with two request queues.
    pub driver: ScsiDriver,
    /// By queue and block, how often it was written.
    rounds: HashMap<(u16, u16), u32>,
    /// By queue and slot, the block and the round that its command is about.
    sent: HashMap<(u16, u16), (u16, u32)>,
    submitted: u32,
    verified: u32,
}

impl Verifier {
    /// The options of its driver.
    pub fn options(packed: bool) -> Options {
        let mut options = Options {
            request_queues: QUEUES,
            queue_size: 64,
            slots: SLOTS,
            room: 2 * PAGE,
            // The device alone writes to where data is read.
            strict: false,
            ..Options::default()
        };
        options.wanted.required.set(Features::RING_PACKED, packed);
        options
    }

    /// Connects, with split or packed rings, and takes the unit attention of a start.
    pub fn connect(socket: &Path, packed: bool) -> Result<Self, Error> {
        let mut driver = ScsiDriver::connect(socket, &Self::options(packed))?;
        for queue in 0..QUEUES {
            driver.execute(queue, &Command::new(&[0; 6]), &[], 0)?;
        }
        Ok(Self { driver, rounds: HashMap::new(), sent: HashMap::new(), submitted: 0, verified: 0 })
    }

    /// How many blocks were read and found to be right.
    pub fn verified(&self) -> u32 {
        self.verified
    }

    /// Guest addresses to which only the device writes, beside its parts of the rings.
    pub fn device_ranges(&self) -> Vec<Range<u64>> {
        let range = |queue| {
            let (first, all) = (self.driver.data(queue, SLOTS / 2), self.driver.all_data(queue));
            first.address()..all.address() + all.length() as u64
        };
        (0..QUEUES).map(range).collect()
    }

    /// Goes on for about so many commands.
    pub fn run(&mut self, commands: usize) -> Result<(), Error> {
        let mut left = commands;
        while left > 0 {
            self.fill()?;
            self.driver.wait_any()?;
            left = left.saturating_sub(self.collect()?);
        }
        Ok(())
    }

    /// Waits for all that is under way.
    pub fn finish(&mut self) -> Result<(), Error> {
        while !self.sent.is_empty() {
            self.driver.wait_any()?;
            self.collect()?;
        }
        Ok(())
    }

    /// Stops all queues, with commands in them.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.fill()?;
        (0..QUEUES).try_for_each(|queue| self.driver.stop(queue).map(drop))?;
        [0, 1].into_iter().try_for_each(|index| self.driver.monitor.stop(index).map(drop))
    }

    /// Starts them where they have stopped.
    pub fn resume(&mut self) -> Result<(), Error> {
        (0..QUEUES + 2).try_for_each(|index| self.driver.monitor.start(index))
    }

    /// Whether there is no unit attention, for a machine that does nothing else.
    pub fn is_ready(&mut self) -> Result<bool, Error> {
        Ok(self.driver.execute(0, &Command::new(&[0; 6]), &[], 0)?.status == 0)
    }

    /// Puts commands into all slots that have none.
    fn fill(&mut self) -> Result<(), Error> {
        for queue in 0..QUEUES {
            for slot in 0..SLOTS {
                if !self.sent.contains_key(&(queue, slot)) {
                    self.submit(queue, slot)?;
                }
            }
            self.driver.flush(queue)?;
        }
        Ok(())
    }

    fn submit(&mut self, queue: u16, slot: u16) -> Result<(), Error> {
        let reads = slot >= SLOTS / 2;
        self.submitted += 1;
        let first = (self.submitted.wrapping_mul(0x9e37_79b9) >> 7) as u16 % BLOCKS;
        let mut blocks = (first..BLOCKS).chain(0..first);
        let Some(block) = blocks.find(|block| self.is_free(queue, *block, reads)) else { return Ok(()) };
        let lba = queue * BLOCKS + block;
        let round = self.rounds.get(&(queue, block)).copied().unwrap_or(0) + u32::from(!reads);
        let data = self.driver.data(queue, slot);
        let piece = [Piece { address: data.address() + OFFSET as u64, length: BLOCK as u32 }];
        let (opcode, lists) = match reads {
            true => (0x28, Data { data_out: &[], data_in: &piece }),
            false => {
                data.write(OFFSET, &pattern(lba, round));
                (0x2a, Data { data_out: &piece, data_in: &[] })
            }
        };
        let cdb = [opcode, 0, 0, 0, 0, lba as u8, 0, 0, 1, 0];
        self.driver.submit(queue, slot, &Command::new(&cdb), &lists)?;
        self.sent.insert((queue, slot), (block, round));
        Ok(())
    }

    /// Whether no command is about a block, which was written if it is to be read.
    fn is_free(&self, queue: u16, block: u16, reads: bool) -> bool {
        let is_busy = self.sent.iter().any(|((of, _), (busy, _))| *of == queue && *busy == block);
        !is_busy && (!reads || self.rounds.contains_key(&(queue, block)))
    }

    /// Takes what has come back; how much.
    fn collect(&mut self) -> Result<usize, Error> {
        let mut count = 0;
        for queue in 0..QUEUES {
            while let Some(done) = self.driver.poll(queue)? {
                self.check(queue, &done);
                count += 1;
            }
        }
        Ok(count)
    }

    fn check(&mut self, queue: u16, done: &Completion) {
        assert_eq!((done.response, done.status, done.residual), (0, 0, 0), "queue {queue}: {done:?}");
        let sent = self.sent.remove(&(queue, done.slot));
        let (block, round) = sent.expect("a command was in the slot");
        if done.slot < SLOTS / 2 {
            self.rounds.insert((queue, block), round);
            return;
        }
        let bytes = self.driver.data(queue, done.slot).bytes(OFFSET, BLOCK);
        assert!(bytes == pattern(queue * BLOCKS + block, round), "queue {queue}: block {block} is wrong");
        self.verified += 1;
    }
}
