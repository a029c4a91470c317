//! The methods of the control socket.

mod saving;

use super::*;
use crate::running::tests::Rig;
use lunette_control::{CODES, Ticket};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};

/// Asks for something; what comes of it is received later.
fn ask(plane: &Arc<Plane>, method: &str, params: Value) -> Receiver<Result<Value, Failure>> {
    let (tell, told) = channel();
    let ticket = Ticket::new(move |result| _ = tell.send(result));
    plane.call_own(method, params.as_object().cloned().unwrap_or_default(), ticket);
    told
}

#[test]
fn many_who_create_at_once_get_one_object_of_each_name() {
    let portal = "[[portal]]\nlisten = \"127.0.0.1:0\"\n";
    let rig = Rig::new(&format!("{portal}[[target]]\nname = \"iqn.2026-11.org.example:a\"\nunits = {{}}\n"));
    let plane = plane(Daemon::new(rig.running, rig.feed.events(), Heir::new(|| ())), &rig.feed);
    let create = |client: usize| {
        let plane = plane.clone();
        std::thread::spawn(move || {
            let mut done = Vec::new();
            for unit in 0..4 {
                // The first is everybody's.
                let name = if unit == 0 { "all".to_owned() } else { format!("{client}-{unit}") };
                let unit = json!({ "name": name, "store": "ram:1M" });
                let created = ask(&plane, "unit.create", unit).recv().unwrap().unwrap();
                let place = json!({ "name": "iqn.2026-11.org.example:a", "unit": name });
                let attached = ask(&plane, "target.attach", place).recv().unwrap().unwrap();
                done.push((created["created"] == true, attached["attached"] == true));
            }
            done
        })
    };
    let clients: Vec<_> = (0..32).map(create).collect();
    let done: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    // Who creates it need not be who shows it first.
    assert_eq!(done.iter().filter(|done| done[0].0).count(), 1);
    assert_eq!(done.iter().filter(|done| done[0].1).count(), 1);
    assert!(done.iter().all(|done| done[1..] == [(true, true); 3]));
    let units = ask(&plane, "unit.list", json!({})).recv().unwrap().unwrap();
    assert_eq!(units.as_array().unwrap().len(), 32 * 3 + 1);
    let target = ask(&plane, "target.show", json!({ "name": "iqn.2026-11.org.example:a" }));
    let shown: BTreeMap<String, String> =
        serde_json::from_value(target.recv().unwrap().unwrap()["shown"].clone()).unwrap();
    assert_eq!(shown.len(), 32 * 3 + 1);
    assert!((0..97).all(|lun| shown.contains_key(&lun.to_string())), "the lowest numbers");
}

