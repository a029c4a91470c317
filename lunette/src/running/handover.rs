//! Handing what is served over to another process, and going on with what another one has served.

use super::Running;
use super::exports::Export;
use crate::config::PortalKey;
use crate::config::values::Name;
use crate::handover::{Handed, Left, LeftExport, Memory};
use crate::stop::Deadline;
use crate::units::Unit;
use lunette_engine::{HeldByStore, NotReady, UnitState, held_by_stores};
use lunette_scsi::AdditionalSense;
use lunette_store::Cx;
use lunette_transport_iscsi::RestingSession;
use lunette_transport_vhost_user::HandedExport;
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A store that has had an operation for so long is taken for one that does not answer.
const OVERDUE: Duration = Duration::from_secs(10);
/// How long commands have that came so long ago, as they may have waited for something else.
const MOMENT: Duration = Duration::from_secs(2);
/// Between two looks at them.
const LOOK: Duration = Duration::from_millis(20);

/// What time it is by the clock of the machine, since the beginning of 1970.
pub(super) fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Running {
    /// What would keep this process from ending, as a store does not answer: what it is called. Waits a moment if something seems to.
    pub(crate) fn overdue(&self) -> BTreeSet<String> {
        let is_stuck =
            |why: &NotReady| why.additional == AdditionalSense::LOGICAL_UNIT_COMMUNICATION_TIME_OUT;
        let units = self.units().into_values().map(|unit| unit.unit);
        let stuck = units.filter(|unit| unit.not_ready().as_ref().is_some_and(is_stuck));
        let stuck: BTreeSet<_> = stuck.map(|unit| format!("the store of {}", unit.name)).collect();
        let look = || {
            let all = self.reactors.call_all_within(MOMENT, || |cx: &mut dyn Cx| held_by_stores(OVERDUE, cx));
            let told = |(reactor, held): (usize, Option<BTreeSet<HeldByStore>>)| match held {
                Some(held) => held.into_iter().map(|held| (reactor, Some(held))).collect(),
                None => vec![(reactor, None)],
            };
            all.into_iter().enumerate().flat_map(told).collect::<BTreeSet<_>>()
        };
        let (until, mut held) = (Instant::now() + MOMENT, look());
        while !held.is_empty() && Instant::now() < until {
            std::thread::sleep(LOOK);
            held = &held & &look();
        }
        let told = held.into_iter().map(|(reactor, held)| match held {
            Some(held) => format!("the store of {}", held.unit),
            None => format!("reactor {reactor}"),
        });
        stuck.into_iter().chain(told).collect()
    }

    /// Goes on with what another process has left of the units.
    pub(super) fn take_units_over(&self, handed: &mut Handed) {
        let (now, wall) = (self.reactors.clock()(), wall());
        for (name, unit) in self.units() {
            let naa = unit.unit.identity.naa.to_string();
            let state = handed.unit(&naa);
            if unit.unit.backing().is_some_and(|backing| backing.memory().is_some()) {
                handed.is_in_memory(name.as_str(), naa);
            }
            let Some(state) = state else { continue };
            if let Err(error) = unit.unit.take_over(state, now, wall) {
                tracing::warn!("{name} does not go on in all as it was in another process: {error}");
            }
        }
    }

    /// States of units by their world-wide names, and the bytes of those in memory by their names.
    fn leave_units(&self) -> (BTreeMap<String, UnitState>, BTreeMap<String, Memory>) {
        let (now, wall) = (self.reactors.clock()(), wall());
        let all = self.units();
        let states =
            all.values().map(|unit| (unit.unit.identity.naa.to_string(), unit.unit.hand_over(now, wall)));
        let memory = |(name, unit): (&Name, &Unit)| {
            let backing = unit.unit.backing()?;
            let file = backing.memory()?.try_clone_to_owned();
            let file = file.inspect_err(|error| tracing::warn!("{name} is not handed over: {error}")).ok()?;
            let record = (!unit.record.lasts()).then(|| unit.record.clone());
            Some((name.to_string(), Memory { file, size: backing.caps().size.get(), record }))
        };
        (states.collect(), all.iter().filter_map(memory).collect())
    }

    /// The sockets of portals, which accept nobody here any more.
    fn share_portals(&self) -> Vec<(PortalKey, TcpListener)> {
        let now = self.now();
        let share = |(key, gate): (_, &super::Gate)| {
            let shared = gate.portal.share();
            let warn = |error: &_| tracing::warn!(address = %gate.portal.address(), %error, "a portal is not handed over");
            Some((key, shared.inspect_err(warn).ok()?))
        };
        let portals = now.portals.iter().filter_map(|(key, gate)| share((*key, gate))).collect();
        let gates = now.portals.values().map(|gate| &gate.portal).chain(&now.adopted_portals);
        gates.for_each(|portal| portal.begin_stop(self.reactors));
        portals
    }

    /// Brings everything to rest, for another process. What has not come to rest after `drain` is ended as at a stop, and given up
    /// after `rest`, all before `deadline`.
    pub(crate) fn leave(&self, drain: Deadline, rest: Duration, deadline: Deadline) -> Left {
        let exports: BTreeMap<String, _> = {
            let now = self.now();
            let known = |export: &Export| (export.handle.clone(), export.ends_with_connection());
            let all = now.exports.values().chain(&now.adopted_exports);
            all.map(|export| (export.handle.name().to_owned(), known(export))).collect()
        };
        let (tell, told) = mpsc::channel();
        for (name, (handle, _)) in &exports {
            let (tell, name) = (tell.clone(), name.clone());
            handle.begin_hand_over(move |handed| drop(tell.send((name, handed))));
        }
        drop(tell);
        let sessions = self.entity.hand_over(drain.left(), self.reactors);
        let portals = self.share_portals();
        let mut handed: BTreeMap<String, HandedExport> = BTreeMap::new();
        // Meanwhile they give units up that others could serve too, so there are others.
        let mut collect = |deadline: Deadline| {
            while let Ok((name, export)) = told.recv_timeout(deadline.left()) {
                handed.insert(name, export);
            }
            exports
                .iter()
                .filter(|(name, _)| !handed.contains_key(*name))
                .map(|(_, (handle, _))| handle)
                .collect::<Vec<_>>()
        };
        collect(drain).into_iter().for_each(|handle| handle.begin_stop());
        let deadline = deadline.within(rest);
        let late = collect(deadline).into_iter().map(|handle| format!("vhost-user on {}", handle.name()));
        let late: Vec<_> = late.collect();
        let now = self.now();
        let gates = now.portals.values().map(|gate| &gate.portal).chain(&now.adopted_portals);
        let portals_late = gates.filter(|portal| !portal.wait(deadline.left()));
        let stuck = late
            .into_iter()
            .chain(portals_late.map(|portal| format!("iSCSI on {}", portal.address())))
            .collect();
        drop(now);
        // By now nothing is under way.
        let exports = exports.iter().filter_map(|(name, (handle, is_connected))| {
            let (nexuses, is_connected) = (handle.nexuses(), *is_connected);
            Some((name.clone(), LeftExport { handed: handed.remove(name)?, nexuses, is_connected }))
        });
        let exports = exports.collect();
        let sessions = sessions.into_iter().map(RestingSession::hand_over).collect();
        let (units, memories) = self.leave_units();
        let terms = self.now().all_terms();
        Left { units, terms, memories, portals, exports, sessions, stuck }
    }
}
