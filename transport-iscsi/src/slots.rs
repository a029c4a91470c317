//! The commands of a connection, from their arrival until the last byte of their data is sent.

use crate::budget::Held;
use lunette_engine as engine;
use lunette_iscsi::target::{Command, TaskId};
use lunette_scsi::{Cdb, Lun, TaskAttribute};
use lunette_store::pool::BufList;

/// A command of one connection; an id never names a second one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotId {
    index: u32,
    generation: u32,
}

impl SlotId {
    /// Names no command.
    pub(crate) const NONE: Self = Self { index: u32::MAX, generation: 0 };

    pub(crate) fn to_cookie(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(crate) fn from_cookie(cookie: u64) -> Self {
        Self { index: cookie as u32, generation: (cookie >> 32) as u32 }
    }
}

/// How far a command has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// Commands before it are missing.
    Held,
    /// In the task set; waits for buffers.
    Hungry,
    /// In the task set; its data-out is coming.
    Gathering,
    /// Its data-out is coming in the same PDU; the engine gets it with that.
    Arriving,
    /// The engine has it.
    Running,
    /// It has ended before its data-out, which is still coming.
    Refused,
    /// It has ended; its data-in is being sent.
    Sending,
}

impl Stage {
    /// Data-out may still come; nobody else uses the buffer for it.
    pub(crate) fn takes_data(self) -> bool {
        matches!(self, Self::Held | Self::Hungry | Self::Gathering | Self::Arriving | Self::Refused)
    }

    /// The engine does not know it, but the initiator has no answer yet.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Held | Self::Arriving | Self::Refused)
    }
}

/// What a command asks for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) task: TaskId,
    pub(crate) tag: u32,
    pub(crate) lun: Lun,
    pub(crate) attribute: TaskAttribute,
    pub(crate) priority: u8,
    pub(crate) cdb: Cdb,
    pub(crate) read_length: u32,
    pub(crate) write_length: u32,
    pub(crate) unsolicited_length: u32,
    pub(crate) held: bool,
    pub(crate) whole: bool,
}

impl Request {
    pub(crate) fn of(command: &Command<'_>) -> Self {
        Self {
            task: command.task,
            tag: command.tag,
            lun: Lun::from_bytes(command.lun),
            attribute: match command.attribute.0 {
                2 => TaskAttribute::Ordered,
                3 => TaskAttribute::HeadOfQueue,
                4 => TaskAttribute::Aca,
                _ => TaskAttribute::Simple,
            },
            priority: command.priority,
            cdb: match command.cdb_extension {
                [] => Cdb::from_padded(command.cdb),
                extension => Cdb::from_padded(&[command.cdb, extension].concat()),
            },
            read_length: command.read_length,
            write_length: command.write_length,
            unsolicited_length: command.unsolicited_length,
            held: command.held,
            whole: command.whole,
        }
    }
}

pub(crate) struct Slot {
    generation: u32,
    pub(crate) stage: Stage,
    pub(crate) request: Request,
    /// The engine's name for it, once admitted.
    pub(crate) task: Option<engine::TaskId>,
    /// How it has ended, while it is refused.
    pub(crate) outcome: Option<engine::Outcome>,
    pub(crate) wanted_out: u32,
    pub(crate) wanted_in: u32,
    pub(crate) data_out: BufList,
    pub(crate) data_in: BufList,
    /// Bytes that its buffers count in the session's share.
    pub(crate) held: Held,
    /// It was seen waiting.
    pub(crate) marked: bool,
    used: bool,
}

/// The slots of a connection. A slot's room is kept, so a busy connection allocates nothing.
#[derive(Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    pub(crate) fn insert(&mut self, request: Request) -> SlotId {
        let Some(index) = self.free.pop() else {
            self.slots.push(Slot {
                generation: 0,
                stage: Stage::Held,
                request,
                task: None,
                outcome: None,
                wanted_out: 0,
                wanted_in: 0,
                data_out: BufList::default(),
                data_in: BufList::default(),
                held: Held::default(),
                marked: false,
                used: true,
            });
            return SlotId { index: self.slots.len() as u32 - 1, generation: 0 };
        };
        let slot = &mut self.slots[index as usize];
        slot.stage = Stage::Held;
        slot.request = request;
        slot.marked = false;
        slot.used = true;
        SlotId { index, generation: slot.generation }
    }

    pub(crate) fn get(&self, id: SlotId) -> Option<&Slot> {
        self.slots.get(id.index as usize).filter(|slot| slot.used && slot.generation == id.generation)
    }

    pub(crate) fn get_mut(&mut self, id: SlotId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.used && slot.generation == id.generation)
    }

    /// Frees a slot and its buffers. Returns what these counted.
    pub(crate) fn remove(&mut self, id: SlotId) -> Held {
        let Some(slot) = self.get_mut(id) else { return Held::default() };
        slot.generation = slot.generation.wrapping_add(1);
        slot.used = false;
        slot.task = None;
        slot.outcome = None;
        slot.wanted_out = 0;
        slot.wanted_in = 0;
        slot.data_out.clear();
        slot.data_in.clear();
        let held = std::mem::take(&mut slot.held);
        self.free.push(id.index);
        held
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().filter(|slot| slot.used)
    }

    /// The commands in use.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlotId, &Slot)> {
        let used = self.slots.iter().enumerate().filter(|(_, slot)| slot.used);
        used.map(|(index, slot)| (SlotId { index: index as u32, generation: slot.generation }, slot))
    }
}