#[test]
fn what_is_there_in_another_form_is_a_conflict() {
    let rig = Rig::new("[[unit]]\nname = \"a\"\nstore = \"ram:1M\"\n");
    let vm = rig.folder.path().join("vm.sock").display().to_string();
    let plane = plane(Daemon::new(rig.running, rig.feed.events(), Heir::new(|| ())), &rig.feed);
    let call = |method: &str, params: Value| ask(&plane, method, params).recv().unwrap();
    let code = |method: &str, params: Value| call(method, params).unwrap_err().code;
    assert_eq!(call("unit.create", json!({ "name": "a", "store": "ram:1M" })).unwrap()["created"], false);
    assert_eq!(code("unit.create", json!({ "name": "a", "store": "ram:2M" })), Failure::CONFLICT);
    assert_eq!(code("unit.create", json!({ "name": "b", "store": "b.img" })), Failure::PARAMETERS);
    assert_eq!(
        code("unit.create", json!({ "name": "b", "store": "ram:1M", "size": 5 })),
        Failure::PARAMETERS
    );
    assert_eq!(code("unit.change", json!({ "name": "b", "waiting": 5 })), Failure::NOT_FOUND);
    assert_eq!(code("unit.change", json!({ "name": "a", "wating": 5 })), Failure::PARAMETERS);
    assert_eq!(call("unit.change", json!({ "name": "a", "waiting": 5 })).unwrap()["config"]["waiting"], 5);
    let export = json!({ "name": "vm", "socket": vm, "units": {} });
    assert_eq!(call("export.create", export.clone()).unwrap()["created"], true);
    assert_eq!(call("export.create", export).unwrap()["created"], false);
    assert_eq!(code("export.create", json!({ "name": "vm", "socket": vm })), Failure::CONFLICT);
    assert_eq!(code("export.attach", json!({ "name": "vm", "unit": "b" })), Failure::NOT_FOUND);
    let attached = call("export.attach", json!({ "name": "vm", "unit": "a", "at": "7:3" })).unwrap();
    assert_eq!((&attached["at"], &attached["attached"]), (&json!("7:3"), &json!(true)));
    assert_eq!(call("unit.show", json!({ "name": "a" })).unwrap()["shown"][0]["at"], "7:3");
    assert_eq!(code("unit.delete", json!({ "name": "a" })), Failure::FAILED);
    assert_eq!(call("export.rename", json!({ "name": "vm", "to": "web" })).map(drop), Ok(()));
    let detached = call("export.detach", json!({ "name": "web", "unit": "a" })).unwrap();
    assert_eq!(detached["places"], json!(["7:3"]));
    assert!(call("unit.delete", json!({ "name": "a" })).is_ok());
    assert_eq!(code("unit.delete", json!({ "name": "a" })), Failure::NOT_FOUND);
    let rules = json!([{ "chap": { "accounts": [{ "name": "joe", "secret": { "file": "joe" } }] } }]);
    let target = "iqn.2026-11.org.example:a";
    assert_eq!(code("target.create", json!({ "name": target, "access": rules })), Failure::PARAMETERS);
    assert_eq!(call("target.create", json!({ "name": target })).unwrap()["created"], true);
    assert_eq!(code("target.change", json!({ "name": target, "access": rules })), Failure::PARAMETERS);
    let relative = "[[unit]]\nname = \"a\"\nstore = \"a.img\"\n";
    assert_eq!(code("config.plan", json!({ "toml": relative })), Failure::PARAMETERS);
    assert!(call("config.plan", json!({ "toml": relative, "base": "/" })).is_ok());
    let throttle = json!({ "name": "slow", "iops": 5, "units": ["c"] });
    assert_eq!(code("throttle.create", throttle.clone()), Failure::FAILED, "there is no such unit");
    assert!(call("unit.create", json!({ "name": "c", "store": "ram:1M" })).is_ok());
    assert_eq!(call("throttle.create", throttle.clone()).unwrap()["created"], true);
    assert_eq!(call("throttle.create", throttle).unwrap()["created"], false);
    assert_eq!(code("throttle.create", json!({ "name": "slow", "iops": 6 })), Failure::CONFLICT);
    let changed = call("throttle.change", json!({ "name": "slow", "iops": 7, "units": null })).unwrap();
    assert_eq!(changed["config"], json!({ "name": "slow", "iops": 7 }));
    assert_eq!(code("throttle.change", json!({ "name": "slow", "iops": null })), Failure::FAILED);
    assert_eq!(call("throttle.list", json!({})).unwrap()[0]["config"], changed["config"]);
    assert!(call("throttle.delete", json!({ "name": "slow" })).is_ok());
    assert_eq!(code("throttle.show", json!({ "name": "slow" })), Failure::NOT_FOUND);
    let portal = call("portal.create", json!({ "listen": "127.0.0.1:0" })).unwrap();
    assert!(call("portal.delete", json!({ "listen": portal["address"] })).is_ok());
    assert_eq!(code("portal.delete", json!({ "listen": portal["address"] })), Failure::NOT_FOUND);
}

