//! What other threads have for a reactor.
//!
//! A queue under a lock that is held for a push or a swap only. Whether the reactor sleeps is kept under the same lock,
//! so a wake-up is never missed and never sent to a reactor that is awake.

use crate::transfer::Transfer;
use lunette_store::{IoId, IoResult, Message, Post, ReactorId};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One thing for a reactor to take note of.
pub(crate) enum Letter {
    /// Work that was posted.
    Run(Message),
    /// A blocking call has returned.
    Called(IoId, IoResult),
    /// A lane has carried out a file operation.
    Transferred(Transfer, IoResult),
    /// The last letter: end.
    Close,
}

pub(crate) struct Mailbox {
    queue: Mutex<Queue>,
    /// A hint that saves the lock: letters are waiting.
    waiting: AtomicBool,
    wake: OwnedFd,
}

#[derive(Default)]
struct Queue {
    letters: VecDeque<Letter>,
    asleep: bool,
    closed: bool,
}

impl Mailbox {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            queue: Mutex::default(),
            waiting: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Becomes readable, edge-triggered, when a sleeping reactor has mail. Never read: only its edges count.
    pub(crate) fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// Adds a letter, and wakes the reactor if it sleeps. Messages to a closed mailbox are dropped.
    pub(crate) fn put(&self, letter: Letter) {
        let mut queue = self.lock();
        if queue.closed && matches!(letter, Letter::Run(_) | Letter::Close) {
            // The message may own anything, so it is dropped without the lock.
            drop(queue);
            drop(letter);
            return;
        }
        queue.closed |= matches!(letter, Letter::Close);
        queue.letters.push_back(letter);
        self.announce(queue);
    }

    /// Adds results, with one wake-up for all of them.
    pub(crate) fn put_results(&self, results: impl Iterator<Item = Letter>) {
        let mut queue = self.lock();
        queue.letters.extend(results);
        self.announce(queue);
    }

    fn announce(&self, mut queue: MutexGuard<'_, Queue>) {
        self.waiting.store(true, Ordering::Release);
        let wake = std::mem::take(&mut queue.asleep);
        drop(queue);
        if wake {
            // Fails only when the counter is full, and then the descriptor has been written before.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// Moves all letters into `empty`.
    pub(crate) fn take(&self, empty: &mut VecDeque<Letter>) {
        debug_assert!(empty.is_empty());
        if self.waiting.load(Ordering::Acquire) {
            let mut queue = self.lock();
            self.waiting.store(false, Ordering::Release);
            std::mem::swap(&mut queue.letters, empty);
        }
    }

    /// The reactor is about to sleep. Returns whether it may: no letter is waiting, and the next one will wake it.
    pub(crate) fn sleep(&self) -> bool {
        let mut queue = self.lock();
        queue.asleep = queue.letters.is_empty();
        queue.asleep
    }

    /// The reactor is awake again.
    pub(crate) fn awake(&self) {
        self.lock().asleep = false;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The mailboxes of all reactors.
pub(crate) struct Mailboxes(pub(crate) Box<[Mailbox]>);

impl Mailboxes {
    pub(crate) fn of(&self, reactor: ReactorId) -> &Mailbox {
        &self.0[usize::from(reactor.0)]
    }
}

impl Post for Mailboxes {
    fn post(&self, to: ReactorId, message: Message) {
        if let Some(mailbox) = self.0.get(usize::from(to.0)) {
            mailbox.put(Letter::Run(message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wakes(mailbox: &Mailbox) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&mailbox.wake, &mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(_) => 0,
        }
    }

    #[test]
    fn only_the_first_letter_to_a_sleeper_wakes_it() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.put(Letter::Run(Box::new(|_| ())));
        assert_eq!(wakes(&mailbox), 0);
        assert!(!mailbox.sleep(), "mail is waiting");
        let mut letters = VecDeque::new();
        mailbox.take(&mut letters);
        assert_eq!(letters.len(), 1);
        assert!(mailbox.sleep());
        mailbox.put(Letter::Run(Box::new(|_| ())));
        mailbox.put(Letter::Run(Box::new(|_| ())));
        assert_eq!(wakes(&mailbox), 1);
    }

    #[test]
    fn a_closed_mailbox_takes_results_but_no_messages() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.put(Letter::Close);
        mailbox.put(Letter::Run(Box::new(|_| ())));
        mailbox.put(Letter::Close);
        mailbox.put(Letter::Transferred(Transfer::idle(), Ok(0)));
        let mut letters = VecDeque::new();
        mailbox.take(&mut letters);
        assert!(matches!(letters.make_contiguous(), [Letter::Close, Letter::Transferred(..)]));
    }
}
