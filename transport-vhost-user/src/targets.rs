//! The targets of an export. Each is a SCSI target port of its own, with which the driver has an I_T nexus.

use crate::events::Events;
use crate::wire::Address;
use lunette_engine::{Nexus, Responder, Session, TargetPort};
use lunette_store::Cx;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::rc::Weak;
use std::sync::Arc;

/// The I_T nexuses of an export, by target number. They belong to the export and not to a connection: a front end that
/// connects again is the same initiator port.
pub(crate) struct Targets(BTreeMap<u8, Arc<Nexus>>);

impl Targets {
    /// The nexuses between `initiator` and `ports`, whose unit attentions become `events`.
    pub(crate) fn new(initiator: &str, ports: BTreeMap<u8, Arc<TargetPort>>, events: &Arc<Events>) -> Self {
        let nexus = |(target, port)| (target, Nexus::observed(initiator, port, events.observer(target)));
        Self(ports.into_iter().map(nexus).collect())
    }

    /// The longest transfer that all logical units take, as far as there is a limit.
    pub(crate) fn max_transfer(&self) -> Option<u64> {
        let limit = |nexus: &Arc<Nexus>| {
            let inventory = nexus.inventory();
            inventory.units().values().filter_map(|unit| unit.device().max_transfer()).min()
        };
        self.0.values().filter_map(limit).min()
    }

    /// One target with the number 0.
    pub(crate) fn one(nexus: Arc<Nexus>) -> Self {
        Self([(0, nexus)].into())
    }
}

/// The targets as one queue or connection uses them. A session is opened when its target is addressed first, so that
/// hundreds of queues to hundreds of targets cost nothing before.
pub(crate) struct Sessions {
    targets: Arc<Targets>,
    responder: Weak<dyn Responder>,
    /// By target number, up to the highest.
    opened: Box<[OnceCell<Box<Session>>]>,
}

impl Sessions {
    pub(crate) fn new(targets: &Arc<Targets>, responder: Weak<dyn Responder>) -> Self {
        let count = targets.0.keys().last().map_or(0, |last| usize::from(*last) + 1);
        let opened = (0..count).map(|_| OnceCell::new()).collect();
        Self { targets: targets.clone(), responder, opened }
    }

    /// The session for a request to `address`, if there is such a target.
    #[inline]
    pub(crate) fn reach(&self, address: Address, cx: &mut dyn Cx) -> Option<&Session> {
        let target = match address.target {
            Some(target) => target,
            None => *self.targets.0.keys().next()?,
        };
        let cell = self.opened.get(usize::from(target))?;
        match cell.get() {
            Some(session) => Some(session),
            None => self.open(target, cell, cx),
        }
    }

    /// The sessions for all targets.
    pub(crate) fn all(&self, cx: &mut dyn Cx) -> Vec<&Session> {
        let targets = self.targets.0.keys();
        targets.filter_map(|target| self.open(*target, self.opened.get(usize::from(*target))?, cx)).collect()
    }

    /// Has what was sent through them and has not begun come back.
    pub(crate) fn turn_back(&self, cx: &mut dyn Cx) {
        // Whichever it is: they have one responder.
        if let Some(session) = self.opened.iter().find_map(|cell| cell.get()) {
            session.turn_back(cx);
        }
    }

    #[cold]
    fn open<'a>(&self, target: u8, cell: &'a OnceCell<Box<Session>>, cx: &mut dyn Cx) -> Option<&'a Session> {
        let nexus = self.targets.0.get(&target)?;
        let open = || Box::new(Session::open(nexus.clone(), self.responder.clone(), cx));
        Some(cell.get_or_init(open))
    }
}
