//! The kernel through epoll, which has no file operations.

use crate::kernel::{Event, Kernel, Wait};
use crate::sys;
use crate::watches::WatchKey;
use lunette_store::{FileOp, Interest, IoError, IoId, Submit};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{OwnedFd, RawFd};

/// Most descriptors that one call of `collect` reports.
const MOST_EVENTS: usize = 64;
/// Names the mailbox; descriptors are smaller.
const WAKE: u64 = u64::MAX;

pub(crate) struct Epoll {
    epoll: OwnedFd,
    /// epoll knows a descriptor only once, so all its watches share what is asked for.
    watched: HashMap<RawFd, Vec<(WatchKey, Interest)>>,
    refused: Vec<(WatchKey, IoError)>,
    ready: Vec<epoll::Event>,
}

impl Epoll {
    pub(crate) fn new(wake: RawFd) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, sys::borrow(wake), EventData::new_u64(WAKE), EventFlags::IN | EventFlags::ET)?;
        Ok(Self {
            epoll,
            watched: HashMap::new(),
            refused: Vec::new(),
            ready: Vec::with_capacity(MOST_EVENTS),
        })
    }

    /// Tells epoll what the watches of `fd` want; it then reports whatever of that is ready now.
    fn renew(&self, fd: RawFd) -> Result<(), Errno> {
        let watches = self.watched.get(&fd).map_or(&[][..], Vec::as_slice);
        if watches.is_empty() {
            return epoll::delete(&self.epoll, sys::borrow(fd));
        }
        let wanted = watches.iter().fold(EventFlags::ET, |flags, (_, interest)| flags | asked(*interest));
        let data = EventData::new_u64(fd as u32 as u64);
        match epoll::modify(&self.epoll, sys::borrow(fd), data, wanted) {
            Err(Errno::NOENT) => epoll::add(&self.epoll, sys::borrow(fd), data, wanted),
            done => done,
        }
    }

    fn forget(&mut self, key: WatchKey, fd: RawFd) {
        if let Some(watches) = self.watched.get_mut(&fd) {
            watches.retain(|(other, _)| *other != key);
            if watches.is_empty() {
                self.watched.remove(&fd);
            }
        }
    }
}

impl Kernel for Epoll {
    fn file(&mut self, _op: FileOp<'_>, _id: IoId) -> Option<Submit> {
        None
    }

    fn arm(&mut self, key: WatchKey, fd: RawFd, interest: Interest) {
        self.watched.entry(fd).or_default().push((key, interest));
        if let Err(error) = self.renew(fd) {
            self.forget(key, fd);
            self.refused.push((key, error.into()));
        }
    }

    fn disarm(&mut self, key: WatchKey, fd: RawFd) {
        self.forget(key, fd);
        // Fails if the descriptor was closed too early, and then there is nothing left to end.
        let _ = self.renew(fd);
    }

    fn collect(&mut self, wait: Wait, events: &mut VecDeque<Event>) {
        let timeout = match wait {
            Wait::Forever if self.refused.is_empty() => None,
            Wait::AtMost(timeout) if self.refused.is_empty() => Timespec::try_from(timeout).ok(),
            _ => Some(Timespec::default()),
        };
        self.ready.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.ready), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => (),
            Err(error) => panic!("epoll_wait: {error}"),
        }
        for event in &self.ready {
            let (data, flags) = (event.data.u64(), event.flags);
            let watches = RawFd::try_from(data).ok().and_then(|fd| self.watched.get(&fd));
            for (key, interest) in watches.into_iter().flatten() {
                if flags.intersects(asked(*interest) | EventFlags::HUP | EventFlags::ERR) {
                    events.push_back(Event::Ready(*key));
                }
            }
        }
        events.extend(self.refused.drain(..).map(|(key, error)| Event::Refused(key, error)));
    }

    fn busy(&self) -> bool {
        false
    }
}

fn asked(interest: Interest) -> EventFlags {
    match interest {
        Interest::Readable => EventFlags::IN | EventFlags::RDHUP,
        Interest::Writable => EventFlags::OUT,
    }
}