#[test]
fn the_documentation_tells_every_method_event_and_error() {
    let text = include_str!("../../../docs/control.md");
    let section = |name: &str| {
        let heading = format!("### {name}\n");
        let rest = text.split_once(&heading).map(|(_, rest)| rest);
        let rest = rest.unwrap_or_else(|| panic!("docs/control.md does not tell of {name}"));
        rest.split("\n#").next().unwrap_or_default()
    };
    for method in table().described() {
        let section = section(&method.name);
        let effect = serde_json::to_value(method.effect).unwrap();
        assert!(section.contains(effect.as_str().unwrap()), "whether {} reads or changes", method.name);
        let own = method.params["properties"].as_object().cloned().unwrap_or_default();
        let common = ["if_generation", "request_id", "wait", "cancel_on_close"];
        for parameter in own.keys().filter(|name| !common.contains(&name.as_str())) {
            assert!(section.contains(&format!("`{parameter}`")), "{} takes {parameter}", method.name);
        }
        assert!(section.contains("socat"), "{} has an example", method.name);
        let fences = section.lines().filter(|line| line.starts_with("```")).count();
        assert!(fences % 2 == 0, "what begins as code in {} ends as code", method.name);
    }
    for kind in ABOUT.all_kinds() {
        assert!(
            text.contains(&format!("| `{}` |", kind.name)),
            "docs/control.md does not tell of {}",
            kind.name
        );
    }
    for (code, name, _) in CODES {
        assert!(text.contains(&format!("| {code} |")), "docs/control.md does not tell of {name}");
    }
}

#[test]
fn methods_are_named_object_and_verb_and_refuse_what_they_do_not_know() {
    for method in table().described() {
        let parts: Vec<_> = method.name.split('.').collect();
        assert_eq!(parts.len(), 2, "{}", method.name);
        assert_eq!(method.params["additionalProperties"], false, "{}", method.name);
        assert!(method.summary.ends_with('.'), "{}", method.name);
        if method.effect == Effect::Changes {
            let result = method.result["type"].as_str().unwrap_or("object");
            assert!(["object", "null"].contains(&result), "{} answers no object", method.name);
        }
    }
}

/// What the file says.
fn file_of(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("lunette.toml")).unwrap()
}

const FILE: &str = "[[unit]]\nname = \"a\"\nstore = \"ram:1M\"\n\n\
                    [[vhost-user]]\nname = \"vm\"\nsocket = \"@/vm.sock\"\nunits = { 0 = \"a\" }\n";

