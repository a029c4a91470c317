//! Asymmetric logical unit access (SPC-4 5.15): the target ports through which a unit is seen, the groups that they
//! belong to, and what these let through.

use crate::{LogicalUnit, LunMap, Nexus, Run, TargetPort};
use lunette_scsi::{
    AccessState, AccessStatus, AdditionalSense, Sense, SenseKey, SetTargetPortGroup, TargetPortGroup,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

/// How well a logical unit has to be accessible through the target port by which a command comes (SPC-4 5.15.2.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Access {
    /// Not at all: the command is processed in every state.
    Any,
    /// The port may be unavailable or offline, but its state must not be changing.
    Unavailable,
    /// The port may be in standby.
    Standby,
    /// The port has to be active.
    Active,
}

impl Access {
    /// What a port in `state` gives.
    fn in_state(state: AccessState) -> Self {
        match state {
            AccessState::STANDBY => Self::Standby,
            AccessState::UNAVAILABLE | AccessState::OFFLINE => Self::Unavailable,
            AccessState::TRANSITIONING => Self::Any,
            _ => Self::Active,
        }
    }
}

/// Why the access through a target port group cannot be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AccessError {
    /// No port of it shows the unit.
    #[error("the unit is not seen through target port group {0}")]
    NoSuchGroup(u16),
    /// A state that units do not have.
    #[error("the access state `{0}` is not supported")]
    Unsupported(AccessState),
}

/// The states that a port can have; all but logical block dependent, for which a unit would have to be in parts.
const SUPPORTED: u8 = AccessState::ACTIVE_OPTIMIZED.support_bit()
    | AccessState::ACTIVE_NON_OPTIMIZED.support_bit()
    | AccessState::STANDBY.support_bit()
    | AccessState::UNAVAILABLE.support_bit()
    | AccessState::OFFLINE.support_bit()
    | AccessState::TRANSITIONING.support_bit();

/// The secondary target port group, of the ports that are offline. It is no port's own.
const OFFLINE_GROUP: u16 = 0xffff;

/// The ways to a unit.
#[derive(Default)]
pub(crate) struct Paths {
    ports: Vec<Way>,
    groups: BTreeMap<u16, Group>,
    /// Names of ports.
    offline: BTreeSet<String>,
    explicit: ExplicitAccess,
}

/// A target port, and those of its maps in which the unit is.
struct Way {
    port: Weak<TargetPort>,
    maps: Vec<Weak<LunMap>>,
}

impl Way {
    /// The port, if it is there and somebody can see the unit through it.
    fn port(&self) -> Option<Arc<TargetPort>> {
        let is_open = self.maps.iter().any(|map| map.strong_count() > 0);
        self.port.upgrade().filter(|_| is_open)
    }
}

/// A target port group as a unit sees it.
#[derive(Clone, Copy)]
struct Group {
    state: AccessState,
    /// The state that it begins with.
    configured: AccessState,
    preferred: bool,
    status: AccessStatus,
}

impl Default for Group {
    fn default() -> Self {
        let state = AccessState::ACTIVE_OPTIMIZED;
        Self { state, configured: state, preferred: false, status: AccessStatus::NONE }
    }
}

/// What SET TARGET PORT GROUPS has changed, as it is saved.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct ExplicitAccess {
    /// By target port group.
    groups: BTreeMap<u16, ExplicitState>,
    /// The names of ports that are offline.
    offline: BTreeSet<String>,
}

/// A state that was set in place of a configured one, and lasts until another is configured.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
struct ExplicitState {
    configured: u8,
    state: u8,
}

/// A change of the access to a unit.
#[derive(Clone)]
enum Change {
    Group(u16, AccessState),
    Offline(Arc<TargetPort>),
}

/// Explicit changes that can be made.
#[derive(Clone)]
struct ExplicitChanges {
    changes: Vec<Change>,
    /// What is to be saved.
    explicit: ExplicitAccess,
}

impl ExplicitAccess {
    /// Where it is saved.
    pub(crate) const SECTION: &str = "target_port_groups";

    /// Nothing is set any more for a group with these ports.
    fn forget(&mut self, group: u16, ports: &[Arc<TargetPort>]) {
        self.groups.remove(&group);
        self.offline.retain(|name| ports.iter().all(|port| port.name != *name));
    }
}

impl Paths {
    /// `map` of `port` shows the unit. Returns whether none of that port did before.
    fn add(&mut self, port: &Arc<TargetPort>, map: &Arc<LunMap>) -> bool {
        self.ports.retain(|way| way.port().is_some());
        let known = self.ports.iter_mut().find(|way| way.port.as_ptr() == Arc::as_ptr(port));
        let is_new = known.is_none();
        match known {
            Some(way) => {
                way.maps.retain(|other| other.strong_count() > 0);
                way.maps.push(Arc::downgrade(map));
            }
            None => self.ports.push(Way { port: Arc::downgrade(port), maps: vec![Arc::downgrade(map)] }),
        }
        is_new
    }

