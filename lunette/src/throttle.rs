//! The throttles of a configuration at work: which limits count for which commands, also of units and initiators that come later.

use crate::config::values::Label;
use crate::config::{Each, Throttle};
use lunette_engine::{Delays, Limit, Limiter, Limits, LogicalUnit, Nexus, Rates};
use lunette_store::Post;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Tells what time it is for reactors.
type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// All throttles, and the units that they may be about.
#[derive(Clone)]
pub(crate) struct Throttles(Arc<Mutex<State>>);

struct State {
    active: Arc<[Active]>,
    units: Vec<Weak<LogicalUnit>>,
    sweep: Sweep,
    exports: Exports,
    clock: Clock,
}

/// The names of vhost-user exports by those of their initiator ports.
type Exports = Arc<Mutex<BTreeMap<String, String>>>;

/// A throttle and its limits.
struct Active {
    throttle: Throttle,
    delays: Arc<Delays>,
    shared: Arc<Limit>,
    /// If each has one of its own.
    own: Mutex<Own>,
    clock: Clock,
}

/// The limits of each. Who goes and comes again finds his as he has left it: they are kept until they allow what new ones would.
#[derive(Clone, Default)]
struct Own {
    limits: BTreeMap<String, Arc<Limit>>,
    sweep: Sweep,
}

/// When to look for what is of no use any more: when there is twice as much as was left the last time, so that it takes no longer
/// than what has come since.
#[derive(Clone, Copy, Default)]
struct Sweep(usize);

impl Sweep {
    const LEAST: usize = 16;

    fn is_due(self, count: usize) -> bool {
        count >= self.0.max(Self::LEAST)
    }

    fn has_left(&mut self, count: usize) {
        self.0 = count.saturating_mul(2);
    }
}

impl Own {
    /// So many at most are kept that nobody uses: who has them may be somebody who never comes again.
    const MOST: usize = 1 << 14;