#[test]
fn files_are_read_again_and_written() {
    let rig = Rig::of_file(FILE);
    let folder = rig.folder.path().to_owned();
    let plane = plane(Daemon::new(rig.running, rig.feed.events(), Heir::new(|| ())), &rig.feed);
    let call = |method: &str, params: Value| ask(&plane, method, params).recv().unwrap();
    let reload = |params: Value| {
        let mut params = params;
        params["wait"] = true.into();
        call("config.reload", params)
    };
    let unsaved = || call("control.status", json!({})).unwrap()["unsaved"].clone();
    assert_eq!((reload(json!({})).unwrap()["steps"].clone(), unsaved()), (json!([]), json!(false)));
    // A changed file.
    let text = file_of(&folder);
    let write = |text: &str| std::fs::write(folder.join("lunette.toml"), text).unwrap();
    write(&text.replace("ram:1M", "ram:2M"));
    let done = reload(json!({})).unwrap();
    assert_eq!(done["steps"].as_array().unwrap().len(), 1, "{done}");
    assert_eq!(call("unit.show", json!({ "name": "a" })).unwrap()["size"], 2 << 20);
    // A broken one, and one that would lose bytes.
    for (broken, part) in [("nmae = 1\n", "unknown key `nmae`"), ("", "would become smaller")] {
        write(&format!("{broken}{text}"));
        let failure = reload(json!({})).unwrap_err();
        assert!(failure.message.contains(part), "{failure}");
        assert_eq!(failure.parameter(), broken.is_empty().then_some("shrink"));
        assert_eq!(call("unit.show", json!({ "name": "a" })).unwrap()["size"], 2 << 20);
    }
    reload(json!({ "shrink": true })).unwrap();
    // What was changed meanwhile is not lost.
    call("unit.create", json!({ "name": "b", "store": "ram:1M" })).unwrap();
    assert_eq!(unsaved(), true);
    assert!(reload(json!({})).unwrap_err().message.contains("is not saved"));
    let path = call("config.save", json!({})).unwrap()["path"].clone();
    assert_eq!((path.as_str(), unsaved()), (folder.join("lunette.toml").to_str(), json!(false)));
    let shown = call("config.show", json!({})).unwrap()["toml"].clone();
    assert_eq!(shown.as_str(), Some(&*file_of(&folder)));
    assert_eq!(reload(json!({})).unwrap()["steps"], json!([]));
    call("unit.resize", json!({ "name": "b", "size": "3M", "wait": true })).unwrap();
    assert_eq!(unsaved(), true);
    reload(json!({ "discard": true, "shrink": true })).unwrap();
    assert_eq!(
        (call("unit.show", json!({ "name": "b" })).unwrap()["size"].clone(), unsaved()),
        (json!(1 << 20), json!(false))
    );
    // What is applied is saved if the file says it.
    let toml = file_of(&folder).replace("name = \"b\"", "name = \"c\"");
    let apply = json!({ "toml": toml, "wait": true });
    let plan = call("config.plan", json!({ "toml": toml })).unwrap();
    assert_eq!(plan["steps"].as_array().unwrap().len(), 2, "{plan}");
    call("config.apply", apply.clone()).unwrap();
    assert_eq!(unsaved(), true);
    write(&toml);
    call("config.apply", apply).unwrap();
    assert_eq!(unsaved(), false);
}

#[test]
fn what_waits_for_a_restart_is_saved_and_not_in_force() {
    let rig = Rig::of_file(FILE);
    let folder = rig.folder.path().to_owned();
    let plane = plane(Daemon::new(rig.running, rig.feed.events(), Heir::new(|| ())), &rig.feed);
    let call = |method: &str, params: Value| ask(&plane, method, params).recv().unwrap();
    let toml = format!("[daemon]\nreactors = 3\n{}", file_of(&folder).replace("ram:1M", "ram:2M"));
    let failure = call("config.apply", json!({ "toml": toml, "wait": true })).unwrap_err();
    assert_eq!(failure.message, "[daemon] (reactors) needs a restart of the daemon");
    let except = json!({ "toml": toml, "wait": true, "except_restart": true });
    let done = call("config.apply", except).unwrap();
    assert_eq!((done["steps"].as_array().unwrap().len(), done["waiting"].as_array().unwrap().len()), (1, 1));
    assert!(!call("config.show", json!({})).unwrap()["toml"].as_str().unwrap().contains("reactors"));
    call("unit.create", json!({ "name": "b", "store": "ram:1M" })).unwrap();
    call("config.save", json!({})).unwrap();
    assert!(file_of(&folder).contains("reactors = 3"), "the next start has them");
    assert_eq!(call("control.status", json!({})).unwrap()["unsaved"], false);
}

#[test]
fn what_root_does_at_the_next_start_is_not_changed_here() {
    let rig = Rig::of_file(&format!("[daemon]\nuser = \"0\"\n\n{FILE}"));
    let folder = rig.folder.path().to_owned();
    let plane = plane(Daemon::new(rig.running, rig.feed.events(), Heir::new(|| ())), &rig.feed);
    let call = |method: &str, params: Value| ask(&plane, method, params).recv().unwrap();
    let before = file_of(&folder);
    for (old, new) in [("user = \"0\"", ""), ("[daemon]", "[daemon]\nallowed-paths = [\"/\"]")] {
        let toml = before.replace(old, new);
        for method in ["config.apply", "config.plan"] {
            let mut params = json!({ "toml": toml });
            if method == "config.apply" {
                params["wait"] = true.into();
                params["except_restart"] = true.into();
            }
            let failure = call(method, params).unwrap_err();
            assert!(failure.message.contains("says what root does"), "{failure}");
        }
    }
    call("config.save", json!({})).unwrap();
    let saved = file_of(&folder);
    assert!(saved.contains("user = \"0\"") && !saved.contains("allowed-paths"), "{saved}");
    // The file itself may say so.
    std::fs::write(folder.join("lunette.toml"), saved.replace("user = \"0\"", "")).unwrap();
    let reload = json!({ "wait": true, "except_restart": true });
    assert_eq!(call("config.reload", reload).unwrap()["waiting"].as_array().unwrap().len(), 1);
}

