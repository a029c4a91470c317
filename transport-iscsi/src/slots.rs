//! The commands of a connection, from their arrival until the last byte of their data is sent.

use crate::budget::Held;
use lunette_engine as engine;
use lunette_iscsi::target::{Command, TaskId};
use lunette_scsi::{Cdb, Lun, TaskAttribute};
use lunette_store::pool::BufList;
use std::collections::VecDeque;

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

impl Slot {
    /// Bytes of data-out for which it lacks a buffer.
    pub(crate) fn more_out(&self) -> usize {
        (self.wanted_out as usize).saturating_sub(self.data_out.sg().len() as usize)
    }
}

/// The slots of a connection. A slot's room is kept, so a busy connection allocates nothing.
#[derive(Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The hungry ones, in the order in which they became so.
    hungry: VecDeque<SlotId>,
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

    /// A command has come to `stage`. It is in the queue for buffers just as long as it is hungry.
    pub(crate) fn enter(&mut self, id: SlotId, stage: Stage) -> Option<&mut Slot> {
        let before = std::mem::replace(&mut self.get_mut(id)?.stage, stage);
        match (before, stage) {
            (Stage::Hungry, Stage::Hungry) => {}
            (Stage::Hungry, _) if self.hungry.front() == Some(&id) => drop(self.hungry.pop_front()),
            (Stage::Hungry, _) => self.hungry.retain(|waiting| *waiting != id),
            (_, Stage::Hungry) => self.hungry.push_back(id),
            _ => {}
        }
        self.get_mut(id)
    }

    /// The command that has been hungry for the longest time.
    pub(crate) fn hungriest(&self) -> Option<SlotId> {
        self.hungry.front().copied()
    }

    /// The hungry commands, that one first.
    pub(crate) fn hungry(&self) -> impl Iterator<Item = SlotId> {
        self.hungry.iter().copied()
    }

    /// Frees a slot and its buffers. Returns what these counted.
    pub(crate) fn remove(&mut self, id: SlotId) -> Held {
        let Some(slot) = self.enter(id, Stage::Sending) else { return Held::default() };
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

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_iscsi::pdu;

    fn request() -> Request {
        Request::of(&Command {
            task: TaskId::default(),
            tag: 0,
            lun: [0; 8],
            attribute: pdu::TaskAttribute::SIMPLE,
            priority: 0,
            cdb: &[0; 16],
            cdb_extension: &[],
            read_length: 0,
            write_length: 0,
            unsolicited_length: 0,
            held: false,
            whole: false,
        })
    }

    #[test]
    fn only_hungry_commands_are_in_the_queue() {
        let mut slots = Slots::default();
        let ids: Vec<_> = (0..4).map(|_| slots.insert(request())).collect();
        for id in &ids {
            assert!(slots.enter(*id, Stage::Hungry).is_some_and(|slot| slot.stage == Stage::Hungry));
            slots.enter(*id, Stage::Hungry);
        }
        slots.enter(ids[1], Stage::Refused);
        slots.remove(ids[0]);
        assert!(slots.hungry.iter().eq(&ids[2..]));
        assert_eq!(slots.hungriest(), Some(ids[2]));
        slots.enter(ids[2], Stage::Gathering);
        slots.enter(ids[0], Stage::Hungry);
        assert!(slots.hungry.iter().eq(&ids[3..]), "no slot that is free");
        slots.remove(ids[3]);
        assert_eq!(slots.hungriest(), None);
    }
}
