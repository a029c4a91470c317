//! tgt: what its `targets.conf` means to tgt-admin(8).

use super::tgt_file::{self, Directive};
use super::{Import, naa_of_tgt, set_parameter};
use crate::config::iscsi::{Access, Luns, Portal, Target};
use crate::config::unit::{BlockLength, Unit, Version};
use crate::config::values::{Lun, StoreSpec};
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What the keys of a target have to say of each of its units as well.
const OF_UNITS: [&str; 17] = [
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
    "bsoflags",
    "block-size",
    "mode_page",
    "params",
];

/// Keys without which nothing is missing.
const HARMLESS: [&str; 6] =
    ["allow-in-use", "online", "sense_format", "ignore-errors", "controller_tid", "driver"];

pub(super) fn import(path: &Path, text: &str, import: &mut Import) -> Result<()> {
    let directives = tgt_file::parse(path, text)?;
    let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
    let mut targets: BTreeMap<&str, Vec<&Directive>> = BTreeMap::new();
    for directive in &directives {
        let Directive { key, value, place, block } = directive;
        match (key.to_ascii_lowercase().as_str(), block) {
            ("target", Some(block)) => targets.entry(value).or_default().extend(block),
            ("incomingdiscoveryuser", None) => incoming.extend(user(value)),
            ("outgoingdiscoveryuser", None) => outgoing.extend(user(value)),
            ("default-driver", None) if value == "iscsi" => {}
            ("control-port", None) => {}
            (key, _) if HARMLESS.contains(&key) => {}
            (key, _) => import.lose(place, format!("`{key}` has nothing that is like it")),
        }
    }
    import.document.discovery.chap = import.chap(&incoming, outgoing.first(), "discovery");
    // Without other orders targets are numbered in the order of their names.
    let mut next = 1;
    for (name, block) in targets {
        let given = find(&block, "controller_tid").and_then(|given| given.value.parse().ok());
        let tid: u32 = given.unwrap_or(next);
        next = tid.saturating_add(1);
        target(name, tid, &block, import);
    }
    if !import.document.targets.is_empty() {
        import.document.portals.push(Portal {
            listen: "0.0.0.0:3260".parse().map_err(anyhow::Error::msg)?,
            group: Default::default(),
            advertise: Vec::new(),
        });
        import.lose("portals", "tgtd listens on all addresses, also of IPv6, unless its own options say otherwise: see [[portal]]");
    }
    Ok(())
}

fn find<'a>(block: &[&'a Directive], key: &str) -> Option<&'a Directive> {
    block.iter().find(|directive| directive.key.eq_ignore_ascii_case(key)).copied()
}

/// A name and a secret.
fn user(value: &str) -> Option<(String, String)> {
    let mut words = value.split_whitespace();
    Some((words.next()?.to_owned(), words.next()?.to_owned()))
}

fn target(name: &str, tid: u32, block: &[&Directive], import: &mut Import) {
    let place = || block.first().map_or_else(|| name.to_owned(), |first| first.place.clone());
    let Ok(iscsi_name) = name.parse() else {
        return import.lose(place(), format!("`{name}` is not an iSCSI name"));
    };
    let mut target = Target::new(iscsi_name);
    let mut rule = Access::default();
    let (mut incoming, mut outgoing, mut stores) = (Vec::new(), Vec::new(), Vec::new());
    // What says who is let in, and has not carried over.
    let (mut lost_user, mut lost_address, mut lost_name) = (false, false, false);
    for directive in block {
        let Directive { key, value, place, .. } = directive;
        let lower = key.to_ascii_lowercase();
        match lower.as_str() {
            "backing-store" | "direct-store" => stores.push(*directive),
            "incominguser" => match user(value) {
                Some(user) => incoming.push(user),
                None => {
                    lost_user = true;
                    import.lose(place, "incominguser has a name and a secret");
                }
            },
            "outgoinguser" => outgoing.extend(user(value)),
            "initiator-address" if value == "ALL" => {}
            "initiator-address" => match value.parse() {
                Ok(network) => rule.addresses.push(network),
                Err(why) => {
                    lost_address = true;
                    import.lose(place, format!("initiator-address: {why}"));
                }
            },
            "initiator-name" => match value.parse() {
                Ok(name) => rule.initiators.push(name),
                Err(why) => {
                    lost_name = true;
                    import.lose(place, format!("initiator-name: {why}"));
                }
            },
            "driver" if value != "iscsi" => {
                import.lose(place, format!("the driver `{value}` is not there; iSCSI is"))
            }
            "lun" => {}
            other if OF_UNITS.contains(&other) || HARMLESS.contains(&other) => {}
            _ if set_parameter(&mut target.parameters, key, value) => {}
            _ => import.lose(place, format!("`{key}` has nothing that is like it, or not with `{value}`")),
        }
    }
    rule.chap = import.chap(&incoming, outgoing.first(), &place());
    let lets_all_in = rule.initiators.is_empty() && rule.addresses.is_empty() && rule.chap.is_none();
    if lost_user && rule.chap.is_none()
        || lost_address && rule.addresses.is_empty()
        || lost_name && rule.initiators.is_empty()
    {
        return import
            .lose(place(), format!("the target {name} is left out: more would be let in than before"));
    }
    if !lets_all_in {
        target.access.push(rule);
    }
    target.units = Some(units(tid, block, &mut stores, import));
    import.document.targets.push(target);
}

