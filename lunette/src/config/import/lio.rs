//! LIO: what targetcli keeps in `saveconfig.json`.

use super::{Import, naa_of_lio, set_parameter};
use crate::config::iscsi::{Access, Luns, PortGroup, Portal, Target};
use crate::config::unit::{BlockLength, Unit};
use crate::config::values::{Bytes, Lun, Name, StoreSpec, Text};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// The units by the paths of their storage objects.
type Objects = BTreeMap<String, Name>;

pub(super) fn import(text: &str, import: &mut Import) -> Result<()> {
    let all: Value = serde_json::from_str(text).context("it is no JSON that can be used")?;
    let mut objects = Objects::new();
    for (index, object) in list(&all, "storage_objects").iter().enumerate() {
        let place = format!("storage_objects[{index}]");
        if let Some(unit) = unit(object, &place, import) {
            let path = format!("/backstores/{}/{}", word(object, "plugin"), word(object, "name"));
            objects.insert(path, unit.name.clone());
            import.document.units.push(unit);
        }
    }
    for (index, fabric) in list(&all, "fabric_modules").iter().enumerate() {
        if word(fabric, "name") == "iscsi" && is_true(&fabric["discovery_enable_auth"]) {
            let accounts = account(fabric, "discovery_userid", "discovery_password");
            let own = account(fabric, "discovery_mutual_userid", "discovery_mutual_password");
            let place = format!("fabric_modules[{index}]");
            import.document.discovery.chap = import.chap(&Vec::from_iter(accounts), own.as_ref(), &place);
        }
    }
    for (index, wanted) in list(&all, "targets").iter().enumerate() {
        target(wanted, &format!("targets[{index}]"), &objects, import);
    }
    Ok(())
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Switches are numbers, or texts of them, or booleans.
fn is_true(value: &Value) -> bool {
    value.as_bool().unwrap_or_default() || number(value).is_some_and(|number| number != 0)
}

fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// A name and a secret, if both are there.
fn account(value: &Value, name: &str, secret: &str) -> Option<(String, String)> {
    let (name, secret) = (word(value, name), word(value, secret));
    (!name.is_empty() && !secret.is_empty()).then(|| (name.to_owned(), secret.to_owned()))
}

fn unit(object: &Value, place: &str, import: &mut Import) -> Option<Unit> {
    let (plugin, name) = (word(object, "plugin"), word(object, "name"));
    let bytes = object["size"].as_u64().filter(|bytes| *bytes > 0);
    let store = match plugin {
        "fileio" | "block" => word(object, "dev").parse().and_then(|store| match store {
            StoreSpec::Path(_) => Ok(store),
            StoreSpec::Ram(_) => Err("it is not a path".to_owned()),
        }),
        "ramdisk" => bytes.map(StoreSpec::Ram).ok_or_else(|| "it has no size".to_owned()),
        other => Err(format!("there is nothing like the storage object type `{other}`")),
    };
    let store = match store {
        Ok(store) => store,
        Err(why) => {
            import.lose(place, format!("the unit {name} is left out: {why}"));
            return None;
        }
    };
    let mut unit = Unit::new(store);
    if plugin == "fileio" {
        unit.size = bytes.map(Bytes);
    }
    let attributes = &object["attributes"];
    match number(&attributes["block_size"]).unwrap_or(512) {
        512 => {}
        4096 => unit.block = BlockLength(4096),
        other => {
            import.lose(
                place,
                format!("the unit {name} is left out: blocks have 512 or 4096 bytes, not {other}"),
            );
            return None;
        }
    }
    if let Err((_, why)) = unit.check() {
        import.lose(place, format!("the unit {name} is left out: {why}"));
        return None;
    }
    unit.read_only = is_true(&object["readonly"]);
    unit.rotational =
        number(&attributes["is_nonrot"]).filter(|_| plugin != "block").map(|nonrot| nonrot == 0);
    told_attributes(object, place, import);
    let serial = word(object, "wwn");
    unit.wwn = naa_of_lio(serial).filter(|_| !serial.is_empty());
    match serial.parse() {
        Ok(serial) => unit.serial = Some(serial),
        Err(why) => import.lose(place, format!("the unit gets a new serial number: {why}")),
    }
    unit.name = import.name(name);
    Some(unit)
}

/// What cannot be said of a unit here.
fn told_attributes(object: &Value, place: &str, import: &mut Import) {
    if object["write_back"].as_bool() == Some(false) && word(object, "plugin") == "fileio" {
        import.lose(
            place,
            "write_back: the write cache cannot be turned off here; initiators can, by mode page 08h",
        );
    }
    let attributes = &object["attributes"];
    for (key, usual) in [
        ("pi_prot_type", 0),
        ("emulate_pr", 1),
        ("emulate_caw", 1),
        ("emulate_3pc", 1),
        ("emulate_write_cache", 1),
    ] {
        // Block devices say 0 of the cache, and mean their own.
        let is_own = key == "emulate_write_cache" && word(object, "plugin") == "block";
        if let Some(other) = number(&attributes[key]).filter(|value| *value != usual && !is_own) {
            import.lose(place, format!("`{key}` cannot be {other} here"));
        }
    }
    if list(object, "alua_tpgs").iter().any(|group| word(group, "name") != "default_tg_pt_gp") {
        import.lose(place, "target port groups of its own: see `access` and docs/target-port-groups.md");
    }
    let vendor = word(object, "vendor_id");
    if !vendor.is_empty() && vendor != "LIO-ORG" {
        import.lose(place, "`vendor_id`: INQUIRY names lunette");
    }
}

fn target(wanted: &Value, place: &str, objects: &Objects, import: &mut Import) {
    let (fabric, name) = (word(wanted, "fabric"), word(wanted, "wwn"));
    if fabric != "iscsi" {
        return import.lose(place, format!("the target {name} is left out: there is no fabric `{fabric}`"));
    }
    let Ok(iscsi_name) = name.parse() else {
        return import.lose(place, format!("`{name}` is not an iSCSI name"));
    };
    let mut target = Target::new(iscsi_name);
    let mut enabled =
        list(wanted, "tpgs").iter().enumerate().filter(|(_, group)| group["enable"].as_bool() != Some(false));
    let Some((index, group)) = enabled.next() else {
        return import
            .lose(place, format!("the target {name} is left out: it has no portal group that is enabled"));
    };
    for (other, _) in enabled {
        import.lose(
            format!("{place}.tpgs[{other}]"),
            "further portal groups are left out: here all show the same units",
        );
    }
    let place = format!("{place}.tpgs[{index}]");
    let luns = luns(group, &place, objects, import);
    let rules = rules(group, &place, &luns, import);
    if rules.is_empty() && !is_open(group) {
        return import.lose(place, format!("the target {name} is left out: nobody may log in to it"));
    }
    target.access = rules;
    target.units = Some(luns);
    for (key, value) in group["parameters"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        match key.as_str() {
            "TargetAlias"
                if value != "LIO Target" && value.len() < 256 && !value.contains(char::is_control) =>
            {
                target.alias = value.to_owned();
            }
            key => drop(set_parameter(&mut target.parameters, key, value)),
        }
    }
    let tag = number(&group["tag"])
        .and_then(|tag| u16::try_from(tag).ok())
        .filter(|tag| (1..u16::MAX).contains(tag));
    let tag = PortGroup(tag.unwrap_or(1));
    target.groups.insert(tag);
    portals(group, &place, tag, import);
    import.document.targets.push(target);
}

/// Whether everyone may log in, without a proof, and write.
fn is_open(group: &Value) -> bool {
    let attributes = &group["attributes"];
    is_true(&attributes["generate_node_acls"])
        && !is_true(&attributes["authentication"])
        && writes(attributes)
}

/// Whether those without rules of their own may write.
fn writes(attributes: &Value) -> bool {
    number(&attributes["demo_mode_write_protect"]) == Some(0)
}

fn luns(group: &Value, place: &str, objects: &Objects, import: &mut Import) -> Luns {
    let mut luns = Luns::new();
    for (index, lun) in list(group, "luns").iter().enumerate() {
        let (object, number) = (word(lun, "storage_object"), number(&lun["index"]));
        let number = number.and_then(|number| number.to_string().parse::<Lun>().ok());
        match (number, objects.get(object)) {
            (Some(number), Some(name)) => drop(luns.insert(number, name.clone())),
            _ => import.lose(
                format!("{place}.luns[{index}]"),
                format!("it shows {object}, which has not carried over"),
            ),
        }
    }
    luns
}

/// Who is let in: each initiator by a rule of its own, and in the end all others, if they may do what they will be able to.
fn rules(group: &Value, place: &str, luns: &Luns, import: &mut Import) -> Vec<Access> {
    let attributes = &group["attributes"];
    let proves = is_true(&attributes["authentication"]);
    let mut rules = Vec::new();
    for (index, acl) in list(group, "node_acls").iter().enumerate() {
        let place = format!("{place}.node_acls[{index}]");
        let initiator = word(acl, "node_wwn");
        let Ok(pattern) = initiator.parse() else {
            import.lose(place, format!("`{initiator}` is not the name of an initiator"));
            continue;
        };
        let chap = match proves {
            true => chap(acl, &place, import).or_else(|| chap(group, &place, import)),
            false => None,
        };
        if proves && chap.is_none() {
            import.lose(
                place,
                format!("{initiator} is left out: it has to prove who it is, and has no secret"),
            );
            continue;
        }
        let units = Some(mapped(acl, &place, luns, import));
        rules.push(Access { initiators: vec![pattern], units, chap, ..Access::default() });
    }
    if is_true(&attributes["generate_node_acls"]) {
        match (writes(attributes), proves.then(|| chap(group, place, import))) {
            (false, _) => import.lose(
                place,
                "others may only read (demo_mode_write_protect); nobody can be kept from writing alone, so they are not let in",
            ),
            (true, Some(None)) => import.lose(place, "others would have to prove who they are, and have no secret"),
            (true, Some(chap)) => rules.push(Access { chap, ..Access::default() }),
            (true, None) if rules.is_empty() => {}
            (true, None) => rules.push(Access::default()),
        }
    }
    rules
}

fn chap(of: &Value, place: &str, import: &mut Import) -> Option<crate::config::iscsi::Chap> {
    let account_of_initiator = account(of, "chap_userid", "chap_password")?;
    let own = account(of, "chap_mutual_userid", "chap_mutual_password");
    import.chap(&[account_of_initiator], own.as_ref(), place)
}

/// Whether a unit can be written to.
fn writable(name: &Name, import: &Import) -> bool {
    import.document.units.iter().any(|unit| unit.name == *name && !unit.read_only)
}

/// What an initiator sees.
fn mapped(acl: &Value, place: &str, luns: &Luns, import: &mut Import) -> Luns {
    let mut seen = Luns::new();
    let lun = |value: &Value| number(value).and_then(|number| number.to_string().parse::<Lun>().ok());
    for (index, mapped) in list(acl, "mapped_luns").iter().enumerate() {
        let place = format!("{place}.mapped_luns[{index}]");
        let unit = lun(&mapped["tpg_lun"]).and_then(|of| luns.get(&of));
        match (lun(&mapped["index"]), unit) {
            (Some(_), Some(unit)) if is_true(&mapped["write_protect"]) && writable(unit, import) => import
                .lose(
                    place,
                    format!(
                        "the unit {unit} is not shown to it: one initiator alone cannot be kept from writing"
                    ),
                ),
            (Some(number), Some(unit)) => drop(seen.insert(number, unit.clone())),
            _ => import.lose(place, "it maps a unit that has not carried over"),
        }
    }
    seen
}

fn portals(group: &Value, place: &str, tag: PortGroup, import: &mut Import) {
    for (index, portal) in list(group, "portals").iter().enumerate() {
        let place = format!("{place}.portals[{index}]");
        let address = word(portal, "ip_address").trim_matches(['[', ']']).parse::<IpAddr>();
        let port = number(&portal["port"]).and_then(|port| u16::try_from(port).ok());
        let (Ok(address), Some(port)) = (address, port) else {
            import.lose(place, "it has no address and port");
            continue;
        };
        if is_true(&portal["iser"]) || is_true(&portal["offload"]) {
            import.lose(&place, "iSER and offload are not there; it is served by TCP");
        }
        let listen = SocketAddr::new(address, port);
        match import.document.portals.iter().find(|other| other.listen.0 == listen) {
            Some(other) if other.group == tag => {}
            Some(_) => import.lose(
                place,
                format!("{listen} belongs to another portal group already: here it has one for all targets"),
            ),
            None => import.document.portals.push(Portal {
                listen: Text(listen),
                group: tag,
                advertise: Vec::new(),
            }),
        }
    }
}
