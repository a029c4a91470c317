//! The reservations of a logical unit in force: their verdicts in the gates of its nexuses, and the reservation of RESERVE
//! (SPC-2 5.5), which excludes the persistent ones.

use super::{Change, Registrant, Reservations};
use crate::checks::Refusal;
use crate::nexus::Exclusion;
use crate::unit::State;
use crate::{LogicalUnit, Nexus, NexusId, Run};
use lunette_scsi::TransportId;

impl LogicalUnit {
    /// The persistent reservations.
    pub(crate) fn reservations(&self) -> Reservations {
        self.state().reservations.clone()
    }

    /// Puts a change of the persistent reservations in force, and tells those whom it concerns.
    pub(crate) fn change_reservations(&self, change: Change) {
        let mut state = self.state();
        state.reservations = change.after;
        state.judge_all();
        let mut told = Vec::new();
        for met in &state.nexuses {
            let (Some(nexus), Some(itl)) = (met.nexus.upgrade(), met.itl.upgrade()) else { continue };
            let concerns = change.attentions.iter().filter(|(whom, _)| whom == nexus.registrant());
            for (_, condition) in concerns {
                itl.establish(*condition);
                told.push((nexus.clone(), *condition));
            }
        }
        drop(state);
        told.iter().for_each(|(nexus, condition)| nexus.tell(self, *condition));
    }

    /// The nexuses that there are now of these.
    pub(crate) fn nexuses_of(&self, registrants: &[Registrant]) -> Vec<NexusId> {
        let nexuses = self.nexuses();
        let named = nexuses.iter().filter(|nexus| registrants.contains(nexus.registrant()));
        named.map(|nexus| nexus.id()).collect()
    }

    /// The initiator ports that have a nexus with this unit and belong to the iSCSI initiator `name`.
    pub(crate) fn ports_of_initiator(&self, name: &str) -> Vec<TransportId> {
        let nexuses = self.nexuses();
        let ids = nexuses.iter().map(|nexus| &nexus.registrant().initiator);
        let of = |id: &&TransportId| matches!(id, TransportId::Iscsi { name: its, .. } if its == name);
        ids.filter(of).cloned().collect()
    }

    /// Whether RESERVE is in force.
    pub(crate) fn is_reserved(&self) -> bool {
        self.state().reserved_by.is_some()
    }

    /// RESERVE (SPC-2 7.20), where persistent reservations let it (SPC-4 5.12.3).
    pub(crate) fn reserve(&self, run: &Run) -> Result<(), Refusal> {
        let nexus = &run.nexus;
        let mut state = self.state();
        // Not before the lock: what is reserved before the nexus is lost is released then.
        if run.nexus_is_lost() || state.is_compatible_with(nexus)? {
            return Ok(());
        }
        if state.reserved_by.is_some_and(|holder| holder != nexus.id()) {
            return Err(Refusal::Conflict);
        }
        state.reserved_by = Some(nexus.id());
        state.judge_all();
        Ok(())
    }

    /// RELEASE (SPC-2 7.17): does nothing if another nexus has reserved the unit.
    pub(crate) fn release(&self, run: &Run) -> Result<(), Refusal> {
        let nexus = &run.nexus;
        let mut state = self.state();
        if !state.is_compatible_with(nexus)? {
            state.release(|holder| holder == nexus.id());
        }
        Ok(())
    }
}

impl State {
    /// What the reservations of others keep a nexus from.
    pub(crate) fn judge(&self, nexus: &Nexus) -> Exclusion {
        match self.reserved_by {
            Some(holder) => Exclusion { from_all: holder != nexus.id(), ..Exclusion::default() },
            None => self.reservations.exclusion(nexus.registrant()),
        }
    }

    pub(crate) fn judge_all(&self) {
        for met in &self.nexuses {
            if let (Some(nexus), Some(itl)) = (met.nexus.upgrade(), met.itl.upgrade()) {
                itl.exclude(self.judge(&nexus));
            }
        }
    }

    /// Ends a RESERVE.
    pub(crate) fn release(&mut self, whose: impl FnOnce(NexusId) -> bool) {
        if self.reserved_by.is_some_and(whose) {
            self.reserved_by = None;
            self.judge_all();
        }
    }

    /// RESERVE and RELEASE conflict with registrations (SPC-2 5.5.1), but those whom the persistent reservation lets in
    /// are answered as if they had succeeded.
    fn is_compatible_with(&self, nexus: &Nexus) -> Result<bool, Refusal> {
        if self.reservations.lets_in(nexus.registrant()) {
            return Ok(true);
        }
        let registered = !self.reservations.registrations().is_empty();
        if registered { Err(Refusal::Conflict) } else { Ok(false) }
    }
}