/// The units of a target, at their logical unit numbers: those that are said, and the lowest free ones from 1 on in the order of
/// the names. LUN 0 is tgt's own.
fn units(tid: u32, block: &[&Directive], stores: &mut [&Directive], import: &mut Import) -> Luns {
    stores.sort_by_key(|store| (!store.key.eq_ignore_ascii_case("backing-store"), store.value.clone()));
    let lun = |store: &Directive| {
        let inner: Vec<&Directive> = store.block.iter().flatten().collect();
        let said = find(&inner, "lun").or(find(block, "lun")).map(|said| said.value.clone());
        said.and_then(|said| said.parse::<Lun>().ok())
    };
    let mut taken: BTreeSet<u32> = stores.iter().filter_map(|store| lun(store)).map(|lun| lun.0).collect();
    let mut luns = Luns::new();
    for store in stores.iter() {
        let number =
            lun(store).map_or_else(|| (1..).find(|number| !taken.contains(number)).unwrap_or(1), |lun| lun.0);
        taken.insert(number);
        let Some(unit) = unit(tid, number, block, store, import) else { continue };
        if luns.contains_key(&Lun(number)) {
            import.lose(&store.place, format!("LUN {number} is taken already"));
            continue;
        }
        luns.insert(Lun(number), unit.name.clone());
        import.document.units.push(unit);
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
    let mut unit = Unit { version: Version::Spc3, ..Unit::new(spec) };
    let mut scsi_id = format!("IET     {tid:04x}{lun:04x}");
    unit.serial = format!("beaf{tid}{lun}").parse().ok();
    let mut is_told = false;
    let inner = store.block.iter().flatten();
    let shared = of_target.iter().copied().filter(|directive| OF_UNITS.contains(&directive.key.as_str()));
    for Directive { key, value, place, .. } in shared.chain(inner) {
        let is_on = matches!(value.as_str(), "1" | "yes" | "on" | "true");
        match key.as_str() {
            "scsi_id" => {
                scsi_id.clone_from(value);
                is_told = true;
            }
            "scsi_sn" => match value.parse() {
                Ok(serial) => unit.serial = Some(serial),
                Err(why) => import.lose(place, format!("scsi_sn: {why}")),
            },
            "readonly" => unit.read_only = is_on,
            "removable" => unit.removable = is_on,
            "block-size" if value == "512" => {}
            "block-size" if value == "4096" => unit.block = BlockLength(4096),
            "bsoflags" if value == "direct" => unit.direct = true,
            "device-type" if value == "disk" => {}
            "bs-type" if matches!(value.as_str(), "rdwr" | "aio" | "mmap") => {}
            "write-cache" if is_on => {}
            "device-type" | "bs-type" | "block-size" => {
                import.lose(
                    place,
                    format!("the unit {} is left out: there is no {key} `{value}`", store.value),
                );
                return None;
            }
            "write-cache" => import
                .lose(place, "the write cache cannot be turned off here; initiators can, by mode page 08h"),
            "vendor_id" | "product_id" | "product_rev" => {
                import.lose(place, format!("`{key}`: INQUIRY names lunette"));
            }
            "lun" => {}
            key if HARMLESS.contains(&key) => {}
            key => import.lose(place, format!("`{key}` has nothing that is like it")),
        }
    }
    if store.key.eq_ignore_ascii_case("direct-store") {
        import.lose(
            place,
            "the names and the serial number of the device itself are not taken over: say `serial`",
        );
    }
    unit.wwn = naa_of_tgt(&scsi_id);
    match unit.wwn {
        None => import.lose(place, "scsi_id is too long for a world-wide name, so the unit gets a new one"),
        Some(wwn) if !is_told => import.lose(
            place,
            format!("the identity follows from the target's number, {tid} by the order of names: compare {wwn} with what initiators see"),
        ),
        Some(_) => {}
    }
    unit.name = import.name(&store.value);
    Some(unit)
}
