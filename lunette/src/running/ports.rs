//! Target ports and their relative identifiers.

use anyhow::{Context, Result};
use lunette_engine::TargetPort;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The relative target port identifiers that are taken (SPC-4 7.8.6.7). What takes one gives it back when it is dropped.
#[derive(Clone, Default)]
pub(super) struct PortIds(Arc<Mutex<BTreeSet<u16>>>);

/// A relative target port identifier.
pub(super) struct PortId {
    ids: PortIds,
    id: u16,
}

/// A target port with its identifier.
pub(super) struct Port {
    pub(super) port: Arc<TargetPort>,
    _id: PortId,
}

impl PortIds {
    /// The lowest one from `first` on that is free.
    pub(super) fn take(&self, first: u16) -> Result<PortId> {
        let mut taken = self.taken();
        let mut next = first;
        // They are in order, so the first gap is the lowest.
        for &id in taken.range(first..) {
            if id != next {
                break;
            }
            next = id.checked_add(1).context("there are too many target ports")?;
        }
        taken.insert(next);
        drop(taken);
        Ok(PortId { ids: self.clone(), id: next })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PortId {
    /// Makes the port that has this identifier.
    pub(super) fn port(self, make: impl FnOnce(u16) -> Arc<TargetPort>) -> Port {
        Port { port: make(self.id), _id: self }
    }
}

impl Drop for PortId {
    fn drop(&mut self) {
        self.ids.taken().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_identifier_is_next() {
        let ids = PortIds::default();
        let take = |first| ids.take(first).unwrap();
        let (two, three, one) = (take(2), take(2), take(1));
        assert_eq!([one.id, two.id, three.id], [1, 2, 3]);
        drop(two);
        assert_eq!((take(1).id, take(3).id), (2, 4), "what is given back is taken again");
        let last = take(u16::MAX);
        assert_eq!(last.id, u16::MAX);
        assert!(ids.take(u16::MAX).is_err());
    }
}
