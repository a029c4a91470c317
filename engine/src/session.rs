//! An I_T nexus as one reactor uses it: the way in for commands and task management functions.

use crate::engine::Engine;
use crate::limit::Purse;
use crate::nexus::ItlNexus;
use crate::outcome::Completion;
use crate::statistics::Usage;
use crate::task_set::TaskSet;
use crate::tasks::{Share, TaskId};
use crate::{LogicalUnit, LunMap, Nexus, Outcome};
use lunette_scsi::{Cdb, Lun, ServiceResponse, TaskAttribute, TaskManagementFunction};
use lunette_store::{Cx, ReactorId, Sg};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// What becomes of memory that a transport has [given up](Responder::give_up): to be called when nothing touches it any more.
pub type GivenUp = Box<dyn FnOnce(&mut dyn Cx)>;

/// A transport's connection, as the engine answers it. Never called while the transport calls the engine.
pub trait Responder {
    /// The command with this cookie has ended; nothing touches its memory any more.
    fn command_ended(&self, cookie: u64, completion: Completion, cx: &mut dyn Cx);

    /// The task management function with this cookie has ended; of the tasks that it aborted nothing touches the
    /// initiator's memory any more.
    fn management_ended(&self, cookie: u64, response: ServiceResponse, cx: &mut dyn Cx);

    /// The command with this cookie was aborted, and a store reads into its memory and may do so for long. A transport whose own that
    /// memory is may give it up: it keeps it as it is until what it returns is called, and the command [ends](Self::command_ended) at
    /// once. Memory of an initiator is never given up.
    fn give_up(&self, cookie: u64) -> Option<GivenUp> {
        let _ = cookie;
        None
    }
}

/// A command as a transport received it (SAM-5 5.4.2, Send SCSI Command).
#[derive(Clone, Copy, Debug)]
pub struct CommandFrame<'a> {
    /// Logical unit number.
    pub lun: Lun,
    /// Command identifier: what ABORT TASK and QUERY TASK will name it by.
    pub tag: u64,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// Command priority, 1 (highest) to 15 (SAM-5 8.7); 0 if the initiator gave none: that of its nexus then. What
    /// waits for room in the store waits in its order.
    pub priority: u8,
    /// Command reference number (SAM-5 5.1), 0 if the initiator counts none. Nothing is ordered by it yet.
    pub reference_number: u8,
    /// Command descriptor block.
    pub cdb: &'a Cdb,
    /// How many bytes the initiator means to send (iSCSI: Expected Data Transfer Length).
    pub data_out: u64,
    /// What the transport knows it by.
    pub cookie: u64,
}

impl<'a> CommandFrame<'a> {
    /// A SIMPLE command without data-out; its tag and cookie are 0.
    pub fn new(lun: Lun, cdb: &'a Cdb) -> Self {
        let attribute = TaskAttribute::Simple;
        Self { lun, tag: 0, attribute, priority: 0, reference_number: 0, cdb, data_out: 0, cookie: 0 }
    }
}

/// A task management function as a transport received it.
#[derive(Clone, Copy, Debug)]
pub struct Management {
    /// Which function.
    pub function: TaskManagementFunction,
    /// Logical unit number; functions that concern the whole target do not look at it.
    pub lun: Lun,
    /// Command identifier, for ABORT TASK and QUERY TASK.
    pub tag: u64,
}

/// What became of a command when it arrived.
#[derive(Debug)]
pub enum Admission {
    /// It is in the task set. Gather `wanted_out` bytes of data-out (or as many as the initiator has), then
    /// [`start`](Session::start) it.
    Admitted {
        /// The task.
        task: TaskId,
        /// Bytes of data-out that it needs.
        wanted_out: u64,
        /// The most bytes of data-in that it gives.
        wanted_in: u64,
    },
    /// It has ended already, without data.
    Ended(Outcome),
}

/// How a started command goes on.
#[derive(Debug)]
pub enum Started {
    /// It has ended.
    Ended(Outcome),
    /// [`Responder::command_ended`] follows.
    Pending,
}

/// An I_T nexus on one reactor.
///
/// A nexus may have sessions on several reactors (the queues of one virtual machine); its tasks can be aborted from each.
pub struct Session {
    engine: Rc<Engine>,
    nexus: Arc<Nexus>,
    responder: Weak<dyn Responder>,
    share: Rc<Share>,
    luns: Arc<LunMap>,
    known: Rc<Known>,
    /// What the engine knows that by.
    number: u64,
    closed: Cell<bool>,
    /// How often the nexus had been lost when this was opened.
    losses: u64,
}

