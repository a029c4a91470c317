//! What a target is at one time: its ports, its access rules and what they show.

use crate::TargetOptions;
use crate::access::{AccessRule, Denied};
use crate::sessions::{InitiatorPort, RuleId};
use lunette_engine::{AttentionObserver, LogicalUnit, LunMap, Nexus, TargetPort};
use lunette_iscsi::target::SessionInfo;
use lunette_store::Post;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Logical units by logical unit number.
type Units = BTreeMap<u32, Arc<LogicalUnit>>;

/// What a target is at one time. Another takes its place as a whole.
pub(crate) struct Offer {
    pub(crate) options: TargetOptions,
    /// One for each access rule.
    views: Vec<View>,
}

/// What the initiators of an access rule see. It may outlive the rule, in another.
#[derive(Clone)]
struct View {
    id: RuleId,
    /// By portal group tag; none if that is what the port shows to everybody.
    maps: BTreeMap<u16, Arc<LunMap>>,
}

impl Offer {
    /// What a target is to be, which was `before`. The initiators of a rule that is for the same names and addresses as one
    /// before, or else shows the same units, see through the same maps; these do not show anything else before
    /// [`show`](Self::show).
    pub(crate) fn new(options: TargetOptions, before: Option<&Self>) -> Self {
        let mut former: Vec<_> = before.map_or(Vec::new(), |before| {
            before.options.access.rules.iter().zip(&before.views).map(Some).collect()
        });
        let mut take = |is_it: &dyn Fn(&AccessRule) -> bool| {
            let found = former.iter_mut().find(|known| known.is_some_and(|(rule, _)| is_it(rule)))?;
            found.take().map(|(_, view)| view.clone())
        };
        let rules = &options.access.rules;
        let same: Vec<_> = rules.iter().map(|rule| take(&|known| is_for_the_same(known, rule))).collect();
        let views = rules.iter().zip(same).map(|(rule, same)| {
            let known = same.or_else(|| take(&|known| shows_the_same(known, rule)));
            View::of(rule, &options.groups, known)
        });
        let views = views.collect();
        Self { options, views }
    }

    /// Has the maps show what the rules say.
    pub(crate) fn show(&self, post: &dyn Post) {
        for (rule, view) in self.options.access.rules.iter().zip(&self.views) {
            let Some(wanted) = &rule.luns else { continue };
            view.maps.values().for_each(|map| map.change(post, |units| units.clone_from(wanted)));
        }
    }

    /// Its port in a portal group.
    pub(crate) fn port(&self, group_tag: u16) -> Option<&Arc<TargetPort>> {
        self.options.groups.get(&group_tag)
    }

    /// The number of the access rule that counts for an initiator, if there are any.
    pub(crate) fn rule_for(&self, initiator: &str, address: IpAddr) -> Result<Option<usize>, Denied> {
        self.options.access.rule_for(initiator, address)
    }

    /// An access rule.
    pub(crate) fn rule(&self, number: usize) -> Option<&AccessRule> {
        self.options.access.rules.get(number)
    }

    /// What an access rule is known by for as long as it is one, wherever it stands.
    pub(crate) fn id_of(&self, rule: Option<usize>) -> Option<RuleId> {
        Some(self.views.get(rule?)?.id)
    }

    /// The nexus of `initiator` in a portal group; it sees what access rule `rule` shows, and `observer` is told of what
    /// others cause.
    pub(crate) fn nexus(
        &self,
        group_tag: u16,
        rule: Option<usize>,
        initiator: &InitiatorPort,
        observer: Arc<dyn AttentionObserver>,
    ) -> Option<Arc<Nexus>> {
        let port = self.port(group_tag)?;
        let luns = self.map(group_tag, rule, port).clone();
        Some(Nexus::mapped(initiator.to_string(), port.clone(), luns, Some(observer)))
    }

    /// What the initiators of an access rule see through a port.
    fn map<'a>(&'a self, group_tag: u16, rule: Option<usize>, port: &'a TargetPort) -> &'a Arc<LunMap> {
        let own = rule.and_then(|rule| self.views.get(rule)?.maps.get(&group_tag));
        own.unwrap_or_else(|| port.luns())
    }

    /// As one of which access rule a session would be let in again whose initiator has come from `address`.
    pub(crate) fn admits(&self, session: &SessionInfo, address: IpAddr) -> Result<Option<usize>, Denied> {
        let number = self.rule_for(&session.initiator_name, address)?;
        let rule = number.and_then(|number| self.rule(number));
        if let Some(chap) = rule.and_then(|rule| rule.chap.as_ref()) {
            let account = session.authenticated.as_deref();
            account.and_then(|account| chap.accounts.secret(account)).ok_or(Denied::Proof)?;
        }
        Ok(number)
    }

    /// Whether a session may go on, as one of which access rule, that has `nexus` in a portal group and whose initiator has
    /// come from `address`: if it would be let in again, and sees then what it is to see.
    pub(crate) fn readmit(
        &self,
        session: &SessionInfo,
        address: IpAddr,
        group_tag: u16,
        nexus: &Nexus,
    ) -> Result<Option<RuleId>, Denied> {
        let port = self.port(group_tag).filter(|port| Arc::ptr_eq(port, &nexus.port)).ok_or(Denied::View)?;
        let number = self.admits(session, address)?;
        let (wanted, seen) = (self.map(group_tag, number, port), nexus.luns());
        // What is for everybody may change without being asked for here.
        let is_for_all = |map| Arc::ptr_eq(map, port.luns());
        let shows_the_same = || {
            !is_for_all(wanted)
                && !is_for_all(seen)
                && are_the_same(&self.units_of(group_tag, wanted), &self.units_of(group_tag, seen))
        };
        let may_go_on = Arc::ptr_eq(wanted, seen) || shows_the_same();
        if may_go_on { Ok(self.id_of(number)) } else { Err(Denied::View) }
    }

    /// What a map is to show, be it another rule's or none's any more.
    fn units_of(&self, group_tag: u16, map: &Arc<LunMap>) -> Units {
        let shows = |view: &View| view.maps.get(&group_tag).is_some_and(|own| Arc::ptr_eq(own, map));
        let rule = self.views.iter().position(shows).and_then(|rule| self.rule(rule)?.luns.clone());
        rule.unwrap_or_else(|| map.inventory().units().clone())
    }
}

impl View {
    /// That of a rule, which may go on with what another was.
    fn of(rule: &AccessRule, ports: &BTreeMap<u16, Arc<TargetPort>>, known: Option<Self>) -> Self {
        let Self { id, mut maps } =
            known.unwrap_or_else(|| Self { id: RuleId::next(), maps: BTreeMap::new() });
        let map = |(group, port): (&u16, &Arc<TargetPort>)| {
            let luns = rule.luns.as_ref()?;
            let own = maps.remove(group).filter(|map| map.is_of(port));
            Some((*group, own.unwrap_or_else(|| port.map(luns.clone()))))
        };
        Self { id, maps: ports.iter().filter_map(map).collect() }
    }
}

fn is_for_the_same(one: &AccessRule, other: &AccessRule) -> bool {
    (&one.initiators, &one.addresses) == (&other.initiators, &other.addresses)
}

fn shows_the_same(one: &AccessRule, other: &AccessRule) -> bool {
    one.luns.as_ref().zip(other.luns.as_ref()).is_some_and(|(one, other)| are_the_same(one, other))
}

fn are_the_same(one: &Units, other: &Units) -> bool {
    let same = |((lun, unit), (other_lun, other))| lun == other_lun && Arc::ptr_eq(unit, other);
    one.len() == other.len() && one.iter().zip(other).all(same)
}