#[test]
fn changes_are_saved_before_they_are_answered_or_not_made() {
    let rig = Rig::of_file(&format!("[daemon]\nsave-changes = true\n\n{FILE}"));
    let folder = rig.folder.path().to_owned();
    let plane = plane(Daemon::new(rig.running, rig.feed.events(), Heir::new(|| ())), &rig.feed);
    let call = |method: &str, params: Value| ask(&plane, method, params).recv().unwrap();
    call("unit.create", json!({ "name": "b", "store": "ram:1M" })).unwrap();
    assert!(file_of(&folder).contains("\"b\""));
    call("unit.resize", json!({ "name": "b", "size": "2M", "wait": true })).unwrap();
    assert!(file_of(&folder).contains("ram:2M"));
    call("export.attach", json!({ "name": "vm", "unit": "b" })).unwrap();
    assert!(file_of(&folder).contains("1 = \"b\""));
    // Somebody else has written to it.
    std::fs::write(folder.join("lunette.toml"), "").unwrap();
    let failure = call("unit.delete", json!({ "name": "b", "detach": true })).unwrap_err();
    assert!(failure.message.contains("says something else"), "{failure}");
    assert_eq!(failure.parameter(), None, "no change saves over it");
    assert!(call("unit.show", json!({ "name": "b" })).is_ok());
    assert_eq!(
        std::fs::read_dir(&folder)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name() == "lunette.toml.new")
            .count(),
        0
    );
    let failure = call("config.save", json!({})).unwrap_err();
    assert_eq!(failure.parameter(), Some("overwrite"), "{failure}");
    call("config.save", json!({ "overwrite": true })).unwrap();
    call("unit.delete", json!({ "name": "b", "detach": true })).unwrap();
    assert!(!file_of(&folder).contains("\"b\""));
}

#[test]
fn units_become_smaller_only_when_that_is_said() {
    let rig = Rig::new(
        "[[unit]]\nname = \"a\"\nstore = \"@/a.img\"\nsize = \"3M\"\n[[unit]]\nname = \"m\"\nstore = \"ram:3M\"\n",
    );
    let image = rig.folder.path().join("a.img");
    let plane = plane(Daemon::new(rig.running, rig.feed.events(), Heir::new(|| ())), &rig.feed);
    let call = |method: &str, params: &Value| ask(&plane, method, params.clone()).recv().unwrap();
    let change = |key: &str, value: &str| {
        ("unit.change", json!({ "name": if key == "size" { "a" } else { "m" }, key: value }))
    };
    for (method, params) in [
        change("size", "1M"),
        change("store", "ram:1M"),
        ("unit.change", json!({ "name": "a", "size": "1M", "block": 4096, "recreate": true })),
        ("unit.resize", json!({ "name": "a", "size": "1M", "wait": true })),
        ("unit.resize", json!({ "name": "m", "size": 1 << 20, "wait": true })),
    ] {
        let failure = call(method, &params).unwrap_err();
        assert!(failure.message.contains("1M instead of 3M"), "{failure}");
        assert_eq!(failure.data.unwrap()["shrink"]["size"], 3 << 20);
        assert_eq!(std::fs::metadata(&image).unwrap().len(), 3 << 20);
        let of = |key: &str| call("unit.show", &json!({ "name": params["name"] })).unwrap()[key].clone();
        assert_eq!((of("size"), of("block")), (json!(3 << 20), json!(512)));
    }
    for (method, mut params) in [
        change("size", "4M"),
        change("size", "2M"),
        change("store", "ram:1M"),
        ("unit.resize", json!({ "name": "a", "size": "1M", "wait": true })),
    ] {
        params["shrink"] = true.into();
        call(method, &params).unwrap();
    }
    assert_eq!(std::fs::metadata(&image).unwrap().len(), 1 << 20);
    assert_eq!(call("unit.show", &json!({ "name": "m" })).unwrap()["size"], 1 << 20);
}

