//! The throttles of a configuration at work: which limits count for which commands, also of units and initiators that come later.

use crate::config::{Each, Throttle};
use lunette_engine::{Limit, Limiter, Limits, LogicalUnit, Nexus};
use lunette_store::Post;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// All throttles, and the units that they may be about.
#[derive(Clone, Default)]
pub(crate) struct Throttles(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    active: Arc<[Active]>,
    units: Vec<Weak<LogicalUnit>>,
    exports: Exports,
}

/// The names of vhost-user exports by those of their initiator ports.
type Exports = Arc<Mutex<BTreeMap<String, String>>>;

/// A throttle and its limits.
struct Active {
    throttle: Throttle,
    shared: Arc<Limit>,
    /// If each has one of its own.
    own: Mutex<BTreeMap<String, Weak<Limit>>>,
}

/// Says what counts for one unit.
struct OfUnit {
    unit: String,
    active: Arc<[Active]>,
    exports: Exports,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Throttles {
    /// These count from now on, and no others, also for what is there already.
    pub(crate) fn set<'a>(&self, throttles: impl Iterator<Item = &'a Throttle>, post: &dyn Post) {
        let mut state = lock(&self.0);
        let before = state.active.clone();
        let known = |throttle: &Throttle| before.iter().find(|active| active.throttle.name == throttle.name);
        state.active = throttles.map(|throttle| Active::new(throttle, known(throttle), post)).collect();
        state.units.retain(|unit| unit.strong_count() > 0);
        // One change after the other.
        state.units.iter().filter_map(Weak::upgrade).for_each(|unit| state.limit(&unit, post));
    }

    /// They count for `unit` from now on.
    pub(crate) fn add_unit(&self, unit: &Arc<LogicalUnit>, post: &dyn Post) {
        let mut state = lock(&self.0);
        state.units.retain(|unit| unit.strong_count() > 0);
        state.units.push(Arc::downgrade(unit));
        state.limit(unit, post);
    }

    /// Who comes by a vhost-user export has this initiator port. To be said before it is served.
    pub(crate) fn add_export(&self, name: &str, initiator: &str) {
        lock(&lock(&self.0).exports).insert(initiator.to_owned(), name.to_owned());
    }
}

impl State {
    fn limit(&self, unit: &LogicalUnit, post: &dyn Post) {
        let (active, exports) = (self.active.clone(), self.exports.clone());
        unit.set_limiter(Arc::new(OfUnit { unit: unit.name.clone(), active, exports }), post);
    }
}

impl Limiter for OfUnit {
    fn limits(&self, nexus: &Nexus) -> Limits {
        let export = lock(&self.exports).get(&nexus.initiator).cloned();
        let counts = |active: &&Active| active.counts(&self.unit, nexus, export.as_deref());
        self.active.iter().filter(counts).map(|active| active.limit(&self.unit, nexus)).collect()
    }
}

impl Active {
    /// One that goes on with the limits of what was `before`.
    fn new(throttle: &Throttle, before: Option<&Self>, post: &dyn Post) -> Self {
        let rates = throttle.rates();
        let Some(before) = before else {
            return Self { throttle: throttle.clone(), shared: Limit::new(rates), own: Mutex::default() };
        };
        let own = match before.throttle.each == throttle.each {
            true => lock(&before.own).clone(),
            false => BTreeMap::new(),
        };
        if before.throttle.rates() != rates {
            before.shared.set(rates, post);
            own.values().filter_map(Weak::upgrade).for_each(|limit| limit.set(rates, post));
        }
        Self { throttle: throttle.clone(), shared: before.shared.clone(), own: Mutex::new(own) }
    }

    fn counts(&self, unit: &str, nexus: &Nexus, export: Option<&str>) -> bool {
        let Throttle { units, initiators, exports, .. } = &self.throttle;
        let is_about_all = initiators.is_empty() && exports.is_empty();
        let is_about_nexus = || match export {
            Some(export) => exports.iter().any(|name| name.as_str() == export),
            None => initiators.iter().any(|pattern| pattern.0.matches(nexus.name())),
        };
        (units.is_empty() || units.iter().any(|name| name.as_str() == unit))
            && (is_about_all || is_about_nexus())
    }