    /// `map` does not show it any more. Returns whether it was the last of its port.
    fn remove(&mut self, map: &Arc<LunMap>) -> bool {
        for way in &mut self.ports {
            way.maps.retain(|other| other.as_ptr() != Arc::as_ptr(map));
        }
        let before = self.ports.len();
        self.ports.retain(|way| way.port().is_some());
        self.ports.len() < before
    }

    /// The ports that there are, by their relative identifiers.
    fn ports(&self) -> Vec<Arc<TargetPort>> {
        let mut ports: Vec<_> = self.ports.iter().filter_map(Way::port).collect();
        ports.sort_by_key(|port| port.relative_id);
        ports
    }

    fn ports_of(&self, group: u16) -> Vec<Arc<TargetPort>> {
        let mut ports = self.ports();
        ports.retain(|port| port.group == group);
        ports
    }

    fn is_offline(&self, port: &TargetPort) -> bool {
        self.offline.contains(&port.name)
    }

    fn group(&self, id: u16) -> Group {
        self.groups.get(&id).copied().unwrap_or_default()
    }

    fn state_of(&self, port: &TargetPort) -> AccessState {
        if self.is_offline(port) { AccessState::OFFLINE } else { self.group(port.group).state }
    }

    /// Whether every command may come through `port`.
    pub(crate) fn is_active(&self, port: &TargetPort) -> bool {
        Access::in_state(self.state_of(port)) == Access::Active
    }

    /// Every group that has ports, and the secondary group of those that are offline.
    fn report(&self) -> Vec<TargetPortGroup> {
        let mut members = BTreeMap::<u16, Vec<u16>>::new();
        for port in self.ports() {
            members.entry(port.group).or_default().push(port.relative_id);
            if self.is_offline(&port) {
                members.entry(OFFLINE_GROUP).or_default().push(port.relative_id);
            }
        }
        let describe = |(id, ports)| {
            let offline = Group { state: AccessState::OFFLINE, ..Group::default() };
            let Group { state, preferred, status, .. } =
                if id == OFFLINE_GROUP { offline } else { self.group(id) };
            TargetPortGroup { id, state, preferred, supported: SUPPORTED, status, ports }
        };
        members.into_iter().map(describe).collect()
    }

    /// Makes a change. Returns whether it was one.
    fn make(&mut self, change: &Change, status: AccessStatus) -> bool {
        match change {
            Change::Offline(port) => self.offline.insert(port.name.clone()),
            Change::Group(id, state) => {
                let mut changed = false;
                for port in self.ports_of(*id) {
                    changed |= self.offline.remove(&port.name);
                }
                let group = self.groups.entry(*id).or_default();
                if group.state != *state {
                    (group.state, group.status) = (*state, status);
                    changed = true;
                }
                changed
            }
        }
    }

    /// What SET TARGET PORT GROUPS asks for, all or nothing.
    fn check(&self, wanted: &[SetTargetPortGroup]) -> Result<ExplicitChanges, Sense> {
        let mut asked = BTreeSet::new();
        let mut changes = Vec::new();
        let mut explicit = self.explicit.clone();
        for &SetTargetPortGroup { state, id, offset } in wanted {
            let invalid = |at, bit| Sense::invalid_field_in_parameter_list(offset + at, bit);
            let wrong_id = || invalid(SetTargetPortGroup::ID_AT, None);
            if state.support_bit() & SUPPORTED == 0 || state == AccessState::TRANSITIONING {
                return Err(invalid(SetTargetPortGroup::STATE_AT, Some(3)));
            }
            let is_offline = state == AccessState::OFFLINE;
            if !asked.insert((is_offline, id)) {
                return Err(wrong_id());
            }
            if is_offline {
                let port =
                    self.ports().into_iter().find(|port| port.relative_id == id).ok_or_else(wrong_id)?;
                explicit.offline.insert(port.name.clone());
                changes.push(Change::Offline(port));
                continue;
            }
            let ports = self.ports_of(id);
            let group = self.group(id);
            if ports.is_empty() {
                return Err(wrong_id());
            }
            if group.state == AccessState::TRANSITIONING {
                return Err(refusal(AccessState::TRANSITIONING));
            }
            explicit.forget(id, &ports);
            explicit.groups.insert(id, ExplicitState { configured: group.configured.0, state: state.0 });
            changes.push(Change::Group(id, state));
        }
        Ok(ExplicitChanges { changes, explicit })
    }