/// What a session knows of the logical units that its initiator sees.
#[derive(Default)]
struct Known {
    /// That of the inventory of which this is.
    epoch: Cell<u64>,
    /// The I_T_L nexuses met so far, by the number of their logical unit.
    itls: RefCell<HashMap<u64, Rc<Itl>>>,
    recent: RefCell<Recent>,
}

impl Known {
    /// Where commands for `lun` are executed, if that was found out since `luns` has changed.
    #[inline]
    fn place(&self, lun: Lun, luns: &LunMap) -> Option<Place> {
        if self.epoch.get() != luns.epoch() {
            return None;
        }
        self.recent.borrow().get(lun).cloned()
    }

    /// Forgets at which numbers units were seen, if that has changed.
    fn refresh(&self, luns: &LunMap) {
        // Before the inventory is looked at: if it changes after this, all is forgotten again.
        let epoch = luns.epoch();
        if self.epoch.replace(epoch) != epoch {
            self.recent.take();
        }
    }

    /// Lets go of units that are not seen any more, or are retired.
    fn forget_left(&self) {
        self.itls.borrow_mut().retain(|_, itl| itl.is_current());
        self.recent.borrow_mut().forget_left();
    }
}

/// What the sessions of a reactor know.
#[derive(Default)]
pub(crate) struct Sessions {
    next: u64,
    known: HashMap<u64, Weak<Known>>,
}

impl Engine {
    /// What sessions know of units that are not seen any more, or are retired, is forgotten.
    pub(crate) fn forget_left(&self) {
        let known: Vec<_> = self.sessions.borrow().known.values().filter_map(Weak::upgrade).collect();
        known.iter().for_each(|known| known.forget_left());
    }
}

/// Where commands for a logical unit are executed.
#[derive(Clone)]
enum Place {
    Here(Rc<Itl>),
    On(ReactorId),
}

/// The logical units used last, each at a position that its LUN gives it.
#[derive(Default)]
struct Recent(Vec<Option<(Lun, Place)>>);

impl Recent {
    const LENGTHS: std::ops::RangeInclusive<usize> = 8..=256;

    /// By the last byte of a single-level LUN, where neighbours differ (SAM-5 4.7.6).
    #[inline]
    fn position(&self, lun: Lun) -> usize {
        usize::from(lun.to_bytes()[1]) & self.0.len().wrapping_sub(1)
    }

    #[inline]
    fn get(&self, lun: Lun) -> Option<&Place> {
        match self.0.get(self.position(lun)) {
            Some(Some((known, place))) if *known == lun => Some(place),
            _ => None,
        }
    }

    /// Becomes twice as long rather than forget another unit, as long as that helps.
    fn put(&mut self, lun: Lun, place: Place) {
        if self.0.is_empty() {
            self.0.resize_with(*Self::LENGTHS.start(), || None);
        }
        while self.0.len() < *Self::LENGTHS.end()
            && self.0[self.position(lun)].as_ref().is_some_and(|(other, _)| *other != lun)
        {
            let others = std::mem::take(&mut self.0);
            self.0.resize_with(2 * others.len(), || None);
            for (lun, place) in others.into_iter().flatten() {
                let position = self.position(lun);
                self.0[position] = Some((lun, place));
            }
        }
        let position = self.position(lun);
        self.0[position] = Some((lun, place));
    }

    fn forget_left(&mut self) {
        for place in &mut self.0 {
            place.take_if(|(_, place)| matches!(place, Place::Here(itl) if !itl.is_current()));
        }
    }
}

/// An I_T_L nexus on one reactor.
pub(crate) struct Itl {
    pub(crate) shared: Arc<ItlNexus>,
    pub(crate) nexus: Arc<Nexus>,
    pub(crate) set: Rc<TaskSet>,
    pub(crate) responder: Weak<dyn Responder>,
    pub(crate) share: Rc<Share>,
    /// How many tasks it has.
    pub(crate) tasks: Cell<u32>,
    pub(crate) usage: Arc<Usage>,
    pub(crate) purse: Purse,
    /// How often the nexus had been lost when the session was opened.
    pub(crate) losses: u64,
}

