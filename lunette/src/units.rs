//! From the descriptions of logical units to logical units.

use crate::access::GroupAccess;
use crate::notation::{MAX_LUNS, StoreSpec, UnitSpec};
use crate::size;
use crate::state::{Key, Record, StateDir};
use crate::unit_state::UnitState;
use anyhow::{Context, Result, bail};
use lunette_device_disk::{Disk, Options as DiskOptions};
use lunette_engine::{Identity, LogicalUnit};
use lunette_store::Backing;
use lunette_store::layer::fault::Fault;
use lunette_store::ram::Ram;
use lunette_store_file::{File, Options as FileOptions};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where a logical unit is seen: target and logical unit number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Address {
    pub(crate) target: u8,
    pub(crate) lun: u32,
}

/// The target is left out where it goes without saying.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            0 => write!(f, "LUN {}", self.lun),
            target => write!(f, "target {target} LUN {}", self.lun),
        }
    }
}

/// All units.
pub(crate) type Units = BTreeMap<Address, Unit>;

/// A logical unit that is served.
pub(crate) struct Unit {
    pub(crate) unit: Arc<LogicalUnit>,
    /// What it is and where its bytes are, for people.
    pub(crate) description: String,
    /// The request queues on whose reactors it lives; on all if there are none.
    pub(crate) queues: Vec<u16>,
    /// The target port groups for which its access is configured.
    pub(crate) groups: Vec<u16>,
}

/// The disk that is served when nothing else is said.
pub(crate) fn default_spec(state: &StateDir) -> UnitSpec {
    UnitSpec {
        size: Some(1 << 30),
        name: Some("default".into()),
        ..UnitSpec::new(StoreSpec::Path(state.path().join("default.img")))
    }
}

/// Opens all units.
pub(crate) fn open(specs: &[UnitSpec], state: &StateDir) -> Result<Units> {
    let addresses = number(specs)?;
    let names: Vec<_> = specs.iter().zip(&addresses).map(|(spec, at)| name(spec, *at)).collect();
    if let Some(name) = twice(names.iter()) {
        bail!("two logical units have the name `{name}`");
    }
    let opened = specs.iter().map(open_store).collect::<Result<Vec<_>>>()?;
    let keys = specs.iter().map(key).collect::<Result<Vec<_>>>()?;
    let records = state.identities(&keys)?;
    let naas = specs.iter().zip(&records).map(|(spec, record)| spec.wwn.unwrap_or(record.naa));
    if let Some(naa) = twice(naas) {
        bail!("two logical units have the world-wide name {naa}: initiators would take them for one");
    }
    let units = specs.iter().zip(addresses).zip(opened).zip(records);
    units.map(|(((spec, at), opened), record)| Ok((at, build(spec, at, opened, &record, state)?))).collect()
}

/// Where the units will be, by their names.
pub(crate) fn names(specs: &[UnitSpec]) -> Result<BTreeMap<String, Address>> {
    let addresses = number(specs)?;
    Ok(specs.iter().zip(addresses).map(|(spec, at)| (name(spec, at), at)).collect())
}

/// What a unit is called.
fn name(spec: &UnitSpec, at: Address) -> String {
    spec.name.clone().unwrap_or_else(|| match at.target {
        0 => format!("lun{}", at.lun),
        target => format!("target{target}-lun{}", at.lun),
    })
}

/// The first value that has come before.
fn twice<T: Eq + Hash + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut seen = HashSet::new();
    values.into_iter().find(|value| !seen.insert(*value))
}