#[test]
fn what_could_not_be_changed_back_is_a_change() {
    let rig = Rig::of_file(&FILE.replace("ram:1M", "@/a.img\"\nsize = \"1M"));
    let folder = rig.folder.path().to_owned();
    let plane = plane(Daemon::new(rig.running, rig.feed.events(), Heir::new(|| ())), &rig.feed);
    let call = |method: &str, params: Value| ask(&plane, method, params).recv().unwrap();
    let generation = plane.generation();
    call("unit.change", json!({ "name": "a", "block": 4096 })).unwrap_err();
    assert_eq!(plane.generation(), generation);
    std::fs::remove_file(folder.join("a.img")).unwrap();
    let failure = call("unit.change", json!({ "name": "a", "block": 4096, "recreate": true })).unwrap_err();
    assert_eq!((failure.code, plane.generation()), (Failure::PARTLY, generation + 1), "{failure}");
    for method in ["unit.show", "unit.resume"] {
        let failure = call(method, json!({ "name": "a" })).unwrap_err();
        assert!(failure.message.contains("could not be served again"), "{failure}");
    }
    call("unit.delete", json!({ "name": "a", "detach": true })).unwrap();
    assert_eq!(call("unit.show", json!({ "name": "a" })).unwrap_err().code, Failure::NOT_FOUND);
}

#[test]
fn what_a_throttle_names_stays() {
    let throttle = "[[throttle]]\nname = \"slow\"\niops = 5\n";
    for (names, method, name) in
        [("units = [\"a\"]\n", "unit.delete", "a"), ("exports = [\"vm\"]\n", "export.delete", "vm")]
    {
        let rig = Rig::of_file(&format!("{FILE}{throttle}{names}"));
        let plane = plane(Daemon::new(rig.running, rig.feed.events(), Heir::new(|| ())), &rig.feed);
        let params = match name {
            "a" => json!({ "name": name, "detach": true }),
            _ => json!({ "name": name }),
        };
        let failure = ask(&plane, method, params).recv().unwrap().unwrap_err();
        assert!(failure.message.starts_with("the throttle `slow` names the "), "{failure}");
        assert!(failure.message.contains(&format!("`{name}`")), "{failure}");
    }
}

#[test]
fn the_generation_moves_with_what_changes() {
    let rig = Rig::of_file(FILE);
    let toml = file_of(rig.folder.path());
    let plane = plane(Daemon::new(rig.running, rig.feed.events(), Heir::new(|| ())), &rig.feed);
    let call = |method: &str, params: Value| ask(&plane, method, params).recv().unwrap().unwrap();
    let generation = plane.generation();
    let larger = toml.replace("ram:1M", "ram:2M");
    for (method, params) in [
        ("unit.create", json!({ "name": "a", "store": "ram:1M" })),
        ("export.attach", json!({ "name": "vm", "unit": "a" })),
        ("config.reload", json!({ "wait": true })),
        ("config.apply", json!({ "toml": toml, "wait": true })),
        ("config.apply", json!({ "toml": larger, "wait": true, "dry_run": true })),
    ] {
        let done = call(method, params);
        assert_eq!((plane.generation(), &done["generation"]), (generation, &json!(generation)), "{method}");
    }
    call("config.apply", json!({ "toml": larger, "wait": true }));
    assert_eq!(plane.generation(), generation + 1);
}

