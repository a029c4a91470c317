//! The guest's drivers as initiators of a load.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result, ensure};
use lunette_guest::migration::Log;
use lunette_guest::ring::Form;
use lunette_guest::{
    BlockDriver, Command as ScsiCommand, Data, GuestMemory, Monitor, Options, Piece, ScsiDriver, View,
    Waiting, Wanted, block, response,
};
use lunette_vhost_user::Features;

use crate::load::pattern::BLOCK;
use crate::load::workload::Direction;
use crate::load::{Command, Completion, Initiator, PATIENCE};

/// Entries of each queue: what QEMU takes by default, and the most that vhost-device-scsi takes.
pub(super) const QUEUE_SIZE: u16 = 128;

/// The control queue and the event queue.
const OTHER_QUEUES: u16 = 2;

/// The guest's choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(super) waiting: Waiting,
    pub(super) form: Form,
    pub(super) event_idx: bool,
    pub(super) packed: bool,
    /// The device notes what it has in flight.
    pub(super) noted: bool,
    /// What the device writes is marked in a dirty log, which is emptied all the time.
    pub(super) logged: bool,
    /// Request queues, over which commands are spread evenly.
    pub(super) queues: u16,
}

impl Default for Guest {
    /// As Linux does it.
    fn default() -> Self {
        Self {
            waiting: Waiting::Interrupt,
            form: Form::Indirect,
            event_idx: true,
            packed: false,
            noted: false,
            logged: false,
            queues: 1,
        }
    }
}

impl Guest {
    fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        wanted.required.set(Features::RING_PACKED, self.packed);
        wanted.optional.set(Features::EVENT_IDX, self.event_idx);
        wanted.optional.set(Features::INDIRECT_DESC, self.form == Form::Indirect);
        wanted
    }
}

/// Data that slots hold one after the other.
struct Words {
    memory: View,
    room: usize,
}

impl Words {
    fn offset(&self, slot: usize, index: usize) -> usize {
        slot * self.room + index * size_of::<u64>()
    }

    fn get(&self, slot: usize, index: usize) -> u64 {
        self.memory.u64(self.offset(slot, index)).load(Relaxed).to_le()
    }

    fn set(&self, slot: usize, index: usize, value: u64) {
        self.memory.u64(self.offset(slot, index)).store(value.to_le(), Relaxed);
    }

    fn piece(&self, slot: usize, length: usize) -> Piece {
        Piece { address: self.memory.address() + (slot * self.room) as u64, length: length as u32 }
    }
}

/// virtio-scsi. Slots go round the request queues.
pub(crate) struct Scsi {
    driver: ScsiDriver,
    data: Vec<Words>,
    queues: usize,
    /// The dirty log, and how often it has been waited for something since it was emptied.
    log: Option<(Log, u32)>,
}

/// How often something is waited for before the dirty log is emptied. A monitor does that far less often.
const LOG_WAITS: u32 = 256;

impl Scsi {
    pub(crate) fn connect(socket: &Path, slots: usize, room: usize, guest: &Guest) -> Result<Self> {
        let queues = usize::from(guest.queues);
        let room = room.next_multiple_of(4096);
        let options = Options {
            wanted: guest.wanted(),
            request_queues: guest.queues,
            queue_size: QUEUE_SIZE,
            slots: slots.div_ceil(queues) as u16,
            room,
            form: guest.form,
            waiting: guest.waiting,
            events: 0,
            // Peers keep the rules of rings, but not always those of responses.
            strict: false,
            ..Options::default()
        };
        let descriptors = options.slots * if guest.form == Form::Chained { 3 } else { 1 };
        ensure!(descriptors <= QUEUE_SIZE, "{slots} requests do not fit in {queues} queues of {QUEUE_SIZE}");
        let memory = GuestMemory::with_size(options.memory())?;
        let mut monitor = Monitor::connect(socket, memory, &options.wanted)?;
        monitor.session.set_patience(PATIENCE)?;
        let notes = match guest.noted {
            true => monitor.session.begin_notes(OTHER_QUEUES + guest.queues, QUEUE_SIZE)?,
            false => None,
        };
        ensure!(notes.is_some() == guest.noted, "the device notes nothing");
        let mut driver = ScsiDriver::new(monitor, &options)?;
        driver.start()?;
        let log = guest.logged.then(|| Log::new(&driver.monitor.memory)).transpose()?;
        log.iter().try_for_each(|log| log.begin(&mut driver.monitor))?;
        let data = (0..guest.queues).map(|queue| Words { memory: driver.all_data(queue).clone(), room });
        Ok(Self { data: data.collect(), driver, queues, log: log.map(|log| (log, 0)) })
    }

