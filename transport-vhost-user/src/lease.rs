//! Who may serve the units of an export while its virtual machine moves to another process.
//!
//! Two processes may be able to serve the same units, and only one of them does at a time. The units go where the rings of the
//! virtual machine run: they are given up when the last one has stopped here, and taken when the first one starts, here
//! again or elsewhere.

use crate::device_state::DeviceState;
use std::collections::BTreeMap;

/// What is called when units have been taken: with what is known of the virtual machine from where it was before, if that came
/// with the units; or why they cannot be had. On whatever thread; it does not wait.
pub type Taken = Box<dyn FnOnce(Result<Option<DeviceState>, String>) + Send>;

/// What is called when units have been given up, or why they could not be. On whatever thread; it does not wait.
pub type Given = Box<dyn FnOnce(Result<(), String>) + Send>;

/// What an export asks about its units. All calls come from reactors and must not wait; what takes its time is done elsewhere and
/// told through `done`, exactly once and before long. One call at a time is under way for an export, but for
/// [`check`](Self::check) and [`terms`](Self::terms).
pub trait Lease: Send + Sync {
    /// Whether the virtual machine could leave: asked before dirty logging is switched on, and before its state is asked for.
    ///
    /// A front end that does not bear to be refused is not, and may go on to [`give`](Self::give), which has to refuse then.
    ///
    /// # Errors
    /// Why not, for the log: a unit is in use by others, say.
    fn check(&self) -> Result<(), String>;

    /// How often each unit that is here, of those that go where the virtual machine goes, has been taken by now, by its world-wide
    /// name. What was saved in one term counts in the next one only.
    fn terms(&self) -> BTreeMap<String, u64>;

    /// The first request ring of a virtual machine is about to start here, and all rings wait for `done`. Asked again after a while if the units
    /// cannot be had. Units that are here already are taken at once. `goes_on`: its rings have run before, here or elsewhere.
    fn take(&self, goes_on: bool, done: Taken);

    /// The last ring has stopped, nothing is in flight, and the virtual machine may go on elsewhere: its memory was being logged, its
    /// state was asked for, or its front end has gone. The front end is told that the ring has stopped after `done`, whatever has become of it. `state` is
    /// for the next [`take`](Self::take), wherever it comes from.
    fn give(&self, state: DeviceState, done: Given);
}
