//! The memory in which is noted what is in flight: made for a front end that asks for it, and taken over from one that has it.

use super::ledger::Ledger;
use super::log::MappedLog;
use super::offer::offer;
use super::state::{Concerned, Then};
use super::{Connection, EndReason, Phase, State, Token};
use crate::aside::{Aside, Foreign};
use crate::memory::{MemoryMap, Unused};
use crate::ring::NoteMemory;
use lunette_store::Cx;
use lunette_vhost_user::{Ack, InflightArea, InflightReply, MemoryRegion, SharedRegion};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Something that is done aside, and what becomes of it.
pub(super) enum Noting {
    /// Memory is made, of so many bytes.
    Make(InflightReply, u64, Made<OwnedFd>),
    /// Memory is mapped.
    Map(Ack, Made<Mapped>),
    /// A dirty log is mapped.
    Log(Ack, Made<MappedLog>),
    /// Memory of our own is made and mapped.
    Own(Made<(Mapped, Ledger)>),
}

/// Memory for notes that is mapped.
pub(super) struct Mapped {
    pub(super) notes: NoteMemory,
    pub(super) area: InflightArea,
    pub(super) fd: OwnedFd,
    /// Why it could not be pinned.
    pinned: io::Result<()>,
}

pub(super) type Made<T> = Arc<Mutex<Option<Result<T, String>>>>;

impl Connection {
    /// Notes what is in flight in memory of our own, if that is wanted, until the front end brings some.
    pub(crate) fn keep_notes(&self, request_queues: u16, cx: &mut dyn Cx) {
        if self.place.keep_notes {
            let made = Made::default();
            self.state().noting = Some(Noting::Own(made.clone()));
            let aside = self.place.aside.clone();
            self.do_aside(Token::Noted, made, move || own(request_queues, &aside), cx);
        }
    }

    /// Makes memory for the notes of as many queues as the front end asks for.
    pub(super) fn make_notes(
        &self,
        state: &mut State,
        area: InflightArea,
        reply: InflightReply,
        cx: &mut dyn Cx,
    ) {
        let length = NoteMemory::needed(area.queues, area.queue_size);
        if length == 0 {
            state.then = Then::Send(reply.none());
            return;
        }
        let made = Made::default();
        state.noting = Some(Noting::Make(reply, length, made.clone()));
        self.do_aside(Token::Noted, made, move || make(length).map_err(|error| error.to_string()), cx);
    }

    /// Maps the memory that a front end has kept.
    pub(super) fn map_notes(
        &self,
        state: &mut State,
        area: InflightArea,
        fd: OwnedFd,
        ack: Ack,
        cx: &mut dyn Cx,
    ) {
        let made = Made::default();
        state.noting = Some(Noting::Map(ack, made.clone()));
        if area.mmap_size == 0 || area.queues == 0 {
            let refusal = "memory for notes is empty".to_owned();
            return self.do_aside(Token::Noted, made, || Err(refusal), cx);
        }
        let aside = self.place.aside.clone();
        let pin = self.place.pin_memory;
        self.do_aside(Token::Noted, made, move || Mapped::new(area, fd, pin, &aside), cx);
    }

