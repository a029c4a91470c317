//! The open tasks of a session, in slots made at login.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::write::WriteTransfer;
use crate::tags::TagHasher;

/// Names a task of one session. Names of finished tasks are never mistaken for later ones in the same slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TaskId {
    pub(crate) slot: u16,
    pub(crate) generation: u32,
}

impl TaskId {
    /// Index of the slot, below [`Session::slots`](super::Session::slots): for arrays beside the session.
    pub fn index(self) -> usize {
        self.slot.into()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskKind {
    Command,
    TaskManagement,
}

#[derive(Debug)]
pub(crate) struct Task {
    /// The connection that it has its allegiance to (RFC 7143 4.2.5.1).
    pub(crate) cid: u16,
    pub(crate) tag: u32,
    pub(crate) kind: TaskKind,
    pub(crate) lun: [u8; 8],
    pub(crate) immediate: bool,
    pub(crate) write: WriteTransfer,
    /// Data-In bytes the initiator expects.
    pub(crate) read_expected: u32,
    pub(crate) read_sent: u32,
    /// Number of the next Data-In or R2T.
    pub(crate) data_sn: u32,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    /// Name of the first R2T of the slot's next task.
    transfer: u16,
    task: Option<Task>,
}

#[derive(Debug)]
pub(crate) struct Tasks {
    slots: Vec<Slot>,
    free: Vec<u16>,
    by_tag: HashMap<u32, u16, BuildHasherDefault<TagHasher>>,
    /// How many are immediate.
    immediate: u16,
    immediate_limit: u16,
}

impl Tasks {
    /// `window` slots for ordered commands and `immediate` more.
    pub(crate) fn new(window: u16, immediate: u16) -> Self {
        let count = window + immediate;
        Self {
            slots: (0..count).map(|_| Slot::default()).collect(),
            free: (0..count).rev().collect(),
            by_tag: HashMap::with_capacity_and_hasher(2 * usize::from(count), BuildHasherDefault::default()),
            immediate: 0,
            immediate_limit: immediate,
        }
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn find(&self, tag: u32) -> Option<TaskId> {
        let slot = *self.by_tag.get(&tag)?;
        Some(TaskId { slot, generation: self.slots[usize::from(slot)].generation })
    }

    pub(crate) fn get(&self, id: TaskId) -> Option<&Task> {
        let slot = self.slots.get(id.index()).filter(|slot| slot.generation == id.generation)?;
        slot.task.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        let slot = self.slots.get_mut(id.index()).filter(|slot| slot.generation == id.generation)?;
        slot.task.as_mut()
    }

    /// Whether another task, immediate or not, finds a slot.
    pub(crate) fn has_room(&self, immediate: bool) -> bool {
        !self.free.is_empty() && (!immediate || self.immediate < self.immediate_limit)
    }

    /// Opens a task under a tag that is not in use; `make` gets the name of the task's first R2T. `None`: no room.
    pub(crate) fn open(&mut self, make: impl FnOnce(u16) -> Task) -> Option<TaskId> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[usize::from(index)];
        let task = make(slot.transfer);
        self.by_tag.insert(task.tag, index);
        self.immediate += u16::from(task.immediate);
        slot.task = Some(task);
        Some(TaskId { slot: index, generation: slot.generation })
    }

    pub(crate) fn close(&mut self, id: TaskId) -> Option<Task> {
        let slot = self.slots.get_mut(id.index()).filter(|slot| slot.generation == id.generation)?;
        let task = slot.task.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.transfer = task.write.unused_transfer();
        self.by_tag.remove(&task.tag);
        self.immediate -= u16::from(task.immediate);
        self.free.push(id.slot);
        Some(task)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = TaskId> {
        let used = |(index, slot): (usize, &Slot)| {
            slot.task.as_ref().map(|_| TaskId { slot: index as u16, generation: slot.generation })
        };
        self.slots.iter().enumerate().filter_map(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Parameters;

    fn task(tag: u32, immediate: bool) -> impl FnOnce(u16) -> Task {
        move |transfer| Task {
            cid: 0,
            tag,
            kind: TaskKind::Command,
            lun: [0; 8],
            immediate,
            write: WriteTransfer::new(0, 0, false, transfer, &Parameters::DEFAULT),
            read_expected: 0,
            read_sent: 0,
            data_sn: 0,
        }
    }

    #[test]
    fn slots_are_bounded_and_names_are_not_reused() {
        let mut tasks = Tasks::new(2, 1);
        let first = tasks.open(task(10, true)).unwrap();
        assert!(!tasks.has_room(true) && tasks.has_room(false));
        let second = tasks.open(task(11, false)).unwrap();
        tasks.open(task(12, false)).unwrap();
        assert!(tasks.open(task(13, false)).is_none());
        assert_eq!(tasks.find(11), Some(second));
        assert_eq!(tasks.close(first).unwrap().tag, 10);
        assert!(tasks.close(first).is_none() && tasks.find(10).is_none());
        let again = tasks.open(task(13, true)).unwrap();
        assert_eq!(again.index(), first.index());
        assert!(tasks.get(first).is_none() && tasks.get(again).is_some());
        assert_eq!(tasks.iter().count(), 3);
    }
}