    fn limit(&self, unit: &str, nexus: &Nexus) -> Arc<Limit> {
        let key = match self.throttle.each {
            None => return self.shared.clone(),
            Some(Each::Unit) => unit.to_owned(),
            // They do not differ by case (RFC 7143 4.2.7).
            Some(Each::Initiator) => nexus.name().to_lowercase(),
        };
        let mut own = lock(&self.own);
        if let Some(limit) = own.get(&key).and_then(Weak::upgrade) {
            return limit;
        }
        own.retain(|_, limit| limit.strong_count() > 0);
        let limit = Limit::new(self.throttle.rates());
        own.insert(key, Arc::downgrade(&limit));
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_device_disk::{Disk, Options};
    use lunette_engine::{Identity, Rates, TargetPort};
    use lunette_scsi::{Naa, Protocol};
    use lunette_store::ram::Ram;
    use lunette_store::sim::Sim;
    use lunette_store::{Backing, Cx};
    use std::path::Path;

    fn throttles(text: &str) -> Vec<Throttle> {
        let all = format!(
            "{text}[[unit]]\nname = \"a\"\nstore = \"ram:1M\"\n[[unit]]\nname = \"b\"\nstore = \"ram:1M\"\n"
        );
        let setting = crate::config::Setting {
            iscsi_sockets: None,
            vhost_user_sockets: Some(true),
            looks_at_system: false,
            is_whole: false,
        };
        let model = crate::config::from_text(Path::new("/x"), all, setting);
        model.unwrap_or_else(|report| panic!("{report}")).0.throttles.into_values().collect()
    }

    fn unit(name: &str) -> Arc<LogicalUnit> {
        let store = Arc::new(Ram::new(1 << 20).unwrap());
        let disk = Disk::new(&Options::default(), Backing::caps(&*store)).unwrap();
        LogicalUnit::new(name, Identity::new(name, Naa::locally_assigned(1)), Box::new(disk), Some(store))
    }

    fn nexus(initiator: &str) -> Arc<Nexus> {
        Nexus::new(initiator, TargetPort::new("p", 1, Protocol::ISCSI, BTreeMap::new()))
    }

    const GOLD: &str = "[[throttle]]\nname = \"gold\"\niops = 100\nunits = [\"a\"]\n";

    /// The limits of `initiator` at the units a and b.
    fn limits(throttles: &Throttles, initiator: &str) -> [Limits; 2] {
        let state = lock(&throttles.0);
        let of = |unit: &str| OfUnit {
            unit: unit.into(),
            active: state.active.clone(),
            exports: state.exports.clone(),
        };
        ["a", "b"].map(|unit| of(unit).limits(&nexus(initiator)))
    }

    #[test]
    fn who_shares_a_limit_and_who_has_his_own() {
        let sim = &mut Sim::new(1);
        let post = sim.cx(0).poster();
        let all = Throttles::default();
        all.add_unit(&unit("a"), &*post);
        all.add_export("vm", "naa.1");
        let each = "[[throttle]]\nname = \"each\"\nbandwidth = \"1M\"\ninitiators = [\"iqn.a*\"]\neach = \"initiator\"\n";
        let per_unit = "[[throttle]]\nname = \"unit\"\niops = 5\neach = \"unit\"\n";
        all.set(throttles(&format!("{GOLD}{each}{per_unit}")).iter(), &*post);
        let count = |initiator: &str| limits(&all, initiator).map(|limits| limits.len());
        assert_eq!((count("iqn.a1,i,0x1"), count("iqn.b,i,0x1"), count("naa.1")), ([3, 2], [2, 1], [2, 1]));
        // By name: each, gold, unit.
        let [a, b] = limits(&all, "iqn.a1,i,0x1");
        let [other, _] = limits(&all, "iqn.a2,i,0x1");
        let [again, _] = limits(&all, "IQN.A1,i,0x2");
        assert!(Arc::ptr_eq(&a[0], &b[0]) && Arc::ptr_eq(&a[0], &again[0]) && !Arc::ptr_eq(&a[0], &other[0]));
        assert!(Arc::ptr_eq(&a[1], &other[1]) && Arc::ptr_eq(&a[2], &other[2]) && !Arc::ptr_eq(&a[2], &b[1]));
    }

    #[test]
    fn virtual_machines_are_known_by_their_exports() {
        let sim = &mut Sim::new(1);
        let post = sim.cx(0).poster();
        let all = Throttles::default();
        let vm = Throttle {
            exports: vec!["vm".parse().unwrap()],
            units: Vec::new(),
            ..throttles(GOLD)[0].clone()
        };
        all.set([vm].iter(), &*post);
        all.add_export("vm", "naa.1");
        all.add_export("other", "naa.2");
        let count = |initiator: &str| limits(&all, initiator).map(|limits| limits.len());
        assert_eq!((count("naa.1"), count("naa.2"), count("iqn.a,i,0x1")), ([1, 1], [0, 0], [0, 0]));
    }

    #[test]
    fn a_throttle_that_changes_keeps_its_limit() {
        let sim = &mut Sim::new(1);
        let post = sim.cx(0).poster();
        let all = Throttles::default();
        all.set(throttles(GOLD).iter(), &*post);
        let [before, _] = limits(&all, "x");
        let faster = throttles(&GOLD.replace("100", "200"));
        all.set(faster.iter(), &*post);
        let [after, _] = limits(&all, "x");
        assert!(Arc::ptr_eq(&before[0], &after[0]));
        assert_eq!(
            faster[0].rates().commands.map(|rate| (rate.per_second.get(), rate.burst)),
            Some((200, 20))
        );
        assert_eq!(faster[0].rates(), Rates { bytes: None, ..faster[0].rates() });
        all.set([].iter(), &*post);
        assert_eq!(limits(&all, "x").map(|limits| limits.len()), [0, 0]);
    }
}
