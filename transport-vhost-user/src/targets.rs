//! The targets of an export. Each is a SCSI target port of its own, with which the driver has an I_T nexus.
//!
//! They come and go while the driver uses others. One that goes is first taken from the queues, one reactor after the other,
//! so that no more commands come; then its nexus is lost.

use crate::events::Events;
use crate::local::{Local, post};
use crate::place::Place;
use crate::wire::Address;
use lunette_engine::{Completion, Nexus, NexusState, Responder, Session, StateError, TargetPort};
use lunette_scsi::{Lun, ServiceResponse};
use lunette_store::{Cx, ReactorId};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The I_T nexuses of an export, by target number. They belong to the export and not to a connection: a front end that
/// connects again is the same initiator port.
pub(crate) struct Targets {
    initiator: String,
    events: Arc<Events>,
    nexuses: Mutex<BTreeMap<u8, Arc<Nexus>>>,
}

impl Targets {
    /// The nexuses between `initiator` and `ports`, whose unit attentions become `events`.
    pub(crate) fn new(initiator: &str, ports: BTreeMap<u8, Arc<TargetPort>>, events: &Arc<Events>) -> Self {
        let nexus = |(target, port)| (target, Nexus::observed(initiator, port, events.observer(target)));
        Self {
            initiator: initiator.to_owned(),
            events: events.clone(),
            nexuses: Mutex::new(ports.into_iter().map(nexus).collect()),
        }
    }

    /// The longest transfer that all logical units take, as far as there is a limit.
    pub(crate) fn max_transfer(&self) -> Option<u64> {
        let limit = |nexus: &Arc<Nexus>| {
            let inventory = nexus.inventory();
            inventory.units().values().filter_map(|unit| unit.device().max_transfer()).min()
        };
        self.nexuses().values().filter_map(limit).min()
    }

    /// The states of the nexuses for another process.
    pub(crate) fn hand_over(&self) -> BTreeMap<u8, NexusState> {
        self.nexuses().iter().map(|(target, nexus)| (*target, nexus.hand_over())).collect()
    }

    /// Whether any logical unit is here that the driver saw where these states come from, if it saw any.
    pub(crate) fn recognise(&self, from: &BTreeMap<u8, NexusState>) -> bool {
        let saw_none = from.values().all(|state| state.units().next().is_none());
        let inventories: Vec<_> = self.nexuses().values().map(|nexus| nexus.inventory()).collect();
        let mut here = inventories.iter().flat_map(|inventory| inventory.units().values());
        saw_none
            || here.any(|unit| {
                from.values().flat_map(NexusState::units).any(|name| unit.identity.naa.to_string() == name)
            })
    }

    /// Goes on from there; why a target's part is of no use.
    pub(crate) fn take_over(&self, from: &BTreeMap<u8, NexusState>) -> Result<(), StateError> {
        let nexuses = self.nexuses();
        let mut result = Ok(());
        for (target, state) in from {
            let Some(nexus) = nexuses.get(target) else { continue };
            result = result.and(nexus.take_over(state));
        }
        result
    }

    /// One target with the number 0.
    pub(crate) fn one(nexus: Arc<Nexus>, events: &Arc<Events>) -> Self {
        let nexuses = Mutex::new([(0, nexus)].into());
        Self { initiator: String::new(), events: events.clone(), nexuses }
    }

    /// Adds a target and has the driver look at it. Returns whether the number was free.
    pub(crate) fn add(&self, target: u8, port: Arc<TargetPort>) -> bool {
        let mut nexuses = self.nexuses();
        if nexuses.contains_key(&target) {
            return false;
        }
        nexuses.insert(target, Nexus::observed(&self.initiator, port, self.events.observer(target)));
        drop(nexuses);
        self.events.target_came(target);
        true
    }

    /// Takes a target away: no queue finds it that has not found it yet.
    pub(crate) fn remove(&self, target: u8) -> Option<Arc<Nexus>> {
        let nexus = self.nexuses().remove(&target)?;
        let luns: Vec<_> = nexus.inventory().units().keys().copied().collect();
        self.events.target_went(target, luns);
        Some(nexus)
    }

    fn nexuses(&self) -> MutexGuard<'_, BTreeMap<u8, Arc<Nexus>>> {
        self.nexuses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The targets as one queue or connection uses them. A session is opened when its target is addressed first, so that
/// hundreds of queues to hundreds of targets cost nothing before.
pub(crate) struct Sessions {
    targets: Arc<Targets>,
    responder: Weak<dyn Responder>,
    /// By target number, up to the highest that was addressed.
    opened: Vec<Option<Box<Session>>>,
}

impl Sessions {
    pub(crate) fn new(targets: &Arc<Targets>, responder: Weak<dyn Responder>) -> Self {
        Self { targets: targets.clone(), responder, opened: Vec::new() }
    }