    /// The queue of a slot, and the slot there.
    fn place(&self, slot: usize) -> (usize, usize) {
        match self.queues {
            1 => (0, slot),
            queues => (slot % queues, slot / queues),
        }
    }

    fn take(&mut self, done: &mut Vec<Completion>) -> Result<()> {
        for queue in 0..self.queues {
            while let Some(completion) = self.driver.poll(queue as u16)? {
                let status = match completion.response {
                    response::OK => completion.status,
                    _ => Completion::FAILED,
                };
                let slot = usize::from(completion.slot) * self.queues + queue;
                done.push(Completion { slot, status, residual: completion.residual });
            }
        }
        Ok(())
    }
}

impl Initiator for Scsi {
    fn submit(&mut self, slot: usize, command: &Command) -> Result<()> {
        let (queue, slot) = self.place(slot);
        let data = &self.data[queue];
        ensure!(command.length <= data.room, "the command is larger than its slot");
        let piece = [data.piece(slot, command.length)];
        let data = match command.direction {
            _ if command.length == 0 => Data::default(),
            Direction::Read => Data { data_out: &[], data_in: &piece },
            Direction::Write => Data { data_out: &piece, data_in: &[] },
        };
        let command = ScsiCommand::new(&command.cdb).tagged(slot as u64);
        self.driver.submit(queue as u16, slot as u16, &command, &data)?;
        // As a Linux guest does that submits one by one: the device may begin while others are being prepared.
        Ok(self.driver.flush(queue as u16)?)
    }

    fn wait(&mut self, done: &mut Vec<Completion>) -> Result<()> {
        if let Some((log, waits)) = &mut self.log {
            *waits = (*waits + 1) % LOG_WAITS;
            if *waits == 0 {
                ensure!(!log.take().is_empty(), "nothing is marked in the dirty log");
            }
        }
        self.take(done)?;
        while done.is_empty() {
            self.driver.wait_any()?;
            self.take(done)?;
        }
        Ok(())
    }

    fn word(&self, slot: usize, index: usize) -> u64 {
        let (queue, slot) = self.place(slot);
        self.data[queue].get(slot, index)
    }

    fn set_word(&mut self, slot: usize, index: usize, value: u64) {
        let (queue, slot) = self.place(slot);
        self.data[queue].set(slot, index, value);
    }
}

/// virtio-blk, for peers that offer nothing else.
pub(super) struct Block {
    driver: BlockDriver,
    data: Words,
}

impl Block {
    pub(super) fn connect(socket: &Path, slots: usize, room: usize, guest: &Guest) -> Result<Self> {
        let room = room.next_multiple_of(4096);
        let options = block::Options {
            wanted: guest.wanted(),
            queue_size: QUEUE_SIZE,
            slots: slots.try_into().context("too many slots")?,
            room,
            form: guest.form,
            waiting: guest.waiting,
        };
        let mut driver = BlockDriver::connect(socket, &options)?;
        driver.monitor.session.set_patience(PATIENCE)?;
        let data = Words { memory: driver.all_data().clone(), room };
        Ok(Self { driver, data })
    }

    /// The disk's size in blocks.
    pub(super) fn capacity(&mut self) -> Result<u64> {
        Ok(self.driver.capacity()? / BLOCK as u64)
    }

    fn take(&mut self, done: &mut Vec<Completion>) -> Result<()> {
        while let Some(completion) = self.driver.poll()? {
            done.push(Completion {
                slot: completion.slot.into(),
                status: if completion.status == 0 { Completion::GOOD } else { Completion::FAILED },
                residual: 0,
            });
        }
        Ok(())
    }
}

impl Initiator for Block {
    fn submit(&mut self, slot: usize, command: &Command) -> Result<()> {
        let request = block::Request {
            write: command.direction == Direction::Write,
            sector: command.lba * (BLOCK as u64 / block::SECTOR),
            length: command.length,
        };
        self.driver.submit(slot as u16, &request)?;
        Ok(self.driver.flush()?)
    }

    fn wait(&mut self, done: &mut Vec<Completion>) -> Result<()> {
        self.take(done)?;
        while done.is_empty() {
            self.driver.wait()?;
            self.take(done)?;
        }
        Ok(())
    }

    fn word(&self, slot: usize, index: usize) -> u64 {
        self.data.get(slot, index)
    }

    fn set_word(&mut self, slot: usize, index: usize, value: u64) {
        self.data.set(slot, index, value);
    }
}