    /// What SET TARGET PORT GROUPS has changed.
    pub(crate) fn explicit(&self) -> ExplicitAccess {
        self.explicit.clone()
    }

    /// Puts explicit changes into effect again.
    fn restore(&mut self, mut explicit: ExplicitAccess) {
        explicit.groups.retain(|id, saved| {
            let group = self.groups.entry(*id).or_default();
            let lasts = group.configured.0 == saved.configured;
            if lasts {
                (group.state, group.status) = (AccessState(saved.state), AccessStatus::EXPLICIT);
            }
            lasts
        });
        self.offline.clone_from(&explicit.offline);
        self.explicit = explicit;
    }
}

/// What commands are told that a port in `state` does not let through.
fn refusal(state: AccessState) -> Sense {
    Sense::not_ready(match state {
        AccessState::STANDBY => AdditionalSense::LOGICAL_UNIT_NOT_ACCESSIBLE_TARGET_PORT_IN_STANDBY_STATE,
        AccessState::OFFLINE => AdditionalSense::LOGICAL_UNIT_NOT_READY_OFFLINE,
        AccessState::TRANSITIONING => {
            AdditionalSense::LOGICAL_UNIT_NOT_ACCESSIBLE_ASYMMETRIC_ACCESS_STATE_TRANSITION
        }
        _ => AdditionalSense::LOGICAL_UNIT_NOT_ACCESSIBLE_TARGET_PORT_IN_UNAVAILABLE_STATE,
    })
}

/// Whether units may begin in a state.
fn can_begin(state: AccessState) -> Result<(), AccessError> {
    let begins = SUPPORTED & !AccessState::OFFLINE.support_bit() & !AccessState::TRANSITIONING.support_bit();
    if state.support_bit() & begins == 0 { Err(AccessError::Unsupported(state)) } else { Ok(()) }
}

/// The ways to the unit.
impl LogicalUnit {
    /// It is seen through `map` of `port` from now on.
    pub(crate) fn seen_through(&self, port: &Arc<TargetPort>, map: &Arc<LunMap>) {
        let is_new = self.state().paths.add(port, map);
        if is_new {
            self.establish_attention(AdditionalSense::INQUIRY_DATA_HAS_CHANGED, None);
        }
    }

    /// It is not seen through `map` any more.
    pub(crate) fn seen_no_more_through(&self, map: &Arc<LunMap>) {
        let was_last = self.state().paths.remove(map);
        if was_last {
            self.establish_attention(AdditionalSense::INQUIRY_DATA_HAS_CHANGED, None);
        }
    }

    /// The target ports through which it is seen, by their relative identifiers.
    pub fn ports(&self) -> Vec<Arc<TargetPort>> {
        self.with_paths(Paths::ports)
    }

    /// The target port groups through which it is seen, by their identifiers.
    pub fn port_groups(&self) -> Vec<TargetPortGroup> {
        self.with_paths(Paths::report)
    }

    /// How well it is accessible through `port`.
    pub fn access_through(&self, port: &TargetPort) -> AccessState {
        self.with_paths(|paths| paths.state_of(port))
    }

    /// Whether a command that needs `access` is processed when it comes through `port`.
    ///
    /// # Errors
    /// NOT READY, for the port's state.
    pub fn accessible(&self, port: &TargetPort, access: Access) -> Result<(), Sense> {
        let state = self.access_through(port);
        if access <= Access::in_state(state) { Ok(()) } else { Err(refusal(state)) }
    }

    /// The state in which a group begins, and whether it is preferred; otherwise it is active/optimized. To be said before
    /// the kept state is put into effect and before the first session.
    ///
    /// # Errors
    /// When units do not begin in that state.
    pub fn configure_access(
        &self,
        group: u16,
        state: AccessState,
        preferred: bool,
    ) -> Result<(), AccessError> {
        can_begin(state)?;
        let group_state = Group { state, configured: state, preferred, ..Group::default() };
        self.change_paths(|paths| paths.groups.insert(group, group_state));
        Ok(())
    }

