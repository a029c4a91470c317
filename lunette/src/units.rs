//! From the descriptions of logical units to logical units.

use crate::access::GroupAccess;
use crate::config::values::{Bytes, Name, Place, StoreSpec, Text};
use crate::config::{self, KnownBy, UnitLun};
use crate::confinement;
use crate::handover::Handed;
use crate::size;
use crate::state::{Key, Record, StateDir, UnitState, number};
use anyhow::{Context, Result, bail};
use lunette_device_disk::{Disk, Options as DiskOptions};
use lunette_engine::{Identity, LogicalUnit};
use lunette_scsi::Naa;
use lunette_store::Backing;
use lunette_store::layer::fault::Fault;
use lunette_store::ram::Ram;
use lunette_store_file::{File, OpenError, Options as FileOptions};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// All units, by their names.
pub(crate) type Units = BTreeMap<Name, Unit>;

/// A logical unit that is served.
#[derive(Clone)]
pub(crate) struct Unit {
    pub(crate) unit: Arc<LogicalUnit>,
    /// What it is and where its bytes are, for people.
    pub(crate) description: String,
    /// The request queues on whose reactors it lives; on all if there are none.
    pub(crate) queues: Vec<u16>,
    /// Where exports show it that say nothing of their own.
    pub(crate) place: Option<Place>,
    /// Who it is.
    pub(crate) record: Record,
}

/// What is to be done about a file of another size than `size` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OtherSize {
    /// It may not be the file that is meant: refuse it.
    Refuse,
    /// It was resized later: use it as it is, and say so.
    Take,
}

/// Opens all units, those in memory with the bytes that another process has left; but not those that others may serve, which are
/// taken when their virtual machines want them.
pub(crate) fn open<'a>(
    specs: impl IntoIterator<Item = &'a Arc<config::Unit>>,
    state: &StateDir,
    handed: &mut Handed,
) -> Result<Units> {
    let specs: Vec<_> = specs.into_iter().filter(|spec| !spec.migratable).collect();
    let opened = specs.iter().map(|spec| match Opened::handed(spec, handed) {
        Some(opened) => Ok(opened),
        None => Opened::open(spec, OtherSize::Take),
    });
    let opened = opened.collect::<Result<Vec<_>>>()?;
    let keys = specs.iter().map(|spec| key(spec)).collect::<Result<Vec<_>>>()?;
    let mut records = state.identities(&keys)?;
    for (spec, record) in specs.iter().zip(&mut records).filter(|(_, record)| !record.lasts()) {
        handed.record(spec.name.as_str()).into_iter().for_each(|before| *record = before);
    }
    let mut names = HashSet::new();
    let naa = |(spec, record): (&&Arc<config::Unit>, &Record)| naa(spec, record);
    if let Some(naa) = specs.iter().zip(&records).map(naa).find(|naa| !names.insert(*naa)) {
        bail!("{}", taken(naa));
    }
    let lock = |(spec, record): (&&Arc<config::Unit>, &Record)| keeper(spec, record, state);
    // All of them, before any state is read.
    let keepers = specs.iter().zip(&records).map(lock).collect::<Result<Vec<_>>>()?;
    let units = specs.into_iter().zip(opened).zip(records).zip(keepers);
    units
        .map(|(((spec, opened), record), keeper)| {
            let unit = build(spec, opened, &record, keeper)?;
            // Before what was handed over is used up: this process may be killed then.
            if handed.has_failed(&unit.unit.identity.naa.to_string())
                && let Some(backing) = unit.unit.backing()
            {
                backing.set_failed();
            }
            Ok((spec.name.clone(), unit))
        })
        .collect()
}

/// By what initiators know a unit that others could serve too. There may be no file of it yet.
pub(crate) fn record_of_standby(spec: &config::Unit, state: &StateDir) -> Result<Record> {
    let key = match key(spec) {
        Err(_) if spec.size.is_some() && spec.known_by == KnownBy::Name => {
            Key { name: Some(spec.name.to_string()), ..Key::default() }
        }
        key => key?,
    };
    state.identities(&[key])?.pop().context("there is no identity")
}

