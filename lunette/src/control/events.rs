//! What the daemon tells of what happens in it.

use lunette_control::EventKind;

/// The daemon has been told to end.
pub(crate) const STOPPING: EventKind =
    EventKind { name: "daemon.stopping", summary: "The daemon is about to end. Details: `why`." };

/// All kinds but those of every daemon.
pub(crate) const KINDS: &[EventKind] = &[STOPPING];