impl Itl {
    pub(crate) fn unit(&self) -> &Arc<LogicalUnit> {
        &self.set.unit
    }

    /// Whether new commands may come by it.
    fn is_current(&self) -> bool {
        !self.shared.has_left() && !self.unit().is_retired()
    }
}

impl Session {
    /// Opens a nexus on the reactor of `cx`. The engine keeps no strong reference to `responder`.
    pub fn open(nexus: Arc<Nexus>, responder: Weak<dyn Responder>, cx: &mut dyn Cx) -> Self {
        let engine = Engine::on(cx);
        let share = engine.tasks.borrow_mut().share(&nexus.initiator);
        nexus.works_on(engine.reactor);
        let known = Rc::<Known>::default();
        let mut sessions = engine.sessions.borrow_mut();
        let number = sessions.next;
        sessions.next += 1;
        sessions.known.insert(number, Rc::downgrade(&known));
        drop(sessions);
        Self {
            engine,
            share,
            losses: nexus.losses(),
            luns: nexus.luns().clone(),
            nexus,
            responder,
            known,
            number,
            closed: Cell::new(false),
        }
    }

    /// The nexus.
    pub fn nexus(&self) -> &Arc<Nexus> {
        &self.nexus
    }

    /// Whether a command whose answer was lost may be [carried out again](field@crate::CommandSpec::repeatable). One that may not is to
    /// be answered as if a reset had ended it: its initiator then knows that it may have been carried out or not.
    pub fn may_repeat(&self, lun: Lun, cdb: &Cdb) -> bool {
        let inventory = self.luns.inventory();
        // What there is not does nothing, however often.
        inventory.resolve(lun).commands().find(cdb).map_or(true, |row| row.spec.repeatable)
    }

    /// Takes a command into the task set. It stays on this reactor, wherever its logical unit lives.
    pub fn admit(&self, command: &CommandFrame<'_>, cx: &mut dyn Cx) -> Admission {
        let itl = self.itl(command.lun, cx);
        self.engine.admit(&itl, command, cx)
    }

    /// Starts an admitted command. The bytes behind both lists stay mapped until the command has ended; the lists
    /// themselves may go. A command that was aborted meanwhile answers `Pending`: its end has been or will be reported.
    pub fn start(&self, task: TaskId, data_out: Sg<'_>, data_in: Sg<'_>, cx: &mut dyn Cx) -> Started {
        self.engine.start(task, data_out, data_in, cx)
    }

    /// Admits and starts a command whose data-out is there already; on another reactor if its logical unit
    /// [lives](LogicalUnit::live_on) there.
    #[inline]
    pub fn execute(
        &self,
        command: &CommandFrame<'_>,
        data_out: Sg<'_>,
        data_in: Sg<'_>,
        cx: &mut dyn Cx,
    ) -> Started {
        match self.place(command.lun, cx) {
            Place::Here(itl) => self.engine.execute(&itl, command, data_out, data_in, cx),
            Place::On(reactor) => self.engine.hop(reactor, self, command, data_out, data_in, cx),
        }
    }

    /// The same on this reactor in any case, like all commands that are [admitted](Self::admit).
    #[inline]
    pub fn execute_here(
        &self,
        command: &CommandFrame<'_>,
        data_out: Sg<'_>,
        data_in: Sg<'_>,
        cx: &mut dyn Cx,
    ) -> Started {
        let itl = self.itl(command.lun, cx);
        self.engine.execute(&itl, command, data_out, data_in, cx)
    }

    /// Gives up a command that was admitted but not started, because its data-out will not come. It is not answered.
    pub fn abandon(&self, task: TaskId, cx: &mut dyn Cx) {
        self.engine.abandon(task, cx);
    }

    /// Ends with BUSY what has not begun of all that this session's responder has sent, be it through this session or
    /// another of this reactor; [`Responder::command_ended`] follows for each. What has begun comes to its end. This is for a
    /// transport that has to come to rest: ORDERED commands and auto contingent allegiances of other initiators may hold back
    /// what has not begun for as long as they like. What only waits for room in the store, or for commands of its own
    /// nexus, is turned back as well.
    pub fn turn_back(&self, cx: &mut dyn Cx) {
        self.engine.turn_back(self, cx);
    }

