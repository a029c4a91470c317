//! Priorities of I_T_L nexuses: those of commands that name none (SPC-4 6.44, SAM-5 8.7).

use crate::reservation::{HandedRegistrant, Registrant};
use crate::unit::State;
use crate::{LogicalUnit, Nexus};
use lunette_scsi::{AdditionalSense, Sense};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// The initial command priority: between the highest, 1, and the lowest, 15.
pub(crate) const INITIAL_PRIORITY: u8 = 8;

/// How many nexuses can have another; beyond that, those that are not there lose theirs.
const LIMIT: usize = 1024;

/// The priorities that were set, under the names of ports, for they outlast nexuses.
#[derive(Default)]
pub(crate) struct Priorities(HashMap<Registrant, u8>);

/// The priority of a nexus for another process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct HandedPriority {
    nexus: HandedRegistrant,
    priority: u8,
}

impl Priorities {
    /// All of them for another process.
    pub(crate) fn hand_over(&self) -> Vec<HandedPriority> {
        let handed = |(nexus, priority): (&Registrant, &u8)| HandedPriority {
            nexus: nexus.into(),
            priority: *priority,
        };
        self.0.iter().map(handed).collect()
    }

    /// Those of another process.
    pub(crate) fn take_over(&mut self, from: Vec<HandedPriority>) {
        let of = |handed: HandedPriority| {
            let priority = Some(handed.priority).filter(|priority| (1..16).contains(priority))?;
            Some((handed.nexus.restore()?, priority))
        };
        self.0 = from.into_iter().filter_map(of).take(LIMIT).collect();
    }

    /// The priority of a nexus, if it is not the initial one.
    pub(crate) fn of(&self, nexus: &Registrant) -> Option<u8> {
        self.0.get(nexus).copied()
    }
}

impl State {
    /// Every nexus has the initial priority again.
    pub(crate) fn reset_priorities(&mut self) {
        self.priorities.0.clear();
        self.tell_priorities();
    }

    fn tell_priorities(&self) {
        for met in &self.nexuses {
            if let (Some(nexus), Some(itl)) = (met.nexus.upgrade(), met.itl.upgrade()) {
                itl.set_priority(self.priorities.of(nexus.registrant()));
            }
        }
    }
}

impl LogicalUnit {
    /// The nexuses that do not have the initial priority, and theirs.
    pub(crate) fn priorities(&self) -> Vec<(Registrant, u8)> {
        self.state().priorities.0.iter().map(|(nexus, priority)| (nexus.clone(), *priority)).collect()
    }

    /// The priority of a nexus, if it is not the initial one.
    pub(crate) fn priority_of(&self, nexus: &Registrant) -> Option<u8> {
        self.state().priorities.of(nexus)
    }

    /// Sets the priority of a nexus that need not be there, to the initial one if `priority` is 0.
    pub(crate) fn set_priority(&self, nexus: &Registrant, priority: u8) -> Result<(), Sense> {
        let there = self.nexuses();
        let mut state = self.state();
        let priorities = &mut state.priorities.0;
        if priorities.len() == LIMIT {
            let there: HashSet<_> = there.iter().map(|nexus| nexus.registrant()).collect();
            priorities.retain(|nexus, _| there.contains(nexus));
        }
        if [0, INITIAL_PRIORITY].contains(&priority) {
            priorities.remove(nexus);
        } else if priorities.len() == LIMIT && !priorities.contains_key(nexus) {
            return Err(Sense::illegal_request(AdditionalSense::INSUFFICIENT_RESOURCES));
        } else {
            priorities.insert(nexus.clone(), priority);
        }
        state.tell_priorities();
        Ok(())
    }

    /// Establishes the unit attention condition that its priority was changed for a nexus, if it is there.
    pub(crate) fn tell_of_priority(&self, whose: &Registrant) {
        let condition = AdditionalSense::PRIORITY_CHANGED;
        for (nexus, itl) in self.met().iter().filter(|(nexus, _)| nexus.registrant() == whose) {
            itl.establish(condition);
            nexus.tell(self, condition);
        }
    }

    /// Gives every nexus the initial priority, and tells all but the one that has asked for it.
    pub(crate) fn set_initial_priorities(&self, by: &Nexus) {
        self.state().reset_priorities();
        self.establish_attention(AdditionalSense::PRIORITY_CHANGED, Some(by));
    }
}
