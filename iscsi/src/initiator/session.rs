//! What the connections of a session share: the command window and the requests that are not answered.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::Task;
use super::task::Effect;
use crate::error::Error;
use crate::pdu::{NO_TAG, Opcode, TaskManagementFunction};
use crate::serial::before;
use crate::tags::TagHasher;

#[derive(Debug)]
pub(super) struct Session {
    /// 0 until the leading login is finished.
    pub(super) tsih: u16,
    cmd_sn: u32,
    max_cmd_sn: u32,
    next_tag: u32,
    tasks: HashMap<u32, Task, BuildHasherDefault<TagHasher>>,
}

impl Session {
    pub(super) fn new(first_cmd_sn: u32) -> Self {
        Self {
            tsih: 0,
            cmd_sn: first_cmd_sn,
            max_cmd_sn: first_cmd_sn,
            next_tag: 0,
            tasks: HashMap::default(),
        }
    }

    /// The CmdSN of the next request.
    pub(super) fn cmd_sn(&self) -> u32 {
        self.cmd_sn
    }

    /// How many more commands the target takes now.
    pub(super) fn window(&self) -> u32 {
        let window = self.max_cmd_sn.wrapping_sub(self.cmd_sn).wrapping_add(1);
        if window > i32::MAX as u32 { 0 } else { window }
    }

    /// Uses up a CmdSN, unless the request is immediate; `None`: the window is closed.
    pub(super) fn number(&mut self, immediate: bool) -> Option<u32> {
        let cmd_sn = self.cmd_sn;
        if !immediate {
            (self.window() > 0).then_some(())?;
            self.cmd_sn = cmd_sn.wrapping_add(1);
        }
        Some(cmd_sn)
    }

    /// As a login response says.
    pub(super) fn set_window(&mut self, max: u32) {
        self.max_cmd_sn = max;
    }

    /// Older numbers than those known are ignored (RFC 7143 4.2.2.1).
    pub(super) fn move_window(&mut self, expected: u32, max: u32) {
        if !before(max, expected.wrapping_sub(1)) && before(self.max_cmd_sn, max) {
            self.max_cmd_sn = max;
        }
    }

    /// Opens a task; returns its tag.
    pub(super) fn open(&mut self, task: Task) -> u32 {
        let mut tag = self.next_tag;
        while tag == NO_TAG || self.tasks.contains_key(&tag) {
            tag = tag.wrapping_add(1);
        }
        self.next_tag = tag.wrapping_add(1);
        self.tasks.insert(tag, task);
        tag
    }

    pub(super) fn get(&self, tag: u32) -> Option<&Task> {
        self.tasks.get(&tag)
    }

    /// The task that `answer` is to answer, or go on with, by the connection `cid`.
    pub(super) fn find(&mut self, (tag, cid): (u32, u16), answer: Opcode) -> Option<&mut Task> {
        self.tasks.get_mut(&tag).filter(|task| task.answer == answer && task.cid == cid)
    }

    /// Closes the task that a PDU with the opcode `answer` ends.
    pub(super) fn close(&mut self, (tag, cid): (u32, u16), answer: Opcode) -> Result<Task, Error> {
        let found = self.find((tag, cid), answer).is_some();
        self.tasks.remove(&tag).filter(|_| found).ok_or(Error::NoSuchTask(answer))
    }

    /// Closes the commands that a task management function has ended; `release` gets the payloads.
    pub(super) fn abort(&mut self, effect: Effect, mut release: impl FnMut(u64)) {
        let concerns = |tag: u32, task: &Task| match effect.function {
            TaskManagementFunction::ABORT_TASK => tag == effect.referenced,
            TaskManagementFunction::ABORT_TASK_SET
            | TaskManagementFunction::CLEAR_TASK_SET
            | TaskManagementFunction::LOGICAL_UNIT_RESET => task.lun == effect.lun,
            TaskManagementFunction::TARGET_WARM_RESET
            | TaskManagementFunction::TARGET_COLD_RESET
            | TaskManagementFunction::I_T_NEXUS_RESET => true,
            _ => false,
        };
        self.tasks.retain(|&tag, task| {
            let ends = task.answer == Opcode::SCSI_RESPONSE && concerns(tag, task);
            if let Some(payload) = task.payload.filter(|_| ends) {
                release(payload);
            }
            !ends
        });
    }
}
