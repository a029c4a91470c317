//! What the connections of a session share.

use super::TaskId;
use super::tasks::Tasks;
use super::window::{Arrival, CommandWindow};
use crate::limits::MAX_IMMEDIATE_TASKS;
use crate::params::Parameters;
use serde::{Deserialize, Serialize};

/// Kind of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionType {
    /// SCSI commands to one target.
    #[default]
    Normal,
    /// Text requests only.
    Discovery,
}

/// Who talks to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// InitiatorName.
    pub initiator_name: String,
    /// InitiatorAlias; empty: none.
    pub initiator_alias: String,
    /// TargetName; empty in a discovery session without one.
    pub target_name: String,
    /// SessionType.
    pub session_type: SessionType,
    /// Initiator's part of the session identifier.
    pub isid: [u8; 6],
    /// Target's part of the session identifier.
    pub tsih: u16,
    /// The name under which the initiator has proved who it is; `None` if it did not have to.
    pub authenticated: Option<String>,
}

/// One session: command order and open tasks.
#[derive(Debug)]
pub struct Session {
    info: SessionInfo,
    agreed: Parameters,
    pub(crate) window: CommandWindow,
    pub(crate) tasks: Tasks,
}

impl Session {
    pub(crate) fn new(info: SessionInfo, agreed: Parameters, first_cmd_sn: u32, window: u16) -> Self {
        Self {
            info,
            agreed,
            window: CommandWindow::new(first_cmd_sn, window),
            tasks: Tasks::new(window, MAX_IMMEDIATE_TASKS),
        }
    }

    /// Who talks to whom.
    pub fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// What was agreed on at login.
    pub fn parameters(&self) -> &Parameters {
        &self.agreed
    }

    /// How many tasks can be open at once; above every [`TaskId::index`].
    pub fn slots(&self) -> usize {
        self.tasks.slots()
    }

    /// The open tasks: commands and task management functions.
    pub fn tasks(&self) -> impl Iterator<Item = TaskId> {
        self.tasks.iter()
    }

    /// Initiator task tag of an open task.
    pub fn task_tag(&self, task: TaskId) -> Option<u32> {
        Some(self.tasks.get(task)?.tag)
    }

    /// Closes a task that was aborted and gets no response. False: it was closed already.
    pub fn discard(&mut self, task: TaskId) -> bool {
        let Some(task) = self.tasks.close(task) else { return false };
        if !task.immediate {
            self.window.widen();
        }
        true
    }

    /// Whether the initiator believes that it may send no command, and is wrong: the command window has opened with no
    /// response that could say so, as commands were aborted. See [`Connection::tell_window`](super::Connection::tell_window).
    pub fn window_opened_unseen(&self) -> bool {
        self.window.opened_unseen()
    }

    /// Whether a PDU with this CmdSN is to be ignored.
    pub(crate) fn ignores(&self, immediate: bool, cmd_sn: u32) -> bool {
        !immediate && self.window.classify(cmd_sn) == Arrival::Ignored
    }

    /// Counts a PDU that opens no task.
    pub(crate) fn count(&mut self, immediate: bool, cmd_sn: u32) {
        if !immediate {
            self.window.receive(cmd_sn, None);
            self.window.widen();
        }
    }

    pub(crate) fn next_due(&mut self) -> Option<TaskId> {
        while let Some(task) = self.window.next_due() {
            if self.tasks.get(task).is_some() {
                return Some(task);
            }
        }
        None
    }
}
