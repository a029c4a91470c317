//! Bringing units to virtual machines that run: what changes add to their exports.

use super::take::Moment;
use super::{ExportLease, Phase};
use crate::reasons;
use crate::running::{Now, Running};
use anyhow::{Error, Result};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

/// How long a change waits for what it brings to running virtual machines.
const LATE: Duration = Duration::from_secs(5);

/// While it lives, it is known that somebody brings what an export misses. Nobody else does so meanwhile: a store that hangs has one
/// thread, however often something is changed.
pub(super) struct Coming(Arc<ExportLease>);

impl Coming {
    /// Nothing if somebody does so already.
    pub(super) fn begin(lease: &ExportLease) -> Option<Self> {
        let lease = lease.this.upgrade()?;
        let was_coming = lease.is_coming.swap(true, Ordering::AcqRel);
        (!was_coming).then(|| Self(lease))
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        // Who looks for what is missing after this sees what was added by whoever has left it to this one.
        self.0.is_coming.swap(false, Ordering::AcqRel);
    }
}

impl ExportLease {
    /// Whether it is to be told why a unit does not come while the virtual machine runs: once, until there is another reason.
    pub(super) fn is_news(&self, why: &Error) -> bool {
        let why = Some(reasons(why)).filter(|_| self.phase() == Phase::Here);
        let former = std::mem::replace(&mut *self.why_late(), why.clone());
        why.is_some() && why != former
    }

    /// Its units are there.
    pub(super) fn forget_news(&self) {
        *self.why_late() = None;
    }

    fn why_late(&self) -> MutexGuard<'_, Option<String>> {
        self.why_late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Takes what running virtual machines miss, and waits a moment for that. What does not come soon comes later.
    pub(super) fn bring_late(&self) {
        let (coming, come) = mpsc::channel::<()>();
        self.begin_all_late(|| coming.clone());
        drop(coming);
        // Until nobody has the other end.
        let _ = come.recv_timeout(LATE);
    }

    /// Begins to take what running virtual machines miss. One that takes its time holds up no other.
    fn begin_all_late<T: Send + 'static>(&self, until: impl Fn() -> T) {
        let leases = self.now().incomplete();
        leases.iter().for_each(|lease| self.begin_late(lease, until()));
    }

    /// Begins to take what an export misses, unless somebody does so already. `until` is dropped when that has ended.
    pub(super) fn begin_late(&self, lease: &ExportLease, until: impl Send + 'static) {
        let Some(coming) = Coming::begin(lease) else { return };
        self.begin(move |running| {
            running.bring(coming);
            drop(until);
        });
    }

    /// Takes what an export misses, and what is added to it meanwhile. What cannot be had is asked for again after a while.
    pub(super) fn bring(&self, mut coming: Coming) {
        loop {
            let lease = coming.0.clone();
            let taken = self.take_late(&lease);
            drop(coming);
            if let Err(error) = taken {
                if lease.is_news(&error) {
                    tracing::warn!("a running virtual machine does not see all of its units yet: {error:#}");
                }
                return self.later(|leases| &leases.is_late, |running| running.begin_all_late(|| ()));
            }
            lease.forget_news();
            let is_incomplete = self.now().incomplete().iter().any(|other| Arc::ptr_eq(other, &lease));
            match is_incomplete.then(|| Coming::begin(&lease)).flatten() {
                Some(more) => coming = more,
                None => return,
            }
        }
    }

    /// Takes what an export misses while its virtual machine runs, which notices that units come.
    fn take_late(&self, lease: &ExportLease) -> Result<()> {
        let missing: Vec<_> = self.now().missing(lease).collect();
        let mut all = Ok(());
        for name in missing {
            // One that does not come keeps neither others away nor those here from leaving.
            let names = BTreeSet::from([name]);
            let is_here = || lease.phase() == Phase::Here;
            let Some(turn) = self.leases.turns.wait(&names, is_here) else { return Ok(()) };
            let is_missing = self.now().missing(lease).any(|name| names.contains(&name));
            let taken = match is_missing {
                true => self.take_missing(lease, &names, Moment::Late),
                false => Ok(None),
            };
            drop(turn);
            self.leave_unseen(&names);
            all = all.and(taken.map(drop));
        }
        all
    }
}

impl Now {
    /// Those of virtual machines that run and miss a unit.
    fn incomplete(&self) -> Vec<Arc<ExportLease>> {
        let exports = self.exports.values().chain(&self.adopted_exports);
        let leases = exports.filter(|export| export.is_running()).map(|export| &export.lease);
        let is_incomplete =
            |lease: &&Arc<ExportLease>| lease.phase() == Phase::Here && self.missing(lease).next().is_some();
        leases.filter(is_incomplete).cloned().collect()
    }
}
