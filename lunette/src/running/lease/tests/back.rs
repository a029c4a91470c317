//! Units of which another process has left something.

use super::*;
use crate::handover::Handed;

/// What another process has handed over of a unit.
fn handed(rig: &Rig, unit: &str, term: u64) -> Handed {
    let naa = rig.running.leases.naa(&Name::of(unit)).unwrap().to_string();
    let state: UnitState = serde_json::from_str(r#"{ "failed": true }"#).unwrap();
    Handed::with_units([(naa.clone(), state)].into()).with_terms([(naa, term)].into())
}

#[test]
fn a_unit_is_taken_back_unless_it_was_served_elsewhere_since() {
    let (one, other) = two();
    take(&one).unwrap();
    // As if it was killed.
    let units = std::mem::take(&mut one.running.now_mut().units);
    for (name, unit) in units {
        one.running.show_unit(&name, [None, None]).unwrap();
        assert!(one.running.let_go_of(unit));
    }
    for (term, is_back) in [(0, false), (2, false), (1, true)] {
        other.running.take_back(&mut handed(&other, "a", term));
        assert_eq!(here(&other).contains(&"a".to_owned()), is_back);
    }
    let unit = other.running.unit("a").unwrap();
    assert!(unit.backing().unwrap().has_failed() && term(&other, "a").number == 2);
}

#[test]
fn a_unit_that_has_lost_bytes_knows_that_after_a_kill() {
    let (one, other) = two();
    take(&one).unwrap();
    one.running.unit("a").unwrap().backing().unwrap().set_failed();
    // As if it was killed: nothing ends in order.
    let units = std::mem::take(&mut one.running.now_mut().units);
    for (name, unit) in units {
        one.running.show_unit(&name, [None, None]).unwrap();
        let file = std::fs::read(file(&one, name.as_str()).with_extension("failed"));
        assert!(one.running.let_go_of(unit));
        file.into_iter().for_each(|bytes| {
            std::fs::write(self::file(&one, name.as_str()).with_extension("failed"), bytes).unwrap();
        });
    }
    take(&other).unwrap();
    let has_failed = |unit| other.running.unit(unit).unwrap().backing().unwrap().has_failed();
    assert!(has_failed("a") && !has_failed("b"));
}
