//! A target: an iSCSI node with its name, and its port in each portal group.

use crate::access::{AccessControl, AccessRule, Denied};
use crate::patterns::fold;
use crate::sessions::InitiatorPort;
use crate::{Error, NetworkEntity};
use lunette_engine::{AttentionObserver, LunMap, Nexus, TargetPort};
use lunette_iscsi::target::{Settings, is_name};
use lunette_store::Cx;
use lunette_store::log::LineBudget;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

/// What a target is.
#[derive(Clone, Default)]
pub struct TargetOptions {
    /// iSCSI name, such as `iqn.2026-11.dev.lunette:default`.
    pub name: String,
    /// TargetAlias, which initiators show to people; empty: none.
    pub alias: String,
    /// What is agreed to in a login.
    pub settings: Settings,
    /// Its portal groups, by their tags, and its port in each.
    pub groups: BTreeMap<u16, Arc<TargetPort>>,
    /// Who may use it.
    pub access: AccessControl,
    /// Where else it is to be used. Whom an access rule has, by name and address, is told before any proof: the other
    /// place asks for that.
    pub redirect: Option<Redirect>,
}

/// Where a target has gone (RFC 7143 11.13.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// A portal of it.
    pub address: SocketAddr,
    /// For good; otherwise initiators come back here for their next login.
    pub permanent: bool,
}

/// A target of a [`NetworkEntity`], which makes it.
pub struct Target {
    options: TargetOptions,
    /// What each access rule shows, if that is not what the port shows, by portal group tag.
    maps: Vec<BTreeMap<u16, Arc<LunMap>>>,
    entity: Weak<NetworkEntity>,
    log: LineBudget,
}

impl Target {
    pub(crate) fn new(mut options: TargetOptions, entity: Weak<NetworkEntity>) -> Result<Self, Error> {
        options.name = Self::canonical_name(&options.name)?;
        let ports = &options.groups;
        let maps_of = |rule: &AccessRule| match &rule.luns {
            Some(luns) => ports.iter().map(|(group, port)| (*group, port.map(luns.clone()))).collect(),
            None => BTreeMap::new(),
        };
        let maps = options.access.rules.iter().map(maps_of).collect();
        Ok(Self { options, maps, entity, log: LineBudget::default() })
    }

    /// The name of a target as it is compared and told (RFC 7143 4.2.7). Initiators may have names with other characters.
    ///
    /// # Errors
    /// When it is none.
    pub fn canonical_name(name: &str) -> Result<String, Error> {
        let folded = fold(name);
        let clean = folded.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | ':'));
        if is_name(&folded) && clean { Ok(folded) } else { Err(Error::Name(name.to_owned())) }
    }

    /// Its iSCSI name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its alias; empty: none.
    pub fn alias(&self) -> &str {
        &self.options.alias
    }

    /// What is agreed to in a login.
    pub fn settings(&self) -> &Settings {
        &self.options.settings
    }

    /// Its port in a portal group.
    pub fn port(&self, group_tag: u16) -> Option<&Arc<TargetPort>> {
        self.options.groups.get(&group_tag)
    }

    /// How many sessions are open, through whichever portal group; discovery sessions do not count.
    pub fn session_count(&self) -> usize {
        self.entity.upgrade().map_or(0, |entity| entity.table().places_of(self.name()).len())
    }

    pub(crate) fn has_group(&self, group_tag: u16) -> bool {
        self.options.groups.contains_key(&group_tag)
    }

    pub(crate) fn redirect(&self) -> Option<Redirect> {
        self.options.redirect
    }

    /// The number of the access rule that counts for an initiator, if there are any.
    pub(crate) fn rule_for(&self, initiator: &str, address: IpAddr) -> Result<Option<usize>, Denied> {
        self.options.access.rule_for(initiator, address)
    }

    /// An access rule.
    pub(crate) fn rule(&self, number: usize) -> Option<&AccessRule> {
        self.options.access.rules.get(number)
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
        let port = self.port(group_tag)?.clone();
        let own = rule.and_then(|rule| self.maps.get(rule)?.get(&group_tag));
        let luns = own.unwrap_or_else(|| port.luns()).clone();
        Some(Nexus::mapped(initiator.to_string(), port, luns, Some(observer)))
    }

    /// Whether a line may be written to the log that initiators cause, as often as they like.
    pub(crate) fn may_log(&self, cx: &dyn Cx) -> bool {
        self.log.allows(self.name(), cx.now())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.options.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_in_lower_case() {
        let target = |name: &str| {
            Target::new(TargetOptions { name: name.to_owned(), ..Default::default() }, Weak::new())
        };
        assert_eq!(target("IQN.2026-11.dev.lunette:A").unwrap().name(), "iqn.2026-11.dev.lunette:a");
        for bad in ["", "disk", "iqn.", "iqn.2026-11.dev.lunette:a b", &format!("iqn.{}", "x".repeat(220))] {
            assert!(
                target(bad).unwrap_err().to_string().starts_with(&format!("`{bad}` is not an iSCSI name"))
            );
        }
    }
}