    fn limit(&mut self, key: String, rates: Rates, delays: &Arc<Delays>, now: Duration) -> Arc<Limit> {
        if let Some(limit) = self.limits.get(&key) {
            return limit.clone();
        }
        if self.sweep.is_due(self.limits.len()) {
            let mut kept = 0;
            self.limits.retain(|_, limit| {
                let is_idle = Arc::strong_count(limit) == 1;
                let stays = !is_idle || (!limit.has_rested(now) && kept < Self::MOST);
                kept += usize::from(is_idle && stays);
                stays
            });
            self.sweep.has_left(self.limits.len());
        }
        let limit = Limit::with_delays(rates, delays.clone());
        self.limits.insert(key, limit.clone());
        limit
    }
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
    /// None yet. `clock` says what time it is for reactors.
    pub(crate) fn new(clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(Mutex::new(State {
            active: Arc::new([]),
            units: Vec::new(),
            sweep: Sweep::default(),
            exports: Exports::default(),
            clock: Arc::new(clock),
        })))
    }

    /// These count from now on, and no others, also for what is there already.
    pub(crate) fn set<'a>(&self, throttles: impl Iterator<Item = &'a Throttle>, post: &dyn Post) {
        let mut state = lock(&self.0);
        let (before, clock) = (state.active.clone(), state.clock.clone());
        let before: BTreeMap<&str, &Active> =
            before.iter().map(|active| (active.throttle.name.as_str(), active)).collect();
        let known = |throttle: &Throttle| before.get(throttle.name.as_str()).copied();
        state.active =
            throttles.map(|throttle| Active::new(throttle, known(throttle), &clock, post)).collect();
        state.units.retain(|unit| unit.strong_count() > 0);
        // One change after the other.
        state.units.iter().filter_map(Weak::upgrade).for_each(|unit| state.limit(&unit, post));
    }

    /// They count for `unit` from now on.
    pub(crate) fn add_unit(&self, unit: &Arc<LogicalUnit>, post: &dyn Post) {
        let mut state = lock(&self.0);
        if state.sweep.is_due(state.units.len()) {
            state.units.retain(|unit| unit.strong_count() > 0);
            let left = state.units.len();
            state.sweep.has_left(left);
        }
        state.units.push(Arc::downgrade(unit));
        state.limit(unit, post);
    }

    /// What is counted of those who wait for each, by its name.
    pub(crate) fn delays(&self) -> BTreeMap<Label, Arc<Delays>> {
        let active = lock(&self.0).active.clone();
        active.iter().map(|active| (active.throttle.name.clone(), active.delays.clone())).collect()
    }

    /// Who comes by a vhost-user export has this initiator port. To be said before it is served.
    pub(crate) fn add_export(&self, name: &str, initiator: &str) {
        lock(&lock(&self.0).exports).insert(initiator.to_owned(), name.to_owned());
    }

    /// The export of this initiator port is served no more.
    pub(crate) fn remove_export(&self, initiator: &str) {
        lock(&lock(&self.0).exports).remove(initiator);
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
    fn new(throttle: &Throttle, before: Option<&Self>, clock: &Clock, post: &dyn Post) -> Self {
        let (rates, throttle, clock) = (throttle.rates(), throttle.clone(), clock.clone());
        let Some(before) = before else {
            let delays = Arc::<Delays>::default();
            let shared = Limit::with_delays(rates, delays.clone());
            return Self { throttle, delays, shared, own: Mutex::default(), clock };
        };
        let own = match before.throttle.each == throttle.each {
            true => lock(&before.own).clone(),
            false => Own::default(),
        };
        if before.throttle.rates() != rates {
            before.shared.set(rates, post);
            own.limits.values().for_each(|limit| limit.set(rates, post));
        }
        let (delays, shared) = (before.delays.clone(), before.shared.clone());
        Self { throttle, delays, shared, own: Mutex::new(own), clock }
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
        lock(&self.own).limit(key, self.throttle.rates(), &self.delays, (self.clock)())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_device_disk::{Disk, Options};
    use lunette_engine::{CommandFrame, Completion, Identity, Responder, Session, TargetPort};
    use lunette_scsi::{Cdb, Lun, Naa, Protocol, ServiceResponse};
    use lunette_store::ram::Ram;
    use lunette_store::sim::Sim;
    use lunette_store::{Backing, Cx, Sg};
    use std::path::Path;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicU64, Ordering};

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
        let all = Throttles::new(|| Duration::ZERO);
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
        let all = Throttles::new(|| Duration::ZERO);
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
        let all = Throttles::new(|| Duration::ZERO);
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

    /// What becomes of commands does not matter.
    struct Deaf;

    impl Responder for Deaf {
        fn command_ended(&self, _: u64, _: Completion, _: &mut dyn Cx) {}
        fn management_ended(&self, _: u64, _: ServiceResponse, _: &mut dyn Cx) {}
    }

    /// Has an initiator log in, read so often and log out.
    fn read(sim: &mut Sim, unit: &Arc<LogicalUnit>, initiator: &str, times: u32) {
        let port = TargetPort::new("p", 1, Protocol::ISCSI, BTreeMap::from([(0, unit.clone())]));
        let responder: Rc<dyn Responder> = Rc::new(Deaf);
        let session = Session::open(Nexus::new(initiator, port), Rc::downgrade(&responder), sim.cx(0));
        // The first one is told that the unit was powered on.
        for _ in 0..=times {
            let cdb = Cdb::new(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]).unwrap();
            let frame = CommandFrame::new(Lun::from_index(0), &cdb);
            session.execute(&frame, Sg::empty(), Sg::empty(), sim.cx(0));
        }
        session.close(0, sim.cx(0));
        sim.settle();
    }

    #[test]
    fn who_comes_again_finds_his_limit_as_he_has_left_it() {
        let sim = &mut Sim::new(1);
        let post = sim.cx(0).poster();
        let time = Arc::<AtomicU64>::default();
        let clock = time.clone();
        let all = Throttles::new(move || Duration::from_secs(clock.load(Ordering::Relaxed)));
        let unit = unit("a");
        all.add_unit(&unit, &*post);
        let each = GOLD.replace("iops = 100", "iops = 1\neach = \"initiator\"");
        all.set(throttles(&each).iter(), &*post);
        let others = |range: std::ops::Range<u32>| {
            range.for_each(|number| drop(limits(&all, &format!("other {number}"))));
            lock(&lock(&all.0).active[0].own).limits.len()
        };
        read(sim, &unit, "x", 1);
        let number_of = |initiator: &str| Arc::as_ptr(&limits(&all, initiator)[0][0]);
        let before = number_of("x");
        assert!(others(0..100) < 50, "what nobody has used is not kept");
        assert_eq!(number_of("x"), before);
        // Also when the throttle is for others for a while.
        all.set(throttles(&each.replace("\"a\"", "\"b\"")).iter(), &*post);
        all.set(throttles(&each).iter(), &*post);
        assert_eq!(number_of("x"), before);
        time.store(2, Ordering::Relaxed);
        others(100..200);
        assert!(!lock(&lock(&all.0).active[0].own).limits.contains_key("x"));
    }

    #[test]
    fn what_has_gone_leaves_nothing_behind() {
        let sim = &mut Sim::new(1);
        let post = sim.cx(0).poster();
        let all = Throttles::new(|| Duration::ZERO);
        for number in 0..1000 {
            all.add_unit(&unit("a"), &*post);
            all.add_export("vm", &format!("naa.{number}"));
            all.remove_export(&format!("naa.{number}"));
        }
        let state = lock(&all.0);
        assert!(state.units.len() <= 2 * Sweep::LEAST && lock(&state.exports).is_empty());
    }
}
