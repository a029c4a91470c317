//! CmdSN: which commands may come, and in which order they are delivered (RFC 7143 4.2.2.1).

use std::cell::Cell;
use std::collections::VecDeque;

use super::TaskId;
use crate::serial::before;

/// Place of a received command in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The one that is due.
    Due,
    /// Inside the window, but others before it are missing.
    Early,
    /// Outside the window or a duplicate: to be ignored.
    Ignored,
}

#[derive(Debug)]
pub(crate) struct CommandWindow {
    expected: u32,
    max: u32,
    /// `max` as the initiator knows it.
    told: Cell<u32>,
    size: u32,
    /// Commands that ended but could not move `max`: one before them is missing.
    credit: u32,
    /// Numbers received ahead of `expected`, with the tasks that wait for their turn.
    early: Vec<(u32, Option<TaskId>)>,
    /// Tasks whose turn has come.
    due: VecDeque<TaskId>,
    /// `max` stays where it is.
    frozen: bool,
}

impl CommandWindow {
    /// A window of `size` commands from CmdSN `first` on.
    pub(crate) fn new(first: u32, size: u16) -> Self {
        let size = u32::from(size);
        let max = first.wrapping_add(size).wrapping_sub(1);
        let told = Cell::new(max);
        Self {
            expected: first,
            max,
            told,
            size,
            credit: 0,
            early: Vec::new(),
            due: VecDeque::new(),
            frozen: false,
        }
    }

    /// The initiator may send no more than it may now.
    pub(crate) fn freeze(&mut self) {
        self.frozen = true;
    }

    /// The initiator has been told of this MaxCmdSN, which is no more than that of this new window.
    pub(crate) fn go_on(&mut self, told: u32) {
        self.told.set(told);
    }

    /// MaxCmdSN as the initiator knows it.
    pub(crate) fn told(&self) -> u32 {
        self.told.get()
    }

    /// How many commands it is for.
    pub(crate) fn size(&self) -> u16 {
        self.size as u16
    }

    /// ExpCmdSN.
    pub(crate) fn expected(&self) -> u32 {
        self.expected
    }

    /// MaxCmdSN, which the initiator is told.
    pub(crate) fn max(&self) -> u32 {
        self.tell(self.max)
    }

    /// Whether the initiator believes that it may send nothing, and may.
    pub(crate) fn opened_unseen(&self) -> bool {
        self.told.get() != self.max && before(self.told.get(), self.expected)
    }

    pub(crate) fn classify(&self, cmd_sn: u32) -> Arrival {
        if cmd_sn == self.expected && !before(self.max, cmd_sn) {
            Arrival::Due
        } else if before(cmd_sn, self.expected)
            || before(self.max, cmd_sn)
            || self.early.iter().any(|&(early, _)| early == cmd_sn)
        {
            Arrival::Ignored
        } else {
            Arrival::Early
        }
    }

    /// Counts a command that `classify` did not call ignored. `task`, if given and early, is delivered later.
    pub(crate) fn receive(&mut self, cmd_sn: u32, task: Option<TaskId>) {
        if cmd_sn != self.expected {
            self.early.push((cmd_sn, task));
            return;
        }
        self.expected = self.expected.wrapping_add(1);
        while let Some(next) = self.early.iter().position(|&(early, _)| early == self.expected) {
            let (_, task) = self.early.swap_remove(next);
            self.due.extend(task);
            self.expected = self.expected.wrapping_add(1);
        }
        self.settle();
    }

    /// The next task whose turn has come.
    pub(crate) fn next_due(&mut self) -> Option<TaskId> {
        self.due.pop_front()
    }

    /// Whether numbers before some that were received are missing.
    pub(crate) fn has_gap(&self) -> bool {
        !self.early.is_empty()
    }

    /// Whether the turn of a task has come that was early.
    pub(crate) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// A command has ended: the initiator may send one more, but never one that is more than the window's size
    /// ahead.
    pub(crate) fn widen(&mut self) {
        self.credit += 1;
        self.settle();
    }

    /// MaxCmdSN after one more `widen`, which the initiator is told.
    pub(crate) fn max_if_widened(&self) -> u32 {
        self.tell(self.max.wrapping_add(self.room().min(1)))
    }

    fn tell(&self, max: u32) -> u32 {
        self.told.set(max);
        max
    }

    fn room(&self) -> u32 {
        match self.frozen {
            true => 0,
            false => self.size - self.max.wrapping_sub(self.expected).wrapping_add(1),
        }
    }

    fn settle(&mut self) {
        let step = self.credit.min(self.room());
        self.credit -= step;
        self.max = self.max.wrapping_add(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(index: u16) -> TaskId {
        TaskId { slot: index, generation: 0 }
    }

    #[test]
    fn order_and_window_across_the_wrap() {
        let first = u32::MAX - 1;
        let mut window = CommandWindow::new(first, 4);
        assert_eq!((window.expected(), window.max()), (first, 1));
        assert_eq!(window.classify(first.wrapping_sub(1)), Arrival::Ignored);
        assert_eq!(window.classify(2), Arrival::Ignored);
        assert_eq!(window.classify(first), Arrival::Due);
        for (cmd_sn, index) in [(1, 3), (u32::MAX, 1)] {
            assert_eq!(window.classify(cmd_sn), Arrival::Early);
            window.receive(cmd_sn, Some(task(index)));
            assert_eq!(window.classify(cmd_sn), Arrival::Ignored, "a duplicate");
        }
        window.receive(first, None);
        assert_eq!((window.expected(), window.next_due(), window.next_due()), (0, Some(task(1)), None));
        window.receive(0, None);
        assert_eq!((window.expected(), window.next_due()), (2, Some(task(3))));
        assert_eq!(window.classify(2), Arrival::Ignored, "the window is closed");
        window.widen();
        assert_eq!(window.classify(2), Arrival::Due);
    }

    #[test]
    fn a_missing_command_bounds_what_may_come_early() {
        let mut window = CommandWindow::new(1, 4);
        let mut taken = 0;
        for cmd_sn in 2..100 {
            if window.classify(cmd_sn) == Arrival::Early {
                window.receive(cmd_sn, None);
                window.widen();
                taken += 1;
            }
        }
        assert_eq!((taken, window.max(), window.max_if_widened()), (3, 4, 4));
        window.receive(1, None);
        assert_eq!((window.expected(), window.max(), window.max_if_widened()), (5, 7, 8));
        window.widen();
        assert_eq!(window.max(), 8);
    }

    #[test]
    fn it_is_known_when_the_initiator_has_to_hear_that_the_window_is_open() {
        let mut window = CommandWindow::new(u32::MAX, 2);
        window.widen();
        window.receive(u32::MAX, None);
        assert!(!window.opened_unseen(), "it may send one more");
        window.receive(0, None);
        assert!(window.opened_unseen(), "and believes that this was the last");
        assert_eq!(window.max(), 1);
        assert!(!window.opened_unseen());
        window.receive(1, None);
        assert!(!window.opened_unseen(), "it was the last");
        assert_eq!(window.max_if_widened(), 2);
        window.widen();
        assert!(!window.opened_unseen(), "the response says so");
        window.widen();
        assert!(!window.opened_unseen(), "it knows of one");
    }
}