/// What a unit saves its state by, if it saves any. Nobody else can serve the unit then.
pub(crate) fn keeper(spec: &config::Unit, record: &Record, state: &StateDir) -> Result<Option<UnitState>> {
    let keeper = record.lasts().then(|| state.unit(record.naa)).transpose();
    keeper.with_context(|| spec.name.to_string())
}

/// The world-wide name of a unit.
pub(crate) fn naa(spec: &config::Unit, record: &Record) -> Naa {
    spec.wwn.map_or(record.naa, |Text(naa)| naa)
}

/// Two units cannot have this world-wide name.
pub(crate) fn taken(naa: Naa) -> String {
    format!("two logical units have the world-wide name {naa}: initiators would take them for one")
}

/// A store that is open for a unit. If it becomes none, a file that was made for it is removed.
pub(crate) struct Opened {
    backing: Option<Arc<dyn Backing>>,
    /// What it is, if it is a file, and how long to wait for others there.
    file: Option<(File, Duration)>,
    description: String,
    /// There was no such file before.
    created: Option<PathBuf>,
}

impl Opened {
    /// Opens the store of a unit.
    pub(crate) fn open(spec: &config::Unit, other: OtherSize) -> Result<Self> {
        Self::open_within(spec, other, confinement::lock_wait())
    }

    /// The same, but waits no longer than so for a file that somebody else has.
    pub(crate) fn open_within(spec: &config::Unit, other: OtherSize, wait: Duration) -> Result<Self> {
        let mut opened = None;
        let (backing, description, created): (Arc<dyn Backing>, _, _) = match &spec.store {
            StoreSpec::Path(path) => {
                // To tell why; what is opened is below them, too.
                confinement::check(path.as_path())?;
                let file = open_file(path.as_path(), spec, other, wait)?;
                let description = format!("{path} ({})", file.mode());
                let created = file.was_created().then(|| path.as_path().to_owned());
                opened = Some((file.clone(), wait));
                (Arc::new(file), description, created)
            }
            StoreSpec::Ram(bytes) => {
                let ram = Ram::new(*bytes)
                    .with_context(|| format!("cannot get {} of memory", size::show(*bytes)))?;
                (Arc::new(if spec.read_only { ram.read_only() } else { ram }), "memory".to_owned(), None)
            }
        };
        Ok(Self { backing: Some(layered(backing, spec)), file: opened, description, created })
    }

    /// Waits for what a killed daemon that has served the same unit may still read.
    pub(crate) fn succeed(&mut self, record: &Record) -> Result<()> {
        if let Some((file, wait)) = self.file.as_ref().filter(|_| record.lasts()) {
            file.succeed(number(record.naa), *wait)?;
        }
        self.file = None;
        Ok(())
    }

    /// A disk in memory with the bytes that another process has left, if they are of use.
    fn handed(spec: &config::Unit, handed: &mut Handed) -> Option<Self> {
        let StoreSpec::Ram(wanted) = spec.store else { return None };
        let (file, size) = handed.memory(spec.name.as_str())?;
        let ram = Ram::adopt(file, size)
            .inspect_err(|error| {
                tracing::warn!("{} is empty, as its bytes were not handed over: {error}", spec.name)
            })
            .ok()?;
        handed.has_come(spec.name.as_str());
        if size != wanted {
            let (size, wanted) = (size::exact(size), size::exact(wanted));
            tracing::warn!(
                "{} has a size of {size}, not {wanted}: it goes on as it is; resize it",
                spec.name
            );
        }
        let backing: Arc<dyn Backing> = Arc::new(if spec.read_only { ram.read_only() } else { ram });
        let backing = Some(layered(backing, spec));
        Some(Self { backing, file: None, description: "memory".to_owned(), created: None })
    }
}

/// A store with the layers before it that its unit has.
fn layered(backing: Arc<dyn Backing>, spec: &config::Unit) -> Arc<dyn Backing> {
    match &spec.fault {
        Some(plan) => Arc::new(Fault::new(backing, plan.value.clone())),
        None => backing,
    }
}

impl Drop for Opened {
    /// Its lock is still held: nobody else has begun to use the file.
    fn drop(&mut self) {
        if let Some(path) = self.created.take()
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove the file that was made for nothing");
        }
    }
}

