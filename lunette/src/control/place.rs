//! Places of units, as targets and exports have them.

use crate::config::values::{Lun, Name, Place};
use crate::notation::MAX_LUNS;
use lunette_control::Failure;
use std::collections::BTreeMap;
use std::fmt::Display;

/// What units are shown at.
pub(super) trait At: Copy + Ord + Display {
    /// The place of this logical unit number that is used if no other is said.
    fn usual(lun: u32) -> Self;
}

impl At for Lun {
    fn usual(lun: u32) -> Self {
        Self(lun)
    }
}

impl At for Place {
    fn usual(lun: u32) -> Self {
        Self { target: 0, lun }
    }
}

/// Shows a unit at a place, or where it is already, or at the lowest free one. Returns the place, and whether that is new.
pub(super) fn attach<K: At>(
    shown: &mut BTreeMap<K, Name>,
    unit: &Name,
    at: Option<K>,
) -> Result<(K, bool), Failure> {
    let known = shown.iter().find(|(_, other)| *other == unit).map(|(at, _)| *at);
    let free = || (0..MAX_LUNS).map(K::usual).find(|at| !shown.contains_key(at));
    let at = match at.or(known).or_else(free) {
        Some(at) => at,
        None => return Err(Failure::failed(format!("all {MAX_LUNS} logical unit numbers are taken"))),
    };
    match shown.get(&at) {
        Some(other) if other == unit => Ok((at, false)),
        Some(other) => {
            Err(Failure::new(Failure::CONFLICT, format!("at {at} there is the unit `{other}` already")))
        }
        None => {
            shown.insert(at, unit.clone());
            Ok((at, true))
        }
    }
}

/// Shows nothing any more at one place, or a unit nowhere any more. Returns where it was.
pub(super) fn detach<K: At>(
    shown: &mut BTreeMap<K, Name>,
    unit: Option<&Name>,
    at: Option<K>,
) -> Result<Vec<K>, Failure> {
    if unit.is_none() && at.is_none() {
        return Err(Failure::parameters("say which unit, or which place"));
    }
    let is_it = |(place, name): &(&K, &Name)| {
        at.is_none_or(|at| at == **place) && unit.is_none_or(|unit| unit == *name)
    };
    let gone: Vec<K> = shown.iter().filter(is_it).map(|(place, _)| *place).collect();
    if gone.is_empty() {
        let what = match (unit, at) {
            (Some(unit), Some(at)) => format!("the unit `{unit}` is not shown at {at}"),
            (Some(unit), None) => format!("the unit `{unit}` is not shown there"),
            (None, Some(at)) => format!("nothing is shown at {at}"),
            (None, None) => String::new(),
        };
        return Err(Failure::not_found(what));
    }
    gone.iter().for_each(|place| drop(shown.remove(place)));
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_get_the_lowest_free_place() {
        let mut shown = BTreeMap::from([(Lun(0), Name::of("a")), (Lun(2), Name::of("c"))]);
        let b = Name::of("b");
        assert_eq!(attach(&mut shown, &b, None).unwrap(), (Lun(1), true));
        assert_eq!(attach(&mut shown, &b, None).unwrap(), (Lun(1), false), "it is there already");
        assert_eq!(attach(&mut shown, &b, Some(Lun(7))).unwrap(), (Lun(7), true));
        assert_eq!(attach(&mut shown, &b, Some(Lun(2))).unwrap_err().code, Failure::CONFLICT);
        assert_eq!(detach(&mut shown, Some(&b), None).unwrap(), [Lun(1), Lun(7)]);
        assert_eq!(detach(&mut shown, Some(&b), None).unwrap_err().code, Failure::NOT_FOUND);
        assert_eq!(detach(&mut shown, None, Some(Lun(0))).unwrap(), [Lun(0)]);
        assert_eq!(
            detach(&mut shown, Some(&Name::of("a")), Some(Lun(2))).unwrap_err().code,
            Failure::NOT_FOUND
        );
        assert_eq!(detach::<Lun>(&mut shown, None, None).unwrap_err().code, Failure::PARAMETERS);
    }
}