    /// Carries out a task management function; [`Responder::management_ended`] follows, with `cookie`.
    pub fn manage(&self, management: &Management, cookie: u64, cx: &mut dyn Cx) {
        self.engine.manage(self, management, cookie, cx);
    }

    /// The nexus is lost: aborts its commands on all reactors. [`Responder::management_ended`] follows, with `cookie`,
    /// when nothing touches the initiator's memory any more. No command may be admitted from now on, in none of the
    /// nexus's sessions; what they have sent to other reactors and is still on its way is aborted when it arrives.
    pub fn close(&self, cookie: u64, cx: &mut dyn Cx) {
        self.closed.set(true);
        self.known.recent.take();
        self.engine.close(self, cookie, cx);
        self.known.itls.borrow_mut().clear();
    }

    pub(crate) fn responder(&self) -> &Weak<dyn Responder> {
        &self.responder
    }

    pub(crate) fn losses(&self) -> u64 {
        self.losses
    }

    /// Where commands for `lun` are executed.
    #[inline]
    fn place(&self, lun: Lun, cx: &mut dyn Cx) -> Place {
        debug_assert!(!self.closed.get());
        self.known.place(lun, &self.luns).unwrap_or_else(|| self.find(lun, cx))
    }

    #[cold]
    fn find(&self, lun: Lun, cx: &mut dyn Cx) -> Place {
        self.known.refresh(&self.luns);
        let reactor = self.luns.inventory().resolve(lun).home_of(self.engine.reactor);
        if reactor == self.engine.reactor {
            return Place::Here(self.itl(lun, cx));
        }
        self.nexus.works_on(reactor);
        self.known.recent.borrow_mut().put(lun, Place::On(reactor));
        Place::On(reactor)
    }

    /// The I_T_L nexus on this reactor.
    fn itl(&self, lun: Lun, cx: &mut dyn Cx) -> Rc<Itl> {
        match self.known.place(lun, &self.luns) {
            Some(Place::Here(itl)) => itl,
            _ => self.look_up(lun, cx),
        }
    }

    fn look_up(&self, lun: Lun, cx: &mut dyn Cx) -> Rc<Itl> {
        self.known.refresh(&self.luns);
        loop {
            let inventory = self.luns.inventory();
            let unit = inventory.resolve(lun);
            let known = self.known.itls.borrow().get(&unit.number()).cloned();
            // If it goes just now, something else is there, or nothing.
            let Some(itl) = known.filter(|itl| itl.is_current()).or_else(|| self.meet(unit, cx)) else {
                continue;
            };
            // The missing ones are many, and asked for once.
            if unit.home_of(self.engine.reactor) == self.engine.reactor && !unit.device().is_placeholder() {
                self.known.recent.borrow_mut().put(lun, Place::Here(itl.clone()));
            }
            return itl;
        }
    }

    /// `None` if the unit is not seen any more, or retired.
    fn meet(&self, unit: &Arc<LogicalUnit>, cx: &mut dyn Cx) -> Option<Rc<Itl>> {
        let shared = self.nexus.itl(unit)?;
        let itl = Rc::new(Itl {
            purse: Purse::default(),
            usage: shared.usage(unit, &self.nexus, self.engine.reactor),
            shared,
            nexus: self.nexus.clone(),
            set: self.engine.task_set(unit, cx)?,
            responder: self.responder.clone(),
            share: self.share.clone(),
            tasks: Cell::new(0),
            losses: self.losses,
        });
        self.known.itls.borrow_mut().insert(unit.number(), itl.clone());
        Some(itl)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.engine.sessions.borrow_mut().known.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_units_are_found_and_make_room_for_each_other() {
        let mut recent = Recent::default();
        let at = |recent: &Recent, index| match recent.get(Lun::from_index(index)) {
            Some(Place::On(reactor)) => Some(reactor.0),
            _ => None,
        };
        assert_eq!(at(&recent, 0), None);
        for index in 0..256 {
            recent.put(Lun::from_index(index), Place::On(ReactorId(index as u16)));
            assert!((0..=index).all(|index| at(&recent, index) == Some(index as u16)));
        }
        recent.put(Lun::from_index(256), Place::On(ReactorId(1000)));
        assert_eq!((at(&recent, 256), at(&recent, 0)), (Some(1000), None));
        assert_eq!(recent.0.len(), 256);
    }
}