fn open_file(path: &Path, spec: &config::Unit, other: OtherSize, lock_wait: Duration) -> Result<File> {
    let options = FileOptions {
        read_only: spec.read_only,
        direct: spec.direct,
        inline: spec.inline,
        create_size: spec.size.map(|Bytes(size)| size),
        logical_block: spec.block.0,
        rotational: spec.rotational,
        opener: confinement::opener(),
        lock_wait,
    };
    match File::open(path, &options) {
        Err(OpenError::OtherSize { actual, wanted, .. }) if other == OtherSize::Take => {
            let (actual, wanted) = (size::exact(actual), size::exact(wanted));
            tracing::warn!(
                "{} has a size of {actual}, not the {wanted} of `size`: it is used as it is. Say what is right in the \
                 configuration, or resize it",
                path.display()
            );
            Ok(File::open(path, &FileOptions { create_size: None, ..options })?)
        }
        opened => Ok(opened?),
    }
}

/// Memory that is not known by its name is a new disk at every start, so nothing is kept of it.
pub(crate) fn key(spec: &config::Unit) -> Result<Key> {
    let place = match &spec.store {
        StoreSpec::Path(path) => {
            let path = path.as_path();
            let file = confinement::look(path).and_then(|file| Key::file(path, file));
            file.with_context(|| format!("cannot examine {}", path.display()))?
        }
        StoreSpec::Ram(_) => Key::default(),
    };
    let name = (spec.known_by == KnownBy::Name).then(|| spec.name.to_string());
    Ok(Key { name, ..place })
}

/// Makes the unit, which saves its state by `keeper`, if it saves any.
pub(crate) fn build(
    spec: &config::Unit,
    mut opened: Opened,
    record: &Record,
    keeper: Option<UnitState>,
) -> Result<Unit> {
    let name = &spec.name;
    opened.succeed(record)?;
    let backing = opened.backing.clone().context("a store becomes one unit")?;
    let serial = spec.serial.as_ref().map_or(record.serial.as_str(), |serial| serial.as_str());
    let identity = Identity { version: spec.version.into(), ..Identity::new(serial, naa(spec, record)) };
    let defaults = DiskOptions::default();
    let options = DiskOptions {
        block_length: spec.block.0,
        rotational: spec.rotational,
        removable: spec.removable,
        pace: spec.pace.map_or(defaults.pace, |Bytes(pace)| pace),
        // What is too much for it the disk says itself.
        atomic_granularity: spec.atomic.map(|Bytes(bytes)| u32::try_from(bytes).unwrap_or(u32::MAX)),
        ..defaults
    };
    let disk = Disk::new(&options, backing.caps()).with_context(|| name.to_string())?;
    // At the start of the program, as far as anybody can tell.
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let filter = spec.filter.as_ref().map(|filter| filter.value.clone()).unwrap_or_default();
    let unit = LogicalUnit::filtered(name.to_string(), identity, Box::new(disk), Some(backing), &filter);
    if let Some(limit) = spec.waiting {
        unit.limit_waiting(limit.into());
    }
    unit.set_stuck_after(patience(spec));
    for &GroupAccess { group, state, preferred } in spec.access.iter().flat_map(|access| &access.0) {
        unit.configure_access(group, state, preferred).with_context(|| name.to_string())?;
    }
    if let Some(keeper) = keeper.map(Arc::new) {
        keep_failures(&unit, &keeper);
        keep(&unit, name, keeper);
    }
    unit.set_clock(clock.as_millis() as u64);
    let queues = spec.queues.as_ref().map(|queues| queues.0.clone()).unwrap_or_default();
    opened.created = None;
    let description = std::mem::take(&mut opened.description);
    Ok(Unit { unit, description, queues, place: place(spec), record: record.clone() })
}

/// How long its store may take for an operation.
pub(crate) fn patience(spec: &config::Unit) -> Option<Duration> {
    spec.stuck_after.map(|seconds| Duration::from_secs(seconds.get().into()))
}

/// Where exports show it that say nothing of their own.
pub(crate) fn place(spec: &config::Unit) -> Option<Place> {
    spec.lun.map(|UnitLun(lun)| Place { target: spec.target, lun })
}