/// The logical unit numbers: `lun=` where given, the lowest free ones of the target in order otherwise.
fn number(specs: &[UnitSpec]) -> Result<Vec<Address>> {
    let given = || specs.iter().filter_map(|spec| Some(Address { target: spec.target, lun: spec.lun? }));
    if let Some(Address { target, lun }) = twice(given()) {
        match target {
            0 => bail!("two logical units have lun={lun}"),
            _ => bail!("two logical units have target={target},lun={lun}"),
        }
    }
    let taken: HashSet<Address> = given().collect();
    let mut next = [0; 256];
    let mut free = |target: u8| loop {
        let next: &mut u32 = &mut next[usize::from(target)];
        let address = Address { target, lun: *next };
        if address.lun >= MAX_LUNS {
            bail!("target {target} has no room for more than {MAX_LUNS} logical units");
        }
        *next += 1;
        if !taken.contains(&address) {
            return Ok(address);
        }
    };
    let address = |spec: &UnitSpec| match spec.lun {
        Some(lun) => Ok(Address { target: spec.target, lun }),
        None => free(spec.target),
    };
    specs.iter().map(address).collect()
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

fn build(spec: &UnitSpec, at: Address, opened: Opened, record: &Record, state: &StateDir) -> Result<Unit> {
    let serial = spec.serial.as_ref().unwrap_or(&record.serial);
    let identity =
        Identity { version: spec.version, ..Identity::new(serial, spec.wwn.unwrap_or(record.naa)) };
    let defaults = DiskOptions::default();
    let options = DiskOptions {
        block_length: spec.block,
        rotational: spec.rotational,
        removable: spec.removable,
        pace: spec.pace.unwrap_or(defaults.pace),
        atomic_granularity: spec.atomic,
        ..defaults
    };
    let disk = Disk::new(&options, opened.backing.caps()).with_context(|| at.to_string())?;
    // At the start of the program, as far as anybody can tell.
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unit =
        LogicalUnit::filtered(name(spec, at), identity, Box::new(disk), Some(opened.backing), &spec.filter);
    if let Some(limit) = spec.waiting {
        unit.limit_waiting(limit.into());
    }
    for &GroupAccess { group, state, preferred } in &spec.access {
        unit.configure_access(group, state, preferred).with_context(|| at.to_string())?;
    }
    if record.lasts() {
        keep(&unit, at, record, state)?;
    }
    unit.set_clock(clock.as_millis() as u64);
    let groups = spec.access.iter().map(|access| access.group).collect();
    Ok(Unit { unit, description: opened.description, queues: spec.queues.clone(), groups })
}

/// Lets a unit keep its state. One whose state cannot be used is served, but not ready.
fn keep(unit: &LogicalUnit, at: Address, record: &Record, state: &StateDir) -> Result<()> {
    let keeper = UnitState::open(state, record.naa).with_context(|| at.to_string())?;
    let path = keeper.path();
    if let Err(error) = unit.keep_state(Arc::new(keeper)) {
        tracing::error!(
            "{at} is not ready: {error}. Restore {path}, or move it away to give up the reservations and all else that \
             the unit has saved, and start lunette again",
            path = path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(units: &[(u8, Option<u32>)]) -> Result<Vec<(u8, u32)>> {
        let new = || UnitSpec::new(StoreSpec::Ram(1 << 20));
        let specs: Vec<_> = units.iter().map(|&(target, lun)| UnitSpec { target, lun, ..new() }).collect();
        Ok(number(&specs)?.into_iter().map(|at| (at.target, at.lun)).collect())
    }

    #[test]
    fn units_are_numbered_from_zero_around_the_given_numbers() {
        assert_eq!(numbers(&[(0, None), (0, None)]).unwrap(), [(0, 0), (0, 1)]);
        let mixed = [(0, None), (0, Some(0)), (3, None), (0, None), (0, Some(2)), (3, Some(2)), (3, None)];
        let expected = [(0, 1), (0, 0), (3, 0), (0, 3), (0, 2), (3, 2), (3, 1)];
        assert_eq!(numbers(&mixed).unwrap(), expected);
        assert!(numbers(&[(1, Some(1)), (1, Some(1))]).is_err());
        let full = [(7, None); MAX_LUNS as usize + 1];
        assert_eq!(numbers(&full[1..]).unwrap().last(), Some(&(7, 16383)));
        assert!(numbers(&full).is_err());
    }

    #[test]
    fn a_unit_whose_state_is_damaged_is_not_ready() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let spec = UnitSpec { name: Some("x".into()), ..UnitSpec::new(StoreSpec::Ram(1 << 20)) };
        let ready = |state| {
            let units = open(std::slice::from_ref(&spec), state).unwrap();
            units.values().all(|unit| unit.unit.ready().is_ok())
        };
        assert!(ready(&state));
        let naa = state.identities(&[key(&spec).unwrap()]).unwrap()[0].naa;
        let path = UnitState::open(&state, naa).unwrap().path();
        std::fs::write(&path, "lunette unit state, version 1, 2 bytes, CRC-32C 00000000\n{}").unwrap();
        assert!(!ready(&state));
        std::fs::remove_file(&path).unwrap();
        assert!(ready(&state), "the operator has given it up");
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
