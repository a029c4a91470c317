//! The room that is left for a thin disk, looked at when somebody wants to know.

use crate::Disk;
use crate::pages::{in_sets, threshold};
use lunette_engine::{LogicalUnit, PageControl, StoreLook};
use lunette_scsi::AdditionalSense;
use lunette_store::{Post, Room};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often it is looked at while somebody is to be told of the threshold; it is not looked at otherwise, for each look may
/// take a thread.
const INTERVAL: Duration = Duration::from_secs(10);

/// What was seen last.
#[derive(Clone, Default, Debug)]
pub(crate) struct KnownRoom(Arc<Known>);

#[derive(Default, Debug)]
struct Known {
    room: Mutex<Option<Room>>,
    is_watched: AtomicBool,
}

impl KnownRoom {
    /// What was seen last; `None` before the first look.
    pub(crate) fn get(&self) -> Option<Room> {
        *self.0.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks.
    pub(crate) fn look(&self) -> StoreLook {
        let known = self.0.clone();
        Box::new(move |backing| {
            *known.room.lock().unwrap_or_else(PoisonError::into_inner) = backing.room().ok();
            Ok(0)
        })
    }
}

/// Whether somebody is to be told of the threshold, now or after a reset.
fn is_wanted(unit: &LogicalUnit) -> bool {
    let is_enabled = |control| threshold(unit, control).is_some_and(|page| page.enabled);
    is_enabled(PageControl::Current) || is_enabled(PageControl::Saved)
}

/// Looks at the room for as long as that is wanted, and tells all initiators each time that the threshold is reached. To be
/// called when it may be wanted from now on.
pub(crate) fn watch(disk: &Disk, unit: &Arc<LogicalUnit>, post: &dyn Post) {
    let Some(backing) = unit.backing().filter(|_| is_wanted(unit)).cloned() else { return };
    if disk.room.0.is_watched.swap(true, Ordering::SeqCst) {
        return;
    }
    let (known, block) = (disk.room.clone(), disk.geometry().block());
    unit.begin(post, async move |steps| {
        let mut was_reached = false;
        loop {
            let look = known.look();
            // Nothing aborts this but the end of the unit or its reactor.
            if steps.call_on(&backing, look).await.is_err() {
                return Ok(());
            }
            let page = threshold(&steps.unit, PageControl::Current).filter(|page| page.enabled);
            let reached =
                page.zip(known.get()).is_some_and(|(page, room)| in_sets(room.free, block) <= page.count);
            if reached && !was_reached {
                let condition = AdditionalSense::THIN_PROVISIONING_SOFT_THRESHOLD_REACHED;
                steps.unit.establish_attention(condition, None);
            }
            was_reached = reached;
            if steps.sleep(INTERVAL).await.is_err() {
                return Ok(());
            }
            // Who wants it from now on either is seen here or finds that nobody watches.
            if !is_wanted(&steps.unit) {
                known.0.is_watched.store(false, Ordering::SeqCst);
                if !is_wanted(&steps.unit) || known.0.is_watched.swap(true, Ordering::SeqCst) {
                    return Ok(());
                }
            }
        }
    });
}
