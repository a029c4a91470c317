//! Task attributes: who waits for whom.

use crate::tests::simulation::world::{Command, Time, World};
use lunette_scsi::TaskAttribute;

/// The earliest time at which a command may have had an effect: its arrival, or the end of what is before it in the order
/// of the task set (SAM-5 8.6).
pub(super) fn start(world: &World, command: &Command) -> Time {
    let before = world.commands.iter().filter(|other| command.is_good() && precedes(world, other, command));
    before.map(Command::end).max().unwrap_or(0).max(command.arrived)
}

/// Whether `first` has to have ended before `second` is processed.
fn precedes(world: &World, first: &Command, second: &Command) -> bool {
    use TaskAttribute::{Aca, HeadOfQueue, Ordered};
    if first.arrived >= second.arrived {
        return false;
    }
    // What is refused takes no part in the order, but may see to others before it ends.
    let sees_to_others = first.naca || first.is_of_allegiance() || world.settings.on_error != 0;
    if sees_to_others && first.may_have_failed() && first.begun.is_none() {
        return false;
    }
    match (first.attribute, second.attribute) {
        (_, HeadOfQueue | Aca) => false,
        (_, Ordered) => true,
        (Ordered | HeadOfQueue, _) => true,
        _ => false,
    }
}

pub(super) fn check(world: &World) {
    for second in &world.commands {
        let Some(begun) = second.begun else { continue };
        for first in world.commands.iter().filter(|first| precedes(world, first, second)) {
            assert!(
                first.end() < begun,
                "{:?} {:?} was begun before the end of {:?} {:?}",
                second.attribute,
                second.kind,
                first.attribute,
                first.kind
            );
        }
    }
}
