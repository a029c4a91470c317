//! Two daemons with one state directory.

mod back;
mod late;

use super::*;
use crate::config::values::Name;
use crate::running::LONGEST;
use crate::running::tests::{ANY, Rig};
use lunette_engine::{AttentionObserver, Inventory, InventoryChange};
use lunette_scsi::{AdditionalSense, Lun};
use std::sync::mpsc;

/// `socket`: the daemons of one host listen at different places.
fn text(socket: &str) -> String {
    format!(
        r#"
[[unit]]
name = "a"
store = "@/a.img"
size = "1M"
migratable = true

[[unit]]
name = "b"
store = "@/b.img"
size = "1M"
migratable = true

[[portal]]
listen = "127.0.0.1:0"

[[target]]
name = "iqn.2026-11.org.example:a"
units = {{ 0 = "a" }}

[[vhost-user]]
name = "vm"
socket = "@/{socket}"
known-by = "name"
units = {{ 0 = "a", "1:0" = "b" }}
"#
    )
}

fn two() -> (Rig, Rig) {
    let one = Rig::new(&text("one.sock"));
    let other = one.beside(&text("other.sock"));
    (one, other)
}

fn lease(rig: &Rig) -> Arc<ExportLease> {
    rig.running.now().exports[&"vm".parse::<Label>().unwrap()].lease.clone()
}

fn take(rig: &Rig) -> Result<Option<DeviceState>, String> {
    let (tell, told) = mpsc::channel();
    rig.running.now().exports[&"vm".parse::<Label>().unwrap()].connect(true);
    lease(rig).take(false, Box::new(move |result| tell.send(result).unwrap()));
    told.recv().unwrap()
}

fn give(rig: &Rig, state: DeviceState) -> Result<(), String> {
    let (tell, told) = mpsc::channel();
    lease(rig).give(state, Box::new(move |result| tell.send(result).unwrap()));
    told.recv().unwrap()
}

/// The virtual machine has gone, and leaves what it can.
fn end(rig: &Rig) {
    rig.running.now().exports[&"vm".parse::<Label>().unwrap()].connect(false);
    let _changing = rig.running.changing.lock().unwrap();
    rig.running.settle_leases();
}

