//! From the descriptions of logical units to logical units.

use crate::access::GroupAccess;
use crate::config::values::{Bytes, Name, Place, StoreSpec, Text};
use crate::config::{self, KnownBy, UnitLun};
use crate::size;
use crate::state::{Key, Record, StateDir, UnitState};
use anyhow::{Context, Result, bail};
use lunette_device_disk::{Disk, Options as DiskOptions};
use lunette_engine::{Identity, LogicalUnit};
use lunette_store::Backing;
use lunette_store::layer::fault::Fault;
use lunette_store::ram::Ram;
use lunette_store_file::{File, Options as FileOptions};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// All units, by their names.
pub(crate) type Units = BTreeMap<Name, Unit>;

/// A logical unit that is served.
pub(crate) struct Unit {
    pub(crate) unit: Arc<LogicalUnit>,
    /// What it is and where its bytes are, for people.
    pub(crate) description: String,
    /// The request queues on whose reactors it lives; on all if there are none.
    pub(crate) queues: Vec<u16>,
    /// Where exports show it that say nothing of their own.
    pub(crate) place: Option<Place>,
}

/// Opens all units.
pub(crate) fn open<'a>(specs: impl IntoIterator<Item = &'a config::Unit>, state: &StateDir) -> Result<Units> {
    let specs: Vec<_> = specs.into_iter().collect();
    let opened = specs.iter().map(|spec| open_store(spec)).collect::<Result<Vec<_>>>()?;
    let keys = specs.iter().map(|spec| key(spec)).collect::<Result<Vec<_>>>()?;
    let records = state.identities(&keys)?;
    let mut names = HashSet::new();
    let naa = |(spec, record): (&&config::Unit, &Record)| spec.wwn.map_or(record.naa, |Text(naa)| naa);
    if let Some(naa) = specs.iter().zip(&records).map(naa).find(|naa| !names.insert(*naa)) {
        bail!("two logical units have the world-wide name {naa}: initiators would take them for one");
    }
    let lock = |(spec, record): (&&config::Unit, &Record)| {
        let keeper = record.lasts().then(|| state.unit(record.naa)).transpose();
        keeper.with_context(|| spec.name.to_string())
    };
    // All of them, before any state is read.
    let keepers = specs.iter().zip(&records).map(lock).collect::<Result<Vec<_>>>()?;
    let units = specs.into_iter().zip(opened).zip(records).zip(keepers);
    units
        .map(|(((spec, opened), record), keeper)| {
            Ok((spec.name.clone(), build(spec, opened, &record, keeper)?))
        })
        .collect()
}

struct Opened {
    backing: Arc<dyn Backing>,
    description: String,
}

fn open_store(spec: &config::Unit) -> Result<Opened> {
    let (backing, description): (Arc<dyn Backing>, _) = match &spec.store {
        StoreSpec::Path(path) => {
            let file = open_file(path.as_path(), spec)?;
            let description = format!("{path} ({})", file.mode());
            (Arc::new(file), description)
        }
        StoreSpec::Ram(bytes) => {
            let ram =
                Ram::new(*bytes).with_context(|| format!("cannot get {} of memory", size::show(*bytes)))?;
            (Arc::new(if spec.read_only { ram.read_only() } else { ram }), "memory".to_owned())
        }
    };
    let backing = match &spec.fault {
        Some(plan) => Arc::new(Fault::new(backing, plan.value.clone())),
        None => backing,
    };
    Ok(Opened { backing, description })
}

fn open_file(path: &Path, spec: &config::Unit) -> Result<File> {
    let options = FileOptions {
        read_only: spec.read_only,
        direct: spec.direct,
        inline: spec.inline,
        create_size: spec.size.map(|Bytes(size)| size),
        logical_block: spec.block.0,
        rotational: spec.rotational,
        ..FileOptions::default()
    };
    Ok(File::open(path, &options)?)
}

/// Memory that is not known by its name is a new disk at every start, so nothing is kept of it.
fn key(spec: &config::Unit) -> Result<Key> {
    let place = match &spec.store {
        StoreSpec::Path(path) => {
            Key::file(path.as_path()).with_context(|| format!("cannot examine {path}"))?
        }
        StoreSpec::Ram(_) => Key::default(),
    };
    let name = (spec.known_by == KnownBy::Name).then(|| spec.name.to_string());
    Ok(Key { name, ..place })
}

fn build(spec: &config::Unit, opened: Opened, record: &Record, keeper: Option<UnitState>) -> Result<Unit> {
    let name = &spec.name;
    let serial = spec.serial.as_ref().map_or(record.serial.as_str(), |serial| serial.as_str());
    let naa = spec.wwn.map_or(record.naa, |Text(naa)| naa);
    let identity = Identity { version: spec.version.into(), ..Identity::new(serial, naa) };
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
    let disk = Disk::new(&options, opened.backing.caps()).with_context(|| name.to_string())?;
    // At the start of the program, as far as anybody can tell.
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let filter = spec.filter.as_ref().map(|filter| filter.value.clone()).unwrap_or_default();
    let unit =
        LogicalUnit::filtered(name.to_string(), identity, Box::new(disk), Some(opened.backing), &filter);
    if let Some(limit) = spec.waiting {
        unit.limit_waiting(limit.into());
    }
    for &GroupAccess { group, state, preferred } in spec.access.iter().flat_map(|access| &access.0) {
        unit.configure_access(group, state, preferred).with_context(|| name.to_string())?;
    }
    if let Some(keeper) = keeper {
        keep(&unit, name, keeper);
    }
    unit.set_clock(clock.as_millis() as u64);
    let queues = spec.queues.as_ref().map(|queues| queues.0.clone()).unwrap_or_default();
    let place = spec.lun.map(|UnitLun(lun)| Place { target: spec.target, lun });
    Ok(Unit { unit, description: opened.description, queues, place })
}

/// Lets a unit keep its state. One whose state cannot be used is served, but not ready.
fn keep(unit: &LogicalUnit, name: &Name, keeper: UnitState) {
    let path = keeper.path();
    if let Err(error) = unit.keep_state(Arc::new(keeper)) {
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
        let spec = config::Unit { name: Name::of("x"), ..config::Unit::new(StoreSpec::Ram(1 << 20)) };
        let ready = |state| {
            let units = open([&spec], state).unwrap();
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
    fn world_wide_names_that_are_given_twice_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let ram = |name| config::Unit { name: Name::of(name), ..config::Unit::new(StoreSpec::Ram(1 << 20)) };
        let wwn = Some(Text(lunette_scsi::Naa::locally_assigned(5)));
        let units = ["a", "b"].map(|name| config::Unit { wwn, ..ram(name) });
        let refusal = open(&units, &state).err().unwrap().to_string();
        assert!(refusal.contains("the world-wide name naa.3000000000000005"));
        assert_eq!(open(&["a", "b"].map(ram), &state).unwrap().len(), 2);
    }
}
