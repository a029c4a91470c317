//! The units of tgt's targets.

use super::tgt::find;
use super::tgt_file::Directive;
use super::{Import, naa_of_tgt};
use crate::config::iscsi::Luns;
use crate::config::unit::{BlockLength, Unit, Version};
use crate::config::values::{Lun, StoreSpec};
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

/// What the keys of a target have to say of each of its units that does not say it itself.
pub(super) const OF_UNITS: [&str; 22] = [
    "write-cache",
    "scsi_id",
    "scsi_sn",
    "vendor_id",
    "product_id",
    "product_rev",
    "sense_format",
    "removable",
    "online",
    "path",
    "readonly",
    "device-type",
    "bs-type",
    "bsopts",
    "bsoflags",
    "block-size",
    "mode_page",
    "params",
    "lbppbe",
    "la_lba",
    "optimal_xfer_gran",
    "optimal_xfer_len",
];

/// The units of a target, at their logical unit numbers: those that are said, and the lowest free ones from 1 on in the order of
/// the names. LUN 0 is tgt's own.
pub(super) fn units(tid: u32, block: &[&Directive], import: &mut Import) -> Luns {
    let is_store =
        |directive: &&Directive| matches!(directive.key.as_str(), "backing-store" | "direct-store");
    let mut stores: Vec<&Directive> = block.iter().copied().filter(is_store).collect();
    stores.sort_by_key(|store| (store.key != "backing-store", store.value.clone()));
    // Looked for once: there may be thousands of units.
    let of_all: Vec<&Directive> =
        block.iter().copied().filter(|said| OF_UNITS.contains(&said.key.as_str())).collect();
    let lun_of_all = find(block, "lun");
    let lun = |store: &Directive| {
        let inner: Vec<&Directive> = store.block.iter().flatten().collect();
        let said = lun_of_all.or(find(&inner, "lun")).map(|said| said.value.clone());
        said.and_then(|said| said.parse::<Lun>().ok())
    };
    let mut taken: BTreeSet<u32> = stores.iter().filter_map(|store| lun(store)).map(|lun| lun.0).collect();
    let mut luns = Luns::new();
    let mut lowest = 1;
    for store in stores {
        let number = lun(store).map_or_else(
            || {
                while taken.contains(&lowest) {
                    lowest += 1;
                }
                lowest
            },
            |lun| lun.0,
        );
        taken.insert(number);
        let Some(unit) = unit(tid, number, &of_all, store, import) else { continue };
        let Entry::Vacant(place) = luns.entry(Lun(number)) else {
            import.lose(&store.place, format!("LUN {number} is taken already"));
            continue;
        };
        if let Some(name) = import.add_unit(unit, &store.value, &store.place) {
            place.insert(name);
        }
    }
    luns
}

fn unit(
    tid: u32,
    lun: u32,
    of_target: &[&Directive],
    store: &Directive,
    import: &mut Import,
) -> Option<Unit> {
    let place = &store.place;
    let spec = match store.value.parse::<StoreSpec>() {
        Ok(spec @ StoreSpec::Path(_)) => spec,
        Ok(StoreSpec::Ram(_)) => format!("./{}", store.value).parse().ok()?,
        Err(why) => {
            import.lose(place, why);
            return None;
        }
    };
    // What every unit of tgt has, until something else is said.
    let mut making = Making {
        unit: Unit { version: Version::Spc3, ..Unit::new(spec) },
        scsi_id: format!("IET     {tid:04x}{lun:04x}"),
        is_told: false,
    };
    making.unit.serial = format!("beaf{tid}{lun}").parse().ok();
    let inner: Vec<&Directive> = store.block.iter().flatten().collect();
    let is_shared = |directive: &&Directive| {
        let key = directive.key.as_str();
        matches!(key, "mode_page" | "params") || find(&inner, key).is_none()
    };
    let shared = of_target.iter().copied().filter(is_shared);
    for Directive { key, value, place, .. } in shared.chain(inner.iter().copied()) {
        if let Err(why) = making.apply(key, value, place, import) {
            import.lose(place, format!("the unit {} is left out: {why}", store.value));
            return None;
        }
    }
    if store.key != "backing-store" {
        import.lose(
            place,
            "the names and the serial number of the device itself are not taken over: say `serial`",
        );
    }
    let Making { mut unit, scsi_id, is_told } = making;
    unit.wwn = naa_of_tgt(&scsi_id);
    match unit.wwn {
        None => import.lose(place, "scsi_id is too long for a world-wide name, so the unit gets a new one"),
        Some(wwn) if !is_told => import.lose(
            place,
            format!("the identity follows from the target's number, {tid} by the order of names: compare {wwn} with what initiators see"),
        ),
        Some(_) => {}
    }
    Some(unit)
}

/// A unit of which not everything is known yet.
struct Making {
    unit: Unit,
    scsi_id: String,
    /// The SCSI identifier is not the one that follows from numbers.
    is_told: bool,
}

impl Making {
    /// What one key says. An error is why there is no such unit here.
    fn apply(&mut self, key: &str, value: &str, place: &str, import: &mut Import) -> Result<(), String> {
        let Self { unit, scsi_id, is_told } = self;
        let is_on =
            matches!(value, "yes" | "on" | "true") || value.parse::<i64>().is_ok_and(|value| value != 0);
        match key {
            "scsi_id" => {
                *scsi_id = value.to_owned();
                *is_told = true;
            }
            "scsi_sn" => match value.parse() {
                Ok(serial) => unit.serial = Some(serial),
                Err(why) => import.lose(place, format!("scsi_sn: {why}")),
            },
            "readonly" => unit.read_only = is_on,
            "removable" => unit.removable = is_on,
            "rotation_rate" => unit.rotational = (value != "0").then_some(value != "1"),
            "block-size" if value == "512" => {}
            "block-size" if value == "4096" => unit.block = BlockLength(4096),
            "bsoflags" => {
                for flag in value.split(':').map(str::trim) {
                    match flag {
                        "direct" => unit.direct = true,
                        flag => import.lose(place, format!("bsoflags: there is no `{flag}` here")),
                    }
                }
            }
            "device-type" if value == "disk" => {}
            "bs-type" if matches!(value, "rdwr" | "aio" | "mmap") => {}
            "device-type" | "bs-type" | "block-size" => return Err(format!("there is no {key} `{value}`")),
            "online" if !is_on => return Err("it is offline".to_owned()),
            "path" => return Err(format!("it goes on with {value} (`path`)")),
            "write-cache" if is_on => {}
            "write-cache" => import
                .lose(place, "the write cache cannot be turned off here; initiators can, by mode page 08h"),
            "vendor_id" | "product_id" | "product_rev" => {
                import.lose(place, format!("`{key}`: INQUIRY names lunette"));
            }
            "params" => {
                for part in value.split(',').filter(|part| !part.is_empty()) {
                    let (key, value) = part.split_once('=').unwrap_or((part, ""));
                    // It would be the same again.
                    let key = if key == "params" { "params=" } else { key };
                    self.apply(key.trim(), value.trim().trim_matches('"'), place, import)?;
                }
            }
            "lun" | "allow-in-use" | "thin_provisioning" | "online" => {}
            "sense_format" if !is_on => {}
            key => import.lose(place, format!("`{key}` has nothing that is like it")),
        }
        Ok(())
    }
}