    /// The session for a request to `address`, if there is such a target.
    #[inline]
    pub(crate) fn reach(&mut self, address: Address, cx: &mut dyn Cx) -> Option<&Session> {
        let target = match address.target {
            Some(target) => target,
            None => self.first()?,
        };
        let at = usize::from(target);
        if self.opened.get(at).is_none_or(Option::is_none) {
            self.open(target, cx)?;
        }
        self.opened.get(at)?.as_deref()
    }

    /// Any target speaks for the device.
    #[cold]
    fn first(&self) -> Option<u8> {
        self.targets.nexuses().keys().next().copied()
    }

    /// Does something with the session for each target. Returns how many there are.
    pub(crate) fn for_all(&mut self, cx: &mut dyn Cx, act: impl Fn(&Session, &mut dyn Cx)) -> usize {
        let targets: Vec<_> = self.targets.nexuses().keys().copied().collect();
        let mut found = |target: Option<u8>| {
            let session = self.reach(Address { target, lun: Lun::default() }, cx);
            session.map(|session| act(session, cx)).is_some()
        };
        targets.into_iter().filter(|target| found(Some(*target))).count()
    }

    /// Has what was sent through them and has not begun come back.
    pub(crate) fn turn_back(&self, cx: &mut dyn Cx) {
        // Whichever it is: they have one responder.
        if let Some(session) = self.opened.iter().flatten().next() {
            session.turn_back(cx);
        }
    }

    /// Opens the session for a target, if there is one.
    #[cold]
    fn open(&mut self, target: u8, cx: &mut dyn Cx) -> Option<()> {
        let (nexus, at) = (self.targets.nexuses().get(&target)?.clone(), usize::from(target));
        if self.opened.len() <= at {
            self.opened.resize_with(at + 1, || None);
        }
        self.opened[at] = Some(Box::new(Session::open(nexus, self.responder.clone(), cx)));
        Some(())
    }

    /// No more is sent to a target that is being removed.
    pub(crate) fn forget(&mut self, target: u8, nexus: &Nexus) {
        if let Some(opened) = self.opened.get_mut(usize::from(target)) {
            // The number may be another's already.
            opened.take_if(|session| session.nexus().id() == nexus.id());
        }
    }
}

/// A target that is being removed, on its way through the reactors of its export.
pub(crate) struct Removal {
    pub(crate) place: Arc<Place>,
    pub(crate) target: u8,
    pub(crate) nexus: Arc<Nexus>,
    /// Where it still goes.
    pub(crate) left: Vec<ReactorId>,
    pub(crate) done: Box<dyn FnOnce() + Send>,
}

impl Removal {
    /// Goes to the next reactor; at the end, the nexus is lost.
    pub(crate) fn go_on(mut self, cx: &mut dyn Cx) {
        match self.left.pop() {
            Some(next) => post(next, cx, move |local, cx| {
                self.forget(local);
                self.go_on(cx);
            }),
            None => Loss::begin(self.nexus, self.done, cx),
        }
    }

    fn forget(&self, local: &Local) {
        let Self { place, target, nexus, .. } = self;
        let queues = local.queues.borrow();
        let queues = queues.values().filter(|queue| Arc::ptr_eq(&queue.place, place));
        queues.for_each(|queue| queue.state().sessions.forget(*target, nexus));
        let connections = local.connections.borrow();
        connections.values().for_each(|connection| connection.forget(place, *target, nexus));
    }
}

/// The loss of a removed target's nexus.
struct Loss {
    done: RefCell<Option<Box<dyn FnOnce() + Send>>>,
    /// Until it is over.
    session: RefCell<Option<(Session, Rc<Self>)>>,
}

impl Loss {
    fn begin(nexus: Arc<Nexus>, done: Box<dyn FnOnce() + Send>, cx: &mut dyn Cx) {
        let loss = Rc::new(Self { done: RefCell::new(Some(done)), session: RefCell::default() });
        let responder: Rc<dyn Responder> = loss.clone();
        let session = Session::open(nexus, Rc::downgrade(&responder), cx);
        session.close(0, cx);
        *loss.session.borrow_mut() = Some((session, loss.clone()));
    }
}

impl Responder for Loss {
    fn command_ended(&self, _: u64, _: Completion, _: &mut dyn Cx) {}

    fn management_ended(&self, _: u64, _: ServiceResponse, _: &mut dyn Cx) {
        let session = self.session.take();
        drop(session);
        if let Some(done) = self.done.take() {
            done();
        }
    }
}