#[test]
fn a_size_is_changed_like_anything_else() {
    let rig = Rig::of_file(&format!("[daemon]\nsave-changes = true\n\n{FILE}"));
    let folder = rig.folder.path().to_owned();
    let plane = plane(Daemon::new(rig.running, rig.feed.events(), Heir::new(|| ())), &rig.feed);
    let resize = |size: &str| {
        let params = json!({ "name": "a", "size": size, "wait": true, "shrink": true });
        ask(&plane, "unit.resize", params).recv().unwrap()
    };
    let generation = plane.generation();
    assert_eq!(resize("1M").unwrap()["generation"], generation, "it has that already");
    assert_eq!(resize("3M").unwrap()["generation"], generation + 1);
    assert!(file_of(&folder).contains("ram:3M"));
    // What cannot be saved is not made.
    std::fs::write(folder.join("lunette.toml"), "").unwrap();
    for size in ["2M", "4M"] {
        let failure = resize(size).unwrap_err();
        assert!(failure.message.contains("says something else"), "{failure}");
    }
    let refreshed = ask(&plane, "unit.refresh", json!({ "name": "a", "wait": true })).recv().unwrap();
    assert!(refreshed.unwrap_err().message.contains("says something else"));
    let shown = ask(&plane, "unit.show", json!({ "name": "a" })).recv().unwrap().unwrap();
    assert_eq!((&shown["size"], plane.generation()), (&json!(3 << 20), generation + 1));
    assert_eq!(file_of(&folder), "");
}

#[test]
fn units_move_from_one_to_the_other() {
    let targets = "[[portal]]\nlisten = \"127.0.0.1:0\"\n[[target]]\nname = \"iqn.2026-11.org.example:a\"\nunits = {}\n";
    let rig = Rig::new(&format!("{FILE}{targets}"));
    let plane = plane(Daemon::new(rig.running, rig.feed.events(), Heir::new(|| ())), &rig.feed);
    let call = |method: &str, params: Value| ask(&plane, method, params).recv().unwrap();
    let target = "iqn.2026-11.org.example:a";
    let moved = call("unit.move", json!({ "unit": "a", "from": "vm", "to": target, "at": "7" })).unwrap();
    assert_eq!(moved["at"], "7");
    let shown = call("unit.show", json!({ "name": "a" })).unwrap()["shown"].clone();
    assert_eq!(shown, json!([{ "by": "target", "name": target, "at": "7" }]));
    let moved = call("unit.move", json!({ "unit": "a", "from": target, "to": "vm" })).unwrap();
    assert_eq!(moved["at"], "0");
    for (from, to) in [(target, "vm"), ("vm", "no")] {
        let failure = call("unit.move", json!({ "unit": "a", "from": from, "to": to })).unwrap_err();
        assert_eq!(failure.code, Failure::NOT_FOUND);
    }
}

#[test]
fn a_socket_that_another_process_has_listened_at_shows_who_serves_it() {
    use std::os::fd::{AsRawFd, BorrowedFd};
    use std::os::unix::process::CommandExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let fd = listener.as_raw_fd();
    let listen = move || {
        // SAFETY: it is open in this process, too.
        let inherited = unsafe { BorrowedFd::borrow_raw(fd) };
        rustix::net::listen(inherited, 1).map_err(Into::into)
    };
    let mut other = std::process::Command::new("true");
    // SAFETY: it is one system call.
    unsafe { other.pre_exec(listen) };
    assert!(other.status().unwrap().success());
    let server = || lunette_control::Connection::open(&path).unwrap().peer().unwrap().pid;
    let own = i32::try_from(std::process::id()).unwrap();
    assert_ne!(server(), own);
    let _socket = ControlSocket::adopt(listener).unwrap();
    assert_eq!(server(), own);
}