    /// Has something made aside, and is called with `token` then.
    pub(super) fn do_aside<T: Send + 'static>(
        &self,
        token: Token,
        made: Made<T>,
        make: impl FnOnce() -> Result<T, String> + Send + 'static,
        cx: &mut dyn Cx,
    ) {
        self.do_in(&self.place.aside, token, made, make, cx);
    }

    /// The same in another lane.
    pub(super) fn do_in<T: Send + 'static>(
        &self,
        aside: &Aside,
        token: Token,
        made: Made<T>,
        make: impl FnOnce() -> Result<T, String> + Send + 'static,
        cx: &mut dyn Cx,
    ) {
        let work = move || {
            *made.lock().unwrap_or_else(PoisonError::into_inner) = Some(make());
            Ok(0)
        };
        aside.run(work, self.id(token), cx);
    }

    /// Notes what begins from now on in that memory.
    pub(super) fn adopt_notes(&self, state: &mut State, mapped: Mapped, cx: &mut dyn Cx) {
        let Mapped { notes, area, fd, pinned } = mapped;
        if let Err(error) = pinned
            && self.place.may_log(cx)
        {
            let export = &self.place.name;
            tracing::warn!(%export, %error, "memory for notes is not pinned (RLIMIT_MEMLOCK?)");
        }
        state.notes = Some(notes);
        state.notes_file = Some((area, Foreign::new(fd, &self.place.aside)));
        state.served.fill(false);
        state.rested.clear();
    }

    /// Goes on with what was made.
    pub(super) fn noted(&self, state: &mut State, cx: &mut dyn Cx) -> Result<(), EndReason> {
        let Some(noting) = state.noting.take() else { return Ok(()) };
        if state.phase != Phase::Open {
            return Ok(());
        }
        match noting {
            Noting::Make(reply, length, made) => {
                let reply = match take(&made) {
                    Ok(fd) => reply.share(length, 0, fd),
                    Err(error) => {
                        if self.place.may_log(cx) {
                            let export = &self.place.name;
                            tracing::warn!(%export, "no memory to note what is in flight: {error}");
                        }
                        reply.none()
                    }
                };
                state.then = Then::Send(reply);
                Ok(())
            }
            Noting::Map(ack, made) => {
                let mapped = take(&made).map(|mapped| {
                    self.adopt_notes(state, mapped, cx);
                    // Counts from the next start of a ring.
                    Concerned::None
                });
                self.conclude(state, mapped, ack, cx)
            }
            Noting::Log(ack, made) => self.log_mapped(state, take(&made), ack, cx),
            Noting::Own(made) => {
                match take(&made) {
                    Ok((mapped, ledger)) => {
                        self.adopt_notes(state, mapped, cx);
                        state.ledger = Some(ledger);
                    }
                    Err(error) if self.place.may_log(cx) => {
                        let export = &self.place.name;
                        tracing::warn!(%export, "what is in flight is not noted: {error}");
                    }
                    Err(_) => {}
                }
                Ok(())
            }
        }
    }
}

pub(super) fn take<T>(made: &Made<T>) -> Result<T, String> {
    let made = made.lock().unwrap_or_else(PoisonError::into_inner).take();
    made.unwrap_or_else(|| Err("it was not made".to_owned()))
}

/// What is needed so that another process can go on after a kill.
fn own(request_queues: u16, aside: &Aside) -> Result<(Mapped, Ledger), String> {
    Ok((Mapped::own(request_queues, aside)?, Ledger::new().map_err(|error| error.to_string())?))
}

impl Mapped {
    /// Makes and maps memory for the notes of a device, of which pages are taken as queues are used.
    pub(super) fn own(request_queues: u16, aside: &Aside) -> Result<Self, String> {
        let offer = offer(request_queues);
        let (queues, queue_size) = (offer.queues, offer.max_queue_size);
        let mmap_size = NoteMemory::needed(queues, queue_size);
        let fd = make(mmap_size).map_err(|error| error.to_string())?;
        Self::new(InflightArea { mmap_size, mmap_offset: 0, queues, queue_size }, fd, false, aside)
    }

    /// Maps memory for notes, and pins it if `pin`. It may take its time.
    pub(super) fn new(area: InflightArea, fd: OwnedFd, pin: bool, aside: &Aside) -> Result<Self, String> {
        let InflightArea { mmap_size: size, mmap_offset, queues, queue_size } = area;
        let aside = aside.clone();
        let release = move |unused: Unused| aside.post(move || drop(unused));
        let region = MemoryRegion { guest_address: 0, size, user_address: 0, mmap_offset };
        let shared = SharedRegion { region, fd };
        let map = MemoryMap::new(std::slice::from_ref(&shared)).map_err(|error| error.to_string())?;
        let pinned = if pin { map.pin() } else { Ok(()) };
        let notes = NoteMemory::new(map.released_to(Box::new(release)), size, queues, queue_size);
        Ok(Self { notes, area, fd: shared.fd, pinned })
    }
}

/// Zeroed memory that nobody can truncate.
fn make(length: u64) -> io::Result<OwnedFd> {
    let fd = memfd_create("lunette-in-flight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, length)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}