    /// Configures the access through target port groups anew while the unit is used; all others are active/optimized. What
    /// SET TARGET PORT GROUPS has changed for a group that was or is configured otherwise counts no more. Every nexus is told.
    ///
    /// # Errors
    /// When units do not begin in one of these states; nothing has changed then.
    pub fn reconfigure_access(&self, groups: &[(u16, AccessState, bool)]) -> Result<(), AccessError> {
        groups.iter().try_for_each(|&(_, state, _)| can_begin(state))?;
        let changed = self.change_paths(|paths| {
            let known: BTreeSet<u16> =
                paths.groups.keys().copied().chain(groups.iter().map(|(group, ..)| *group)).collect();
            let mut changed = false;
            for id in known {
                let wanted = groups.iter().find(|(group, ..)| *group == id);
                let &(_, state, preferred) = wanted.unwrap_or(&(id, AccessState::ACTIVE_OPTIMIZED, false));
                let before = paths.group(id);
                if (before.configured, before.preferred) == (state, preferred) {
                    continue;
                }
                let ports = paths.ports_of(id);
                paths.explicit.forget(id, &ports);
                paths.offline.retain(|name| ports.iter().all(|port| port.name != *name));
                let status = AccessStatus::IMPLICIT;
                paths.groups.insert(id, Group { state, configured: state, preferred, status });
                changed = true;
            }
            changed
        });
        if changed {
            self.establish_attention(AdditionalSense::ASYMMETRIC_ACCESS_STATE_CHANGED, None);
        }
        Ok(())
    }

    /// Changes the access through a group by itself, as the operator wants it (implicit, SPC-4 5.15.2.8), and tells every
    /// nexus. It is not saved. Ports that were offline come back; a group that is to be offline has all of them so.
    ///
    /// # Errors
    /// When there is no such group, or units do not have that state.
    pub fn set_access(&self, group: u16, state: AccessState) -> Result<(), AccessError> {
        if state.support_bit() & SUPPORTED == 0 {
            return Err(AccessError::Unsupported(state));
        }
        let changed = self.change_paths(|paths| {
            let ports = paths.ports_of(group);
            if ports.is_empty() {
                return Err(AccessError::NoSuchGroup(group));
            }
            paths.explicit.forget(group, &ports);
            let changes = match state {
                AccessState::OFFLINE => ports.into_iter().map(Change::Offline).collect(),
                state => vec![Change::Group(group, state)],
            };
            Ok(changes.iter().fold(false, |any, change| paths.make(change, AccessStatus::IMPLICIT) | any))
        })?;
        if changed {
            self.establish_attention(AdditionalSense::ASYMMETRIC_ACCESS_STATE_CHANGED, None);
        }
        Ok(())
    }

    /// The changes that SET TARGET PORT GROUPS asks for.
    fn check_access(&self, wanted: &[SetTargetPortGroup]) -> Result<ExplicitChanges, Sense> {
        self.with_paths(|paths| paths.check(wanted))
    }

    /// Makes changes that a nexus has asked for, and tells the others.
    fn apply_access(&self, ExplicitChanges { changes, explicit }: &ExplicitChanges, by: &Nexus) {
        let changed = self.change_paths(|paths| {
            let any =
                changes.iter().fold(false, |any, change| paths.make(change, AccessStatus::EXPLICIT) | any);
            paths.explicit.clone_from(explicit);
            any
        });
        if changed {
            self.establish_attention(AdditionalSense::ASYMMETRIC_ACCESS_STATE_CHANGED, Some(by));
        }
    }

    /// Makes the explicit changes again that were saved.
    pub(crate) fn restore_access(&self, explicit: ExplicitAccess) {
        self.change_paths(|paths| paths.restore(explicit));
    }

    fn with_paths<R>(&self, ask: impl FnOnce(&Paths) -> R) -> R {
        ask(&self.state().paths)
    }

    fn change_paths<R>(&self, change: impl FnOnce(&mut Paths) -> R) -> R {
        // No nexus may end while the state is locked.
        let mut met = Vec::new();
        let mut state = self.state();
        let result = change(&mut state.paths);
        met.extend(state.nexuses.iter().filter_map(|met| Some((met.nexus.upgrade()?, met.itl.upgrade()?))));
        met.iter().for_each(|(nexus, itl)| itl.set_active(state.paths.is_active(&nexus.port)));
        drop(state);
        result
    }
}

impl Run {
    /// Saves and makes the changes that `list` asks for.
    pub(crate) async fn set_access(&self, wanted: &[SetTargetPortGroup]) -> Result<(), Sense> {
        let turn = self.turn().await?;
        let changes = self.unit.check_access(wanted)?;
        let (explicit, by) = (changes.explicit.clone(), self.nexus.clone());
        let saved = self.save(&turn, ExplicitAccess::SECTION, explicit, move |unit| {
            unit.apply_access(&changes, &by);
        });
        let failed = AdditionalSense::SET_TARGET_PORT_GROUPS_COMMAND_FAILED;
        saved.await.map_err(|sense| match sense.key {
            SenseKey::HARDWARE_ERROR => Sense::hardware_error(failed),
            _ => sense,
        })
    }
}
