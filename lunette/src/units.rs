//! From the descriptions of logical units to logical units.

use crate::notation::{StoreSpec, UnitSpec};
use crate::size;
use crate::state::{Key, Record, StateDir};
use anyhow::{Context, Result, bail};
use lunette_device_disk::{Disk, Options as DiskOptions};
use lunette_engine::{Identity, LogicalUnit};
use lunette_store::Backing;
use lunette_store::layer::fault::Fault;
use lunette_store::ram::Ram;
use lunette_store_file::{File, Options as FileOptions};
use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::path::Path;
use std::sync::Arc;

/// A logical unit that is served.
pub(crate) struct Unit {
    pub(crate) unit: Arc<LogicalUnit>,
    /// What it is and where its bytes are, for people.
    pub(crate) description: String,
}

/// The disk that is served when nothing else is said.
pub(crate) fn default_spec(state: &StateDir) -> UnitSpec {
    UnitSpec {
        size: Some(1 << 30),
        name: Some("default".into()),
        ..UnitSpec::new(StoreSpec::Path(state.path().join("default.img")))
    }
}

/// Opens all units, by logical unit number.
pub(crate) fn open(specs: &[UnitSpec], state: &StateDir) -> Result<BTreeMap<u32, Unit>> {
    let luns = number(specs)?;
    if let Some(name) = twice(specs.iter().filter_map(|spec| spec.name.as_ref())) {
        bail!("two logical units have the name `{name}`");
    }
    let opened = specs.iter().map(open_store).collect::<Result<Vec<_>>>()?;
    let keys = specs.iter().map(key).collect::<Result<Vec<_>>>()?;
    let records = state.identities(&keys)?;
    let naas = specs.iter().zip(&records).map(|(spec, record)| spec.wwn.unwrap_or(record.naa));
    if let Some(naa) = twice(naas) {
        bail!("two logical units have the world-wide name {naa}: initiators would take them for one");
    }
    let units = specs.iter().zip(luns).zip(opened).zip(records);
    units.map(|(((spec, lun), opened), record)| Ok((lun, build(spec, lun, opened, &record)?))).collect()
}

/// The first value that has come before.
fn twice<T: Eq + Hash + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut seen = HashSet::new();
    values.into_iter().find(|value| !seen.insert(*value))
}

/// The logical unit numbers: `lun=` where given, the lowest free ones in order otherwise.
fn number(specs: &[UnitSpec]) -> Result<Vec<u32>> {
    let given = || specs.iter().filter_map(|spec| spec.lun);
    if let Some(lun) = twice(given()) {
        bail!("two logical units have lun={lun}");
    }
    let taken: HashSet<u32> = given().collect();
    let mut free = (0..).filter(move |lun| !taken.contains(lun));
    Ok(specs.iter().map(|spec| spec.lun.unwrap_or_else(|| free.next().unwrap_or_default())).collect())
}

struct Opened {
    backing: Arc<dyn Backing>,
    description: String,
}

fn open_store(spec: &UnitSpec) -> Result<Opened> {
    let (backing, description): (Arc<dyn Backing>, _) = match &spec.store {
        StoreSpec::Path(path) => {
            let file = open_file(path, spec)?;
            let description = format!("{} ({})", path.display(), file.mode());
            (Arc::new(file), description)
        }
        StoreSpec::Ram(bytes) => {
            let ram =
                Ram::new(*bytes).with_context(|| format!("cannot get {} of memory", size::show(*bytes)))?;
            (Arc::new(if spec.read_only { ram.read_only() } else { ram }), "memory".to_owned())
        }
    };
    let backing = match &spec.fault {
        Some(plan) => Arc::new(Fault::new(backing, plan.clone())),
        None => backing,
    };
    Ok(Opened { backing, description })
}

fn open_file(path: &Path, spec: &UnitSpec) -> Result<File> {
    let options = FileOptions {
        read_only: spec.read_only,
        direct: spec.direct,
        inline: spec.inline,
        create_size: spec.size,
        logical_block: spec.block,
        rotational: spec.rotational,
        ..FileOptions::default()
    };
    Ok(File::open(path, &options)?)
}

/// Memory without a name is a new disk at every start, so nothing is kept of it.
fn key(spec: &UnitSpec) -> Result<Key> {
    let place = match &spec.store {
        StoreSpec::Path(path) => {
            Key::file(path).with_context(|| format!("cannot examine {}", path.display()))?
        }
        StoreSpec::Ram(_) => Key::default(),
    };
    Ok(Key { name: spec.name.clone().or(place.name.clone()), ..place })
}

fn build(spec: &UnitSpec, lun: u32, opened: Opened, record: &Record) -> Result<Unit> {
    let serial = spec.serial.as_ref().unwrap_or(&record.serial);
    let identity = Identity::new(serial, spec.wwn.unwrap_or(record.naa));
    let options = DiskOptions {
        block_length: spec.block,
        rotational: spec.rotational,
        removable: spec.removable,
        ..DiskOptions::default()
    };
    let disk = Disk::new(&options, opened.backing.caps()).with_context(|| format!("LUN {lun}"))?;
    let name = spec.name.clone().unwrap_or_else(|| format!("lun{lun}"));
    let unit = LogicalUnit::new(name, identity, Box::new(disk), Some(opened.backing));
    Ok(Unit { unit, description: opened.description })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(luns: &[Option<u32>]) -> Result<Vec<u32>> {
        let spec = |lun: &Option<u32>| UnitSpec { lun: *lun, ..UnitSpec::new(StoreSpec::Ram(1 << 20)) };
        number(&luns.iter().map(spec).collect::<Vec<_>>())
    }

    #[test]
    fn units_are_numbered_from_zero_around_the_given_numbers() {
        assert_eq!(numbers(&[None, None]).unwrap(), [0, 1]);
        assert_eq!(numbers(&[None, Some(0), None, Some(2)]).unwrap(), [1, 0, 3, 2]);
        assert!(numbers(&[Some(1), Some(1)]).is_err());
    }

    #[test]
    fn names_that_are_given_twice_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let ram = || UnitSpec::new(StoreSpec::Ram(1 << 20));
        let refusal = |spec: UnitSpec| open(&[spec.clone(), spec], &state).err().unwrap().to_string();
        let image = directory.path().join("new.img");
        let named =
            UnitSpec { name: Some("x".into()), size: Some(4096), ..UnitSpec::new(StoreSpec::Path(image)) };
        assert!(refusal(named).contains("the name `x`"));
        assert!(!directory.path().join("new.img").exists(), "nothing is made before");
        let wwn = Some(lunette_scsi::Naa::locally_assigned(5));
        assert!(refusal(UnitSpec { wwn, ..ram() }).contains("the world-wide name naa.3000000000000005"));
        assert_eq!(open(&[ram(), ram()], &state).unwrap().len(), 2);
    }
}
