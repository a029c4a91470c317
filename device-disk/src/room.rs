//! The room that is left for a thin disk, looked at from time to time.

use crate::Disk;
use crate::pages::{in_sets, threshold};
use lunette_engine::LogicalUnit;
use lunette_scsi::AdditionalSense;
use lunette_store::{Post, Room};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often it is looked at while somebody is to be told of the threshold.
const OFTEN: Duration = Duration::from_secs(10);
/// How often otherwise, for the log page. Not so often that a thread for each of many idle files never ends.
const SELDOM: Duration = Duration::from_secs(60);

/// What was seen last.
#[derive(Clone, Default, Debug)]
pub(crate) struct KnownRoom(Arc<Mutex<Option<Room>>>);

impl KnownRoom {
    /// What was seen last; `None` before the first look.
    pub(crate) fn get(&self) -> Option<Room> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, room: Option<Room>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = room;
    }
}

/// Looks at the room for as long as the unit is served, and tells all initiators each time that the threshold is reached.
pub(crate) fn watch(disk: &Disk, unit: &Arc<LogicalUnit>, post: &dyn Post) {
    let Some(backing) = unit.backing().filter(|_| threshold(unit).is_some()).cloned() else { return };
    let (known, block) = (disk.room.clone(), disk.geometry().block());
    unit.begin(post, async move |steps| {
        let mut was_reached = false;
        loop {
            let seen = known.clone();
            let look = steps.call_on(&backing, move |backing| {
                seen.set(backing.room().ok());
                Ok(0)
            });
            // Nothing aborts this but the end of the reactor.
            if look.await.is_err() {
                return Ok(());
            }
            let page = threshold(&steps.unit).filter(|page| page.enabled);
            let interval = if page.is_some() { OFTEN } else { SELDOM };
            let reached =
                page.zip(known.get()).is_some_and(|(page, room)| in_sets(room.free, block) <= page.count);
            if reached && !was_reached {
                let condition = AdditionalSense::THIN_PROVISIONING_SOFT_THRESHOLD_REACHED;
                steps.unit.establish_attention(condition, None);
            }
            was_reached = reached;
            if steps.sleep(interval).await.is_err() {
                return Ok(());
            }
        }
    });
}