/// Has the next process know if bytes of a unit's store are lost, and the unit if they were under the last one.
fn keep_failures(unit: &LogicalUnit, keeper: &Arc<UnitState>) {
    let Some(backing) = unit.backing() else { return };
    if keeper.has_failed() {
        tracing::error!(
            "data of {} was lost under another process: no flush will succeed until it is opened again",
            unit.name
        );
        backing.set_failed();
    }
    // Who ends the unit is to have its lock: nobody is told of anything then.
    let keeper = Arc::downgrade(keeper);
    backing.keep_failure(Box::new(move || keeper.upgrade().iter().for_each(|keeper| keeper.keep_failure())));
}

/// Lets a unit keep its state. One whose state cannot be used is served, but not ready.
fn keep(unit: &LogicalUnit, name: &Name, keeper: Arc<UnitState>) {
    let path = keeper.path();
    if let Err(error) = unit.keep_state(keeper) {
        tracing::error!(
            "{name} is not ready: {error}. Restore {path}, or move it away to give up the reservations and all else that \
             the unit has saved, and start lunette again",
            path = path.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_whose_state_is_damaged_is_not_ready() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let spec =
            Arc::new(config::Unit { name: Name::of("x"), ..config::Unit::new(StoreSpec::Ram(1 << 20)) });
        let ready = |state| {
            let units = open([&spec], state, &mut Handed::default()).unwrap();
            units.values().all(|unit| unit.unit.ready().is_ok())
        };
        assert!(ready(&state));
        let naa = state.identities(&[key(&spec).unwrap()]).unwrap()[0].naa;
        let path = state.unit(naa).unwrap().path();
        std::fs::write(&path, "lunette unit state, version 1, 2 bytes, CRC-32C 00000000\n{}").unwrap();
        assert!(!ready(&state));
        std::fs::remove_file(&path).unwrap();
        assert!(ready(&state), "the operator has given it up");
    }

    #[test]
    fn what_was_lost_is_known_after_a_kill_but_not_after_an_end_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(&directory.path().join("state")).unwrap();
        let image = directory.path().join("a.img");
        std::fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let store = StoreSpec::Path(image.to_str().unwrap().parse().unwrap());
        let spec = Arc::new(config::Unit { name: Name::of("x"), ..config::Unit::new(store) });
        let opened =
            |handed: &mut Handed| open([&spec], &state, handed).unwrap().into_values().next().unwrap();
        let has_failed = |unit: &Unit| unit.unit.backing().unwrap().has_failed();
        let unit = opened(&mut Handed::default());
        assert!(!has_failed(&unit));
        unit.unit.backing().unwrap().set_failed();
        let (naa, name) = (unit.record.naa, unit.unit.identity.naa.to_string());
        let left = unit.unit.hand_over(Duration::ZERO, Duration::ZERO);
        drop(unit);
        // Again and again.
        for _ in 0..2 {
            assert!(has_failed(&opened(&mut Handed::default())));
        }
        state.forget_failure(naa);
        assert!(!has_failed(&opened(&mut Handed::default())));
        // Who goes on from there keeps it, too, before that is used up.
        let mut handed = Handed::with_units([(name, left)].into());
        assert!(has_failed(&opened(&mut handed)));
        assert!(has_failed(&opened(&mut Handed::default())));
        std::fs::write(directory.path().join(format!("state/units/{naa}.failed")), "?").unwrap();
        assert!(has_failed(&opened(&mut Handed::default())), "nothing better is known");
    }

    #[test]
    fn world_wide_names_that_are_given_twice_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let ram = |name| config::Unit { name: Name::of(name), ..config::Unit::new(StoreSpec::Ram(1 << 20)) };
        let wwn = Some(Text(lunette_scsi::Naa::locally_assigned(5)));
        let units = ["a", "b"].map(|name| Arc::new(config::Unit { wwn, ..ram(name) }));
        let refusal = open(&units, &state, &mut Handed::default()).err().unwrap().to_string();
        assert!(refusal.contains("the world-wide name naa.3000000000000005"));
        assert_eq!(
            open(&["a", "b"].map(ram).map(Arc::new), &state, &mut Handed::default()).unwrap().len(),
            2
        );
    }
}
