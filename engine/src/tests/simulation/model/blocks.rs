//! What is read is what was written (SAM-5 8: some order of the commands explains it).

use super::order::start;
use crate::tests::simulation::disk::BLOCKS;
use crate::tests::simulation::world::{Kind, Time, World};
use std::collections::BTreeMap;

pub(super) fn check(world: &World) {
    (0..BLOCKS).for_each(|block| check_block(world, block));
}

/// The write of a value, and its reads: they follow each other without another write of the same block between them.
struct Cluster {
    first_end: Time,
    last_start: Time,
}

/// Whether some serial order of the commands explains what was read from `block`. As no value is written twice, one exists
/// if and only if no two clusters have to be inside each other (Gibbons and Korach).
fn check_block(world: &World, block: usize) {
    let mut clusters = BTreeMap::<u64, Cluster>::new();
    let initial = Cluster { first_end: 0, last_start: 0 };
    clusters.insert(block as u64 + 1, initial);
    for command in &world.commands {
        if let Some(value) = command.write(block) {
            clusters.insert(value, Cluster { first_end: command.end(), last_start: start(world, command) });
        }
    }
    let (mut read, mut compared) = (vec![block as u64 + 1], Vec::new());
    for command in &world.commands {
        let Some(value) = command.read(block) else { continue };
        let written = clusters.get_mut(&value);
        let cluster = written.unwrap_or_else(|| panic!("{value:x} was never written to block {block}"));
        assert!(
            cluster.last_start <= command.end() || read.contains(&value),
            "{value:x} was read before it was written"
        );
        cluster.first_end = cluster.first_end.min(command.end());
        cluster.last_start = cluster.last_start.max(start(world, command));
        read.push(value);
        if matches!(command.kind, Kind::CompareAndWrite { .. }) {
            assert!(!compared.contains(&value), "{value:x} in block {block} was replaced twice");
            compared.push(value);
        }
    }
    // What did not end well, and was never read, may not have been written.
    for command in world.commands.iter().filter(|command| !command.is_good()) {
        if let Some(value) = command.write(block).filter(|value| !read.contains(value)) {
            clusters.remove(&value);
        }
    }
    let chains = chains(world, block, &clusters);
    let all: Vec<_> = chains.iter().collect();
    for (value, one) in &all {
        if one.first_end >= one.last_start {
            continue;
        }
        // From its first end to its last start, the block has this value.
        for (other_value, other) in all.iter().filter(|(other, _)| other != value) {
            let (start, end) = (other.first_end.min(other.last_start), other.first_end.max(other.last_start));
            let lasts = other.first_end < other.last_start;
            let overlaps = start < one.last_start && one.first_end < end;
            let inside = one.first_end < start && end < one.last_start;
            assert!(
                !(if lasts { overlaps } else { inside }),
                "block {block} was {value:x} when it was {other_value:x}"
            );
        }
    }
}

/// Joins what is replaced by COMPARE AND WRITE with what replaces it: nothing else is written between them. Chains are known
/// by their first values.
fn chains(world: &World, block: usize, clusters: &BTreeMap<u64, Cluster>) -> BTreeMap<u64, Cluster> {
    let mut replaced = BTreeMap::new();
    for command in &world.commands {
        let Kind::CompareAndWrite { block: at, expected, number } = command.kind else { continue };
        let (Some(before), Some(after)) = (clusters.get(&expected), clusters.get(&number)) else { continue };
        if at == block {
            assert!(before.last_start <= after.first_end, "{expected:x} was seen after {number:x}");
            replaced.insert(number, expected);
        }
    }
    let mut chains = BTreeMap::<u64, Cluster>::new();
    for (value, &Cluster { first_end, last_start }) in clusters {
        let first = std::iter::successors(Some(*value), |value| replaced.get(value).copied()).last();
        let chain = chains.entry(first.unwrap_or(*value)).or_insert(Cluster { first_end, last_start });
        chain.first_end = chain.first_end.min(first_end);
        chain.last_start = chain.last_start.max(last_start);
    }
    chains
}
