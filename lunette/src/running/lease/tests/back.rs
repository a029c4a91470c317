//! Units of which another process has left something.

use super::*;
use crate::handover::Handed;

const LONG: Duration = Duration::from_secs(3600);

/// What another process has handed over of some units.
fn handed_all(rig: &Rig, units: &[&str], term: u64) -> Handed {
    let naas = units.iter().map(|unit| rig.running.leases.naa(&Name::of(unit)).unwrap().to_string());
    let naas: Vec<_> = naas.collect();
    let state = || serde_json::from_str::<UnitState>(r#"{ "failed": true }"#).unwrap();
    let units = naas.iter().map(|naa| (naa.clone(), state())).collect();
    Handed::with_units(units).with_terms(naas.into_iter().map(|naa| (naa, term)).collect())
}

/// The same of one.
fn handed(rig: &Rig, unit: &str, term: u64) -> Handed {
    handed_all(rig, &[unit], term)
}

/// Units are here no more, without anything that is done when they leave.
fn lose(rig: &Rig) {
    let units = std::mem::take(&mut rig.running.now_mut().units);
    for (name, unit) in units {
        rig.running.show_unit(&name, [None, None]).unwrap();
        assert!(rig.running.let_go_of(unit));
    }
}

/// As if it was killed: nothing ends in order.
fn lose_as_killed(rig: &Rig) {
    let note = |name: &Name| file(rig, name.as_str()).with_extension("failed");
    let units: Vec<_> = rig.running.now().units.keys().cloned().collect();
    let notes = units.iter().map(note).filter_map(|note| Some((std::fs::read(&note).ok()?, note)));
    let notes: Vec<_> = notes.collect();
    lose(rig);
    notes.iter().for_each(|(bytes, note)| std::fs::write(note, bytes).unwrap());
}

#[test]
fn a_unit_is_taken_back_unless_it_was_served_elsewhere_since() {
    let (one, other) = two();
    take(&one).unwrap();
    // As if it was killed.
    lose(&one);
    for (term, is_back) in [(0, false), (2, false), (1, true)] {
        other.running.take_back(&mut handed(&other, "a", term));
        assert_eq!(here(&other).contains(&"a".to_owned()), is_back);
    }
    let unit = other.running.unit("a").unwrap();
    assert!(unit.backing().unwrap().has_failed() && term(&other, "a").number == 2);
}

#[test]
fn a_unit_whose_term_was_not_said_is_taken_back_unless_somebody_has_left_it() {
    let (one, other) = two();
    take(&one).unwrap();
    lose(&one);
    let unsaid = |rig: &Rig| handed(rig, "a", 1).with_terms(BTreeMap::new());
    other.running.take_back(&mut unsaid(&other));
    assert_eq!(here(&other), ["a"]);
    lose(&other);
    take(&one).unwrap();
    give(&one, state()).unwrap();
    other.running.take_back(&mut unsaid(&other));
    assert!(here(&other).is_empty());
}

#[test]
fn a_unit_that_does_not_come_back_yet_holds_up_no_other() {
    let (one, other) = two();
    take(&one).unwrap();
    lose(&one);
    let mut handed = handed_all(&other, &["a", "b"], 1);
    let spec = other.model(&text("other.sock")).units.remove("a").unwrap();
    // Somebody still has its store.
    let former = crate::units::Opened::open(&spec, crate::units::OtherSize::Take).unwrap();
    std::thread::scope(|scope| {
        let running = &other.running;
        let back = scope.spawn(|| running.take_back_within(LONG, &mut handed));
        while here(&other) != ["b"] && !back.is_finished() {
            std::thread::yield_now();
        }
        assert_eq!(here(&other), ["b"]);
        drop(former);
    });
    assert_eq!(here(&other), ["a", "b"]);
    // What nobody could let go of is not waited for.
    lose(&other);
    std::fs::remove_file(other.at().join("a.img")).unwrap();
    other.running.take_back_within(LONG, &mut handed_all(&other, &["a", "b"], 2));
    assert_eq!(here(&other), ["b"]);
}

#[test]
fn a_unit_that_has_lost_bytes_knows_that_after_a_kill() {
    let (one, other) = two();
    take(&one).unwrap();
    one.running.unit("a").unwrap().backing().unwrap().set_failed();
    lose_as_killed(&one);
    take(&other).unwrap();
    let has_failed = |unit| other.running.unit(unit).unwrap().backing().unwrap().has_failed();
    assert!(has_failed("a") && !has_failed("b"));
}

#[test]
fn that_a_unit_has_lost_bytes_stays_known_over_planned_restarts_as_another_daemon_may_come_first() {
    let (one, other) = two();
    take(&one).unwrap();
    one.running.unit("a").unwrap().backing().unwrap().set_failed();
    one.running.forget_failures_known();
    lose_as_killed(&one);
    take(&other).unwrap();
    assert!(other.running.unit("a").unwrap().backing().unwrap().has_failed());
    // Who serves it in the end ends in order.
    other.running.forget_failures();
    lose(&other);
    take(&one).unwrap();
    assert!(!one.running.unit("a").unwrap().backing().unwrap().has_failed());
}
