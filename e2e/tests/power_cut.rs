//! The power fails at any moment under a kernel's file system: what it was told is safe is there, and the file system is sound.
//!
//! One guest writes, to a disk behind a volatile cache and to one whose cache it has switched off. Everything that the store is
//! asked for is recorded, and what a power cut leaves is made from that for many moments.

use anyhow::{Context, Result, ensure};
use lunette_device_disk::{Disk, Options as DiskOptions};
use lunette_e2e::uml::Uml;
use lunette_e2e::{checks, tools};
use lunette_engine::{Identity, LogicalUnit, TargetPort};
use lunette_reactor::{Options as ReactorOptions, Reactors};
use lunette_scsi::{Naa, Protocol};
use lunette_store::layer::recorder::{Cut, Recorder, Recording};
use lunette_store::{Backing, ReactorId};
use lunette_store_file::{File, Options as FileOptions};
use lunette_transport_vhost_user::{Options, VhostUserExport};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

const SIZE: usize = 48 << 20;
/// A logical block, which a disk writes whole or not at all.
const BLOCK: usize = 4096;
/// The unit on which the guest notes what is safe on the others.
const NOTES: usize = 2;
/// Files that the guest makes safe one by one.
const FILES: u64 = 60;

/// The bytes of the file of this number.
fn content(number: u64) -> Vec<u8> {
    let length = (number * 7919 % 60_000) as usize + 1;
    format!("file {number}\n").bytes().cycle().take(length).collect()
}

fn unit(folder: &Path, recording: &Recording, number: usize) -> Result<Arc<LogicalUnit>> {
    let options = FileOptions { create_size: Some(SIZE as u64), ..FileOptions::default() };
    let file = File::open(&folder.join(format!("{number}.img")), &options)?;
    let store = Arc::new(Recorder::new(Arc::new(file), recording, number));
    let disk =
        Disk::new(&DiskOptions { block_length: BLOCK as u32, ..DiskOptions::default() }, store.caps())?;
    let identity = Identity::new(number.to_string(), Naa::locally_assigned(number as u64 + 1));
    Ok(LogicalUnit::new(number.to_string(), identity, Box::new(disk), Some(store)))
}

/// What a guest's file systems have asked for.
fn recorded(folder: &Path) -> Result<Recording> {
    let recording = Recording::default();
    let units = (0..=NOTES).map(|number| Ok((number as u32, unit(folder, &recording, number)?)));
    let units: BTreeMap<_, _> = units.collect::<Result<_>>()?;
    let reactors = Reactors::start(&ReactorOptions { reactors: 1, ..ReactorOptions::default() })?;
    let port = TargetPort::new("vm", 1, Protocol::NONE, units);
    let socket = folder.join("vm.sock");
    let export = VhostUserExport::new(Options::new(&socket), BTreeMap::from([(0, port)]));
    let handle = export.start(reactors.poster(), &[ReactorId(0)])?;
    let mut guest = Uml::new().vhost_user_scsi(&socket).boot()?;
    guest.check(&format!("files={FILES}\n{}", include_str!("../scripts/power_cut.sh")))?;
    guest.power_off()?;
    handle.stop();
    Ok(recording)
}

/// What the guest has noted: the number of the event, the unit, and the last file that is safe there; 0 when it begins.
fn notes(recording: &Recording) -> Vec<(usize, usize, u64)> {
    let writes = recording.writes(NOTES).into_iter();
    let note = |(event, _, bytes): (usize, u64, Arc<[u8]>)| {
        let text = String::from_utf8_lossy(&bytes[..BLOCK.min(bytes.len())]).into_owned();
        let mut words = text.split_whitespace();
        (words.next()? == "safe").then_some(())?;
        Some((event, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    writes.filter_map(note).collect()
}

/// Whether the file system in `image` is sound, and has all files up to `safe`.
fn check(folder: &Path, image: &[u8], safe: u64) -> Result<()> {
    let path = folder.join("cut.img");
    fs::write(&path, image)?;
    let said = tools::output("fsck.ext4", ["-p".as_ref(), path.as_os_str()])?;
    ensure!(said.status <= 1, "the journal does not make it good: {said}");
    tools::output("fsck.ext4", ["-fn".as_ref(), path.as_os_str()])?.ok()?;
    let tree = folder.join("tree");
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir(&tree)?;
    let dump = format!("rdump / {}", tree.display());
    tools::output("debugfs", ["-R".as_ref(), dump.as_ref(), path.as_os_str()])?.ok()?;
    for number in 1..=safe {
        let found =
            fs::read(tree.join(format!("f{number}"))).with_context(|| format!("file {number} of {safe}"))?;
        ensure!(found == content(number), "file {number} of {safe} is another");
    }
    let log = fs::read_to_string(tree.join("log")).unwrap_or_default();
    for number in 1..=safe {
        ensure!(log.lines().any(|line| line == format!("line {number}")), "line {number} of {safe} is lost");
    }
    Ok(())
}

#[test]
fn what_a_kernel_has_flushed_outlives_the_power() -> Result<()> {
    checks::need_tools()?;
    tools::need(["debugfs", "fsck.ext4"])?;
    let folder = tools::temp_dir()?;
    let recording = recorded(folder.path())?;
    let notes = notes(&recording);
    println!("{} events, {} notes", recording.events(), notes.len());
    ensure!(recording.flushed_and_durable(0).0, "the kernel does not flush");
    ensure!(recording.flushed_and_durable(1).1, "the cache is not off");
    let seeds = if tools::full() { 200 } else { 6 };
    let first = u64::from(std::process::id()) << 16;
    let (mut tried, mut noticed) = (0, 0);
    for seed in first..first + seeds {
        for unit in [0, 1] {
            let of_unit: Vec<_> = notes.iter().filter(|(_, of, _)| *of == unit).collect();
            let (begin, end) = (of_unit[0].0, of_unit[of_unit.len() - 1].0);
            // Any moment, by a hash of the seed.
            let at = begin + 1 + (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as usize % (end - begin);
            let safe =
                of_unit.iter().filter(|(event, ..)| *event < at).map(|(.., safe)| *safe).max().unwrap_or(0);
            let image = |lying| recording.after(Cut { at, seed, lying }, unit, SIZE, BLOCK);
            check(folder.path(), &image(false), safe)
                .with_context(|| format!("seed {seed}, unit {unit}, event {at}, {safe} files"))?;
            if noticed == 0 {
                tried += 1;
                noticed += usize::from(check(folder.path(), &image(true), safe).is_err());
            }
        }
    }
    println!("seeds {first} to {}; a cache that lies is noticed at cut {tried}", first + seeds - 1);
    ensure!(noticed > 0, "this test would not notice a cache that lies");
    Ok(())
}
