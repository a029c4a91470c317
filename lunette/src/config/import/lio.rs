//! LIO: what targetcli keeps in `saveconfig.json`.

use super::{Import, is_usual, naa_of_lio, nothing_like, set_parameter, whole_name};
use crate::config::iscsi::{Access, Chap, Luns, PortGroup, Portal, Target};
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
        let name = unit(object, &place, import);
        if let Some(name) = name.and_then(|unit| import.add_unit(unit, word(object, "name"), &place)) {
            objects.insert(format!("/backstores/{}/{}", word(object, "plugin"), word(object, "name")), name);
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
    Some(unit)
}

/// What a unit may have besides.
const OF_UNITS: [&str; 10] =
    ["name", "plugin", "dev", "size", "wwn", "write_back", "readonly", "attributes", "alua_tpgs", "aio"];

/// Attributes of units without which nothing is missing: limits and hints that are others here, and what is there in any case.
const HARMLESS: [&str; 25] = [
    "alua_support",
    "block_size",
    "emulate_dpo",
    "emulate_fua_read",
    "emulate_fua_write",
    "emulate_model_alias",
    "emulate_rsoc",
    "emulate_tas",
    "emulate_tpu",
    "emulate_tpws",
    "hw_block_size",
    "hw_max_sectors",
    "hw_pi_prot_type",
    "hw_queue_depth",
    "is_nonrot",
    "max_unmap_block_desc_count",
    "max_unmap_lba_count",
    "max_write_same_len",
    "optimal_sectors",
    "pi_prot_verify",
    "queue_depth",
    "submit_type",
    "unmap_granularity",
    "unmap_granularity_alignment",
    "unmap_zeroes_data",
];

/// What cannot be said of a unit here.
fn told_attributes(object: &Value, place: &str, import: &mut Import) {
    if object["write_back"].as_bool() == Some(false) && word(object, "plugin") == "fileio" {
        import.lose(
            place,
            "write_back: the write cache cannot be turned off here; initiators can, by mode page 08h",
        );
    }
    for key in object.as_object().into_iter().flat_map(|object| object.keys()) {
        if !OF_UNITS.contains(&key.as_str()) && !object[key].is_null() && object[key].as_bool() != Some(false)
        {
            import.lose(place, format!("`{key}` has nothing that is like it"));
        }
    }
    // Block devices mean their own cache, and what is not written back has been told.
    let has_own_cache = word(object, "plugin") == "block" || object["write_back"].as_bool() == Some(false);
    told_others(&object["attributes"], &HARMLESS, place, import, |key| match key {
        "emulate_write_cache" if has_own_cache => Some(0),
        "pi_prot_type"
        | "pi_prot_format"
        | "emulate_rest_reord"
        | "emulate_ua_intlck_ctrl"
        | "force_pr_aptpl" => Some(0),
        "emulate_pr"
        | "emulate_caw"
        | "emulate_3pc"
        | "emulate_write_cache"
        | "enforce_pr_isids"
        | "pgr_support" => Some(1),
        _ => None,
    });
    if list(object, "alua_tpgs").iter().any(|group| word(group, "name") != "default_tg_pt_gp") {
        import.lose(place, "target port groups of its own: see `access` and docs/target-port-groups.md");
    }
    let vendor = word(object, "vendor_id");
    if !vendor.is_empty() && vendor != "LIO-ORG" {
        import.lose(place, "`vendor_id`: INQUIRY names lunette");
    }
}

/// Tells the attributes that are neither harmless nor as they are here.
fn told_others(
    attributes: &Value,
    harmless: &[&str],
    place: &str,
    import: &mut Import,
    usual: impl Fn(&str) -> Option<i64>,
) {
    for (key, value) in attributes.as_object().into_iter().flatten() {
        match usual(key) {
            _ if harmless.contains(&key.as_str()) => {}
            Some(usual) if number(value) == Some(usual) => {}
            Some(_) => import.lose(place, format!("`{key}` cannot be {value} here")),
            None => import.lose(place, format!("`{key}` has nothing that is like it")),
        }
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
            // Whether there is a proof is an attribute.
            "TargetAlias" | "AuthMethod" => {}
            key if is_usual(key, value) || set_parameter(&mut target.parameters, key, value) => {}
            key => import.lose(&place, nothing_like(key, value)),
        }
    }
    told_others(&group["attributes"], &OF_GROUPS, &place, import, |key| match key {
        "default_erl" | "fabric_prot_type" | "t10_pi" => Some(0),
        "demo_mode_discovery" | "tpg_enabled_sendtargets" => Some(1),
        _ => None,
    });
    let tag = number(&group["tag"])
        .and_then(|tag| u16::try_from(tag).ok())
        .filter(|tag| (1..u16::MAX).contains(tag));
    let tag = PortGroup(tag.unwrap_or(1));
    target.groups.insert(tag);
    portals(group, &place, tag, import);
    import.document.targets.push(target);
}

/// Attributes of portal groups that are in `access`, or without which nothing is missing.
const OF_GROUPS: [&str; 9] = [
    "authentication",
    "generate_node_acls",
    "demo_mode_write_protect",
    // It is what mapped units get that say nothing of it themselves.
    "prod_mode_write_protect",
    "cache_dynamic_acls",
    "default_cmdsn_depth",
    "login_keys_workaround",
    "login_timeout",
    "netif_timeout",
];

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
    let mut shut_out = Vec::new();
    for (index, acl) in list(group, "node_acls").iter().enumerate() {
        let place = format!("{place}.node_acls[{index}]");
        let pattern = match whole_name(word(acl, "node_wwn")) {
            Ok(pattern) => pattern,
            Err(why) => {
                import.lose(place, why);
                continue;
            }
        };
        let proves = match number(&acl["attributes"]["authentication"]) {
            Some(own @ 0..) => own != 0,
            _ => proves,
        };
        // The secrets of the group are for those without rules of their own.
        let chap = if proves { chap(acl, &place, import) } else { None };
        if proves && chap.is_none() {
            import
                .lose(place, format!("{pattern} is left out: it has to prove who it is, and has no secret"));
            shut_out.push(pattern);
            continue;
        }
        let units = Some(mapped(acl, &place, luns, import));
        rules.push(Access { initiators: vec![pattern], units, chap, ..Access::default() });
    }
    if is_true(&attributes["generate_node_acls"]) {
        let others = match (writes(attributes), proves.then(|| chap(group, place, import))) {
            (false, _) => Err(
                "others may only read (demo_mode_write_protect); nobody can be kept from writing alone, so they are not let in",
            ),
            (true, Some(None)) => Err("others would have to prove who they are, and have no secret"),
            (true, Some(chap)) => Ok(Access { chap, ..Access::default() }),
            (true, None) => Ok(Access::default()),
        };
        match others {
            Err(why) => import.lose(place, why),
            Ok(others) if rules.is_empty() && shut_out.is_empty() && others.chap.is_none() => {}
            Ok(others) => {
                // They must not come in among the others.
                if !shut_out.is_empty() {
                    rules.push(Access {
                        initiators: shut_out,
                        units: Some(Luns::new()),
                        ..Access::default()
                    });
                }
                rules.push(others);
            }
        }
    }
    rules
}

fn chap(of: &Value, place: &str, import: &mut Import) -> Option<Chap> {
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