/// Not what there is by itself.
fn state() -> DeviceState {
    serde_json::from_str(r#"{ "sizes": [7, 9] }"#).unwrap()
}

fn here(rig: &Rig) -> Vec<String> {
    rig.running.units().keys().map(Name::to_string).collect()
}

fn term(rig: &Rig, unit: &str) -> Term {
    rig.running.unit(unit).unwrap().saved().get(SECTION).unwrap()
}

#[test]
fn units_go_where_their_virtual_machine_is_and_nowhere_else() {
    let (one, other) = two();
    assert!(here(&one).is_empty() && here(&other).is_empty());
    assert_eq!(lease(&one).guest, lease(&other).guest);
    assert_eq!(take(&one), Ok(None));
    assert_eq!(here(&one), ["a", "b"]);
    let naa = one.naa("a");
    let error = take(&other).unwrap_err();
    assert!(error.contains(&format!("served by process {}", std::process::id())), "{error}");
    assert!(other.running.why_standby(&Name::of("a")).contains("served by process"));
    assert!(here(&other).is_empty());
    assert_eq!(take(&one), Ok(None), "what is here is here");
    give(&one, state()).unwrap();
    assert!(here(&one).is_empty());
    assert!(one.running.why_standby(&Name::of("a")).contains("no virtual machine"));
    assert_eq!(take(&other), Ok(Some(state())));
    assert_eq!((other.naa("a"), term(&other, "a").number), (naa.clone(), 2));
    assert_eq!(lease(&other).terms(), [(naa.clone(), 2), (other.naa("b"), 2)].into());
    assert!(lease(&one).terms().is_empty());
    assert!(term(&other, "a").departure.is_none(), "it counts once");
    assert!(take(&one).is_err());
    give(&other, state()).unwrap();
    assert_eq!(take(&one), Ok(Some(state())));
    assert_eq!((one.naa("a"), term(&one, "b").number), (naa, 3));
}

#[test]
fn who_ends_before_he_gives_up_leaves_what_was_saved() {
    let (one, other) = two();
    take(&one).unwrap();
    give(&one, state()).unwrap();
    take(&other).unwrap();
    // As if it was killed: nothing is given up.
    let units = std::mem::take(&mut other.running.now_mut().units);
    for (name, unit) in units {
        other.running.show_unit(&name, [None, None]).unwrap();
        assert!(other.running.let_go_of(unit));
    }
    assert_eq!(take(&one), Ok(None), "what was left for the other one is used up");
    assert_eq!(term(&one, "a").number, 3);
}

#[test]
fn a_unit_in_use_by_others_stays() {
    let (one, other) = two();
    take(&one).unwrap();
    assert_eq!(lease(&one).check(), Ok(()));
    let port = one.running.entity.target("iqn.2026-11.org.example:a").unwrap().port(1).unwrap();
    let nexus = Nexus::new("iqn.2026-11.org.example:host,i,0x1", port);
    assert_eq!(lease(&one).check(), Ok(()), "it has not looked yet");
    nexus.meet(Lun::default());
    for error in [lease(&one).check().unwrap_err(), give(&one, state()).unwrap_err()] {
        assert!(error.contains("`a` is in use by others: iqn.2026-11.org.example:host"), "{error}");
    }
    end(&one);
    assert_eq!(here(&one), ["a"], "and the other one has gone with its virtual machine");
    drop(nexus);
    take(&one).unwrap();
    give(&one, state()).unwrap();
    assert_eq!(take(&other), Ok(Some(state())));
}

#[test]
fn a_virtual_machine_that_would_lose_a_unit_stays() {
    let more = "\n[[unit]]\nname = \"fixed\"\nstore = \"ram:1M\"\n";
    let text = text("one.sock").replace(r#""1:0" = "b" }"#, r#""1:0" = "b", "1:1" = "fixed" }"#) + more;
    let rig = Rig::new(&text);
    take(&rig).unwrap();
    let error = lease(&rig).check().unwrap_err();
    assert!(error.contains("`fixed` would stay behind"), "{error}");
}

#[test]
fn what_cannot_be_left_stays() {
    let (one, other) = two();
    take(&one).unwrap();
    let units = one.folder.path().join("state/units");
    let away = one.folder.path().join("state/away");
    std::fs::rename(&units, &away).unwrap();
    let error = give(&one, state()).unwrap_err();
    assert!(error.contains("cannot be saved"), "{error}");
    assert_eq!(here(&one), ["a", "b"]);
    assert!(one.running.units().values().all(|unit| !unit.unit.is_quiesced()));
    std::fs::rename(&away, &units).unwrap();
    assert!(take(&other).is_err());
    assert!(term(&one, "a").departure.is_none() && term(&one, "b").departure.is_none());
    give(&one, state()).unwrap();
    assert_eq!(take(&other), Ok(Some(state())));
}

#[test]
fn who_has_a_unit_in_his_hands_keeps_no_other_from_leaving() {
    let (one, other) = two();
    take(&one).unwrap();
    let held = one.running.unit("a").unwrap();
    give(&one, state()).unwrap();
    assert!(here(&one).is_empty());
    let error = take(&other).unwrap_err();
    assert!(error.starts_with("a: it is served by process"), "it is locked as long: {error}");
    drop(held);
    assert_eq!(take(&other), Ok(Some(state())));
}

/// What the state file of a unit says.
fn file(rig: &Rig, unit: &str) -> std::path::PathBuf {
    let naa = rig.running.leases.naa(&Name::of(unit)).unwrap();
    rig.at().join(format!("state/units/{naa}.state"))
}

#[test]
fn what_was_left_of_a_unit_that_is_migratable_no_more_is_forgotten() {
    let (one, other) = two();
    take(&one).unwrap();
    give(&one, state()).unwrap();
    assert!(std::fs::read_to_string(file(&one, "a")).unwrap().contains("journey"));
    let fixed = |socket| text(socket).replace("migratable = true", "");
    one.become_(&fixed("one.sock"), ANY).unwrap();
    assert!(term(&one, "a").departure.is_none());
    one.become_(&text("one.sock"), ANY).unwrap();
    assert_eq!(take(&other), Ok(None));
    give(&other, state()).unwrap();
    let third = one.beside(&fixed("third.sock"));
    assert_eq!(here(&third), ["a", "b"]);
    assert!(term(&third, "a").departure.is_none(), "nor after a start");
}

#[test]
fn a_unit_does_not_go_on_here_with_what_was_left_for_others() {
    let (one, other) = two();
    take(&one).unwrap();
    let new = |unit| file(&one, unit).with_extension("state.new");
    // Whoever writes it waits for somebody to read it, and cannot sync it.
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, new("b"), fifo, 0o600.into(), 0).unwrap();
    let (tell, told) = mpsc::channel();
    lease(&one).give(state(), Box::new(move |result| tell.send(result).unwrap()));
    while !std::fs::read_to_string(file(&one, "a")).unwrap().contains("journey") {
        std::thread::yield_now();
    }
    // From now on nothing can be saved of the first one either.
    std::fs::create_dir(new("a")).unwrap();
    let reader = std::fs::File::open(new("b")).unwrap();
    assert_eq!(told.recv().unwrap(), Ok(()));
    drop(reader);
    assert!(here(&one).is_empty());
    std::fs::remove_dir(new("a")).unwrap();
    std::fs::remove_file(new("b")).unwrap();
    assert_eq!(take(&other), Ok(None), "they were not left together");
}

#[test]
fn a_unit_that_others_have_used_leaves_after_them() {
    let (one, other) = two();
    take(&one).unwrap();
    let port = one.running.entity.target("iqn.2026-11.org.example:a").unwrap().port(1).unwrap();
    let nexus = Nexus::new("iqn.2026-11.org.example:host,i,0x1", port);
    nexus.meet(Lun::default());
    one.running.now().exports[&"vm".parse::<Label>().unwrap()].connect(false);
    give(&one, state()).unwrap_err();
    assert!(here(&one).contains(&"a".to_owned()));
    assert!(take(&other).is_err());
    drop(nexus);
    let is_locked = |unit| one.running.state.holds(one.running.leases.naa(&Name::of(unit)).unwrap());
    while !here(&one).is_empty() || is_locked("a") || is_locked("b") {
        std::thread::yield_now();
    }
    assert_eq!(take(&other), Ok(None));
}

#[test]
fn a_virtual_machine_without_such_units_waits_for_nobody() {
    let more = r#"
[[unit]]
name = "fixed"
store = "ram:1M"

[[vhost-user]]
name = "plain"
socket = "@/plain.sock"
units = { 0 = "fixed" }
"#;
    let rig = Rig::new(&(text("one.sock") + more));
    let lease = rig.running.now().exports[&"plain".parse::<Label>().unwrap()].lease.clone();
    rig.running.now().exports[&"plain".parse::<Label>().unwrap()].connect(true);
    // As if a change went on.
    let changing = rig.running.changing.lock().unwrap();
    let (tell, told) = mpsc::channel();
    let also = tell.clone();
    lease.take(true, Box::new(move |result| tell.send(result.map(drop)).unwrap()));
    assert_eq!(told.try_recv(), Ok(Ok(())));
    lease.give(state(), Box::new(move |result| also.send(result).unwrap()));
    assert_eq!(told.try_recv(), Ok(Ok(())));
    assert_eq!(lease.phase(), Phase::Gone);
    drop(changing);
}

/// Another virtual machine with a unit of its own.
const SECOND: &str = r#"
[[unit]]
name = "c"
store = "@/c.img"
size = "1M"
migratable = true

[[vhost-user]]
name = "second"
socket = "@/second.sock"
known-by = "name"
units = { 0 = "c" }
"#;

/// Has a virtual machine's rings start.
fn begin_to_take(rig: &Rig, export: &str) -> mpsc::Receiver<Result<Option<DeviceState>, String>> {
    let (tell, told) = mpsc::channel();
    let lease = {
        let now = rig.running.now();
        let export = &now.exports[&export.parse::<Label>().unwrap()];
        export.connect(true);
        export.lease.clone()
    };
    lease.take(false, Box::new(move |result| tell.send(result).unwrap()));
    told
}

#[test]
fn a_unit_that_does_not_come_holds_up_no_other_virtual_machine() {
    let whole = text("one.sock") + SECOND;
    let one = Rig::new(&whole);
    let new = file(&one, "a").with_extension("state.new");
    std::fs::create_dir_all(new.parent().unwrap()).unwrap();
    // Whoever writes it waits for somebody to read it, and cannot sync it.
    rustix::fs::mknodat(rustix::fs::CWD, &new, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let first = begin_to_take(&one, "vm");
    let naa = one.running.leases.naa(&Name::of("b")).unwrap();
    while !one.running.state.holds(naa) {
        std::thread::yield_now();
    }
    assert_eq!(begin_to_take(&one, "second").recv().unwrap(), Ok(None));
    assert_eq!(here(&one), ["c"]);
    assert_eq!(lease(&one).phase(), Phase::Waits);
    let of_c = whole.replace("@/c.img\"", "@/c.img\"\nwaiting = 9");
    one.become_(&of_c, ANY).unwrap();
    // A change of the unit itself waits for its turn, but not for ever.
    let of_a = of_c.replace("@/a.img\"", "@/a.img\"\nwaiting = 9");
    let (running, work) = (&one.running, Work::quiet());
    let wait = |time| {
        let turn = running.turn_to_change(&mut running.model(), &mut one.model(&of_a), &work, time);
        turn.map(drop).map_err(|failure| failure.message)
    };
    assert!(wait(Duration::ZERO).unwrap_err().contains("give up one of `a`"));
    assert!(first.try_recv().is_err());
    let reader = std::fs::File::open(&new).unwrap();
    first.recv().unwrap().unwrap_err();
    drop(reader);
    std::fs::remove_file(&new).unwrap();
    assert_eq!(wait(LONGEST), Ok(()));
    one.become_(&of_a, ANY).unwrap();
    assert_eq!(take(&one), Ok(None));
    assert_eq!(here(&one), ["a", "b", "c"]);
}

#[test]
fn a_virtual_machine_that_leaves_holds_up_no_other_change() {
    let whole = text("one.sock") + SECOND;
    let one = Rig::new(&whole);
    take(&one).unwrap();
    let names = ["a", "b"].into_iter().map(Name::of).collect();
    let leaving = one.running.leases.turns.at_once(&names).unwrap();
    one.become_(&whole.replace("@/c.img\"", "@/c.img\"\nwaiting = 9"), ANY).unwrap();
    assert_eq!(lease(&one).phase(), Phase::Here);
    drop(leaving);
}

#[test]
fn a_change_holds_up_no_virtual_machine() {
    let (one, other) = two();
    let changing = one.running.changing.lock().unwrap();
    take(&one).unwrap();
    give(&one, state()).unwrap();
    drop(changing);
    assert_eq!(take(&other), Ok(Some(state())));
}

#[test]
fn a_virtual_machine_that_runs_gets_the_first_unit_of_all() {
    let with_b = text("one.sock").replacen("migratable = true", "", 1);
    let b = "[[unit]]\nname = \"b\"\nstore = \"@/b.img\"\nsize = \"1M\"\nmigratable = true\n";
    assert!(with_b.contains(b));
    let one = Rig::new(&with_b.replace(b, "").replace(r#", "1:0" = "b""#, ""));
    take(&one).unwrap();
    one.become_(&with_b, ANY).unwrap();
    assert_eq!(here(&one), ["a", "b"]);
}

/// Has the state of a unit be read, but not be saved.
fn block(rig: &Rig, unit: &str) -> std::path::PathBuf {
    let naa = rig.running.leases.naa(&Name::of(unit)).unwrap();
    let path = rig.folder.path().join(format!("state/units/{naa}.state.new"));
    std::fs::create_dir(&path).unwrap();
    path
}

#[test]
fn what_is_left_of_some_only_counts_for_none() {
    let (one, other) = two();
    take(&one).unwrap();
    let blocked = block(&one, "b");
    let error = give(&one, state()).unwrap_err();
    assert!(error.contains("b: the state of the logical unit cannot be saved"), "{error}");
    assert_eq!(here(&one), ["a", "b"]);
    assert!(term(&one, "a").departure.is_none());
    std::fs::remove_dir(&blocked).unwrap();
    give(&one, state()).unwrap();
    let blocked = block(&one, "b");
    let error = take(&other).unwrap_err();
    assert!(error.starts_with("b: "), "{error}");
    assert!(here(&other).is_empty());
    std::fs::remove_dir(&blocked).unwrap();
    assert_eq!(take(&one), Ok(Some(state())), "it has not counted for unit a either");
    assert_eq!(term(&one, "a").number, 2);
}

#[test]
fn who_takes_some_takes_all() {
    let (one, other) = two();
    take(&one).unwrap();
    give(&one, state()).unwrap();
    let held = other.running.state.unit(one.running.leases.naa(&Name::of("b")).unwrap()).unwrap();
    take(&one).unwrap_err();
    assert!(here(&one).is_empty());
    drop(held);
    assert_eq!(take(&other), Ok(Some(state())), "it has not counted");
}

#[test]
fn what_another_virtual_machine_has_left_counts_for_none() {
    let (one, other) = two();
    take(&one).unwrap();
    give(&one, state()).unwrap();
    let stranger = text("other.sock").replace("\"vm\"", "\"stranger\"");
    other.become_(&stranger, ANY).unwrap();
    assert_eq!(begin_to_take(&other, "stranger").recv().unwrap(), Ok(None));
    assert_eq!(here(&other), ["a", "b"]);
}

#[test]
fn units_that_were_not_left_together_bring_nothing() {
    let (one, other) = two();
    take(&one).unwrap();
    give(&one, state()).unwrap();
    let only_b = text("other.sock").replace(r#"0 = "a", "1:0" = "b""#, r#"0 = "b""#);
    other.become_(&only_b, ANY).unwrap();
    take(&other).unwrap();
    give(&other, state()).unwrap();
    assert_eq!(take(&one), Ok(None));
    assert_eq!(here(&one), ["a", "b"]);
}

#[test]
fn a_file_that_has_gone_is_not_made_anew() {
    let (one, _) = two();
    take(&one).unwrap();
    give(&one, state()).unwrap();
    let (file, away) = (one.folder.path().join("a.img"), one.folder.path().join("away"));
    std::fs::rename(&file, &away).unwrap();
    let error = take(&one).unwrap_err();
    assert!(error.contains("a.img"), "{error}");
    assert!(!file.exists() && here(&one).is_empty());
    std::fs::rename(&away, &file).unwrap();
    assert_eq!(take(&one), Ok(Some(state())));
}

#[test]
fn a_virtual_machine_that_runs_gets_units_and_one_that_has_gone_leaves_them() {
    let (one, other) = two();
    let without_b = text("one.sock").replace(r#", "1:0" = "b""#, "");
    one.become_(&without_b, ANY).unwrap();
    take(&one).unwrap();
    assert_eq!(here(&one), ["a"]);
    one.become_(&text("one.sock"), ANY).unwrap();
    assert_eq!(here(&one), ["a", "b"]);
    end(&one);
    assert!(here(&one).is_empty());
    assert_eq!(take(&other), Ok(None), "the virtual machine begins anew");
    other.become_(&without_b.replace("one.sock", "other.sock"), ANY).unwrap();
    assert_eq!(here(&other), ["a"]);
}

#[test]
fn an_export_that_is_taken_away_leaves_its_units() {
    let (one, other) = two();
    take(&one).unwrap();
    let former = lease(&one);
    let without = text("one.sock").split("[[vhost-user]]").next().unwrap().to_owned();
    one.become_(&without, ANY).unwrap();
    assert!(here(&one).is_empty());
    // What its connection has to say comes too late, and waits for nobody.
    former.give(state(), Box::new(|result| assert_eq!(result, Ok(()))));
    former.take(false, Box::new(|result| assert!(result.is_err())));
    assert_eq!(take(&other), Ok(None));
}

#[test]
fn whole_configurations_leave_units_where_they_are() {
    let (one, other) = two();
    take(&one).unwrap();
    let changed = |text: String| text.replace("migratable = true", "migratable = true\nwaiting = 9");
    for (rig, socket, expected) in [(&one, "one.sock", &["a", "b"][..]), (&other, "other.sock", &[])] {
        let done = rig.become_(&text(socket), ANY).unwrap();
        assert!(done.plan.is_empty(), "{}", done.plan);
        rig.become_(&changed(text(socket)), ANY).unwrap();
        assert_eq!(here(rig), expected);
    }
    give(&one, state()).unwrap();
    one.become_("", ANY).unwrap();
    assert!(one.running.model().units.is_empty());
    one.become_(&text("one.sock"), ANY).unwrap();
    assert!(here(&one).is_empty() && one.running.model().units.len() == 2);
    let fixed = text("one.sock").replace("migratable = true", "");
    one.become_(&fixed, ANY).unwrap();
    assert_eq!(here(&one), ["a", "b"]);
    assert!(take(&other).is_err());
    one.become_(&text("one.sock"), ANY).unwrap();
    assert!(here(&one).is_empty(), "no virtual machine runs");
    assert_eq!(take(&other), Ok(None));
}

#[test]
fn who_comes_from_another_state_directory_is_refused() {
    let (one, _) = two();
    let go_on = || {
        let (tell, told) = mpsc::channel();
        lease(&one).take(true, Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap()
    };
    let error = go_on().unwrap_err();
    assert!(error.contains("need the same one"), "{error}");
    assert!(here(&one).is_empty());
    take(&one).unwrap();
    give(&one, state()).unwrap();
    assert_eq!(go_on(), Ok(Some(state())));
}

#[test]
fn a_unit_that_becomes_migratable_while_it_is_used_is_known() {
    let fixed = text("one.sock").replace("migratable = true", "");
    let one = Rig::new(&fixed);
    one.running.now().exports[&"vm".parse::<Label>().unwrap()].connect(true);
    lease(&one).set(Phase::Here);
    one.become_(&text("one.sock"), ANY).unwrap();
    assert_eq!((here(&one), term(&one, "a").number), (vec!["a".to_owned(), "b".to_owned()], 1));
}

struct Nobody;

impl AttentionObserver for Nobody {
    fn attention(&self, _: &lunette_engine::LogicalUnit, _: u32, condition: AdditionalSense) {
        panic!("{condition}");
    }

    fn inventory_changed(&self, _: &Inventory, changes: &[InventoryChange]) {
        panic!("{changes:?}");
    }
}

#[test]
fn a_virtual_machine_stands_still_for_those_who_bring_its_units_only() {
    let lease = lease(&Rig::new(&text("one.sock")));
    let still = Still::of(&lease);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(!lease.stands_still());
            let still = Still::of(&lease);
            assert!(lease.stands_still());
            drop(still);
            assert!(!lease.stands_still());
        });
    });
    assert!(lease.stands_still());
    drop(still);
    assert!(!lease.stands_still());
}

#[test]
fn a_virtual_machine_that_stands_still_notices_nothing() {
    let (one, _) = two();
    let port = {
        let now = one.running.now();
        now.exports[&"vm".parse::<Label>().unwrap()].port(0).unwrap()
    };
    let nexus = Nexus::observed(lease(&one).guest.clone(), port, Arc::new(Nobody));
    take(&one).unwrap();
    nexus.meet(Lun::default());
    give(&one, state()).unwrap();
    take(&one).unwrap();
    nexus.meet(Lun::default());
}
