//! What an operator changes: which commands go by it, and what they may see of it.

use crate::tests::simulation::disk::BLOCKS;
use crate::tests::simulation::world::{Command, Kind, Time, Wish, World};
use lunette_scsi::AdditionalSense;

pub(super) fn check(world: &World) {
    for command in &world.commands {
        check_size(world, command);
        check_protection(world, command);
    }
    assert!(world.changes.iter().all(|change| change.done.is_some()), "a change is never done");
}

/// What may have been in force at some time of a command's life: of changes that are made one after the other, each is from
/// when it is asked for, at the earliest, until the next one is done.
fn in_force<T: Copy>(
    world: &World,
    command: &Command,
    first: T,
    wished: impl Fn(Wish) -> Option<T>,
) -> Vec<T> {
    let changes = world.changes.iter().filter_map(|change| Some((wished(change.wish)?, change)));
    let mut values: Vec<(T, Time, Time)> = vec![(first, 0, Time::MAX)];
    for (value, change) in changes {
        let done = change.done.as_ref().map_or(Time::MAX, |(time, _)| *time);
        if let Some(last) = values.last_mut() {
            last.2 = done;
        }
        values.push((value, change.asked, Time::MAX));
    }
    let overlaps = |(_, from, to): &&(T, Time, Time)| *from <= command.end() && command.arrived <= *to;
    values.iter().filter(overlaps).map(|(value, ..)| *value).collect()
}

fn check_size(world: &World, command: &Command) {
    let Some(end) = blocks(command).map(|(first, count)| first + count) else { return };
    let sizes = in_force(world, command, BLOCKS, |wish| match wish {
        Wish::Resize(blocks) => Some(blocks),
        _ => None,
    });
    let refused = command.attention() == Some(AdditionalSense::LBA_OUT_OF_RANGE);
    assert!(!refused || sizes.iter().any(|size| end > *size), "{:?} is inside of {sizes:?}", command.kind);
    assert!(!command.is_good() || sizes.iter().any(|size| end <= *size), "{:?} of {sizes:?}", command.kind);
}

fn check_protection(world: &World, command: &Command) {
    let protections = in_force(world, command, false, |wish| match wish {
        Wish::ReadOnly(on) => Some(on),
        _ => None,
    });
    let refused = command.attention() == Some(AdditionalSense::WRITE_PROTECTED);
    assert!(!refused || protections.contains(&true), "{:?} was refused", command.kind);
    let is_write = (0..BLOCKS).any(|block| command.write(block).is_some());
    assert!(!(is_write && command.is_good()) || protections.contains(&false), "{:?} is done", command.kind);
}

/// The first block that a command is about, and how many.
fn blocks(command: &Command) -> Option<(usize, usize)> {
    match command.kind {
        Kind::Read { first, count, .. } | Kind::Write { first, count, .. } => Some((first, count)),
        Kind::CompareAndWrite { block, .. } | Kind::WriteAtomic { block, .. } => Some((block, 1)),
        _ => None,
    }
}
