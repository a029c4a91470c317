//! A target: an iSCSI node with its name, and its port in each portal group.

use crate::local;
use crate::sessions::InitiatorPort;
use crate::{Error, NetworkEntity};
use lunette_engine::{Nexus, TargetPort};
use lunette_iscsi::target::{Settings, is_name};
use lunette_store::Cx;
use lunette_store::log::LineBudget;
use std::collections::BTreeMap;
use std::fmt;
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
}

/// A target of a [`NetworkEntity`], which makes it.
pub struct Target {
    options: TargetOptions,
    entity: Weak<NetworkEntity>,
    log: LineBudget,
}

impl Target {
    pub(crate) fn new(mut options: TargetOptions, entity: Weak<NetworkEntity>) -> Result<Self, Error> {
        let name = options.name.to_lowercase();
        let clean = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | ':'));
        if !is_name(&name) || !clean {
            return Err(Error::Name(options.name));
        }
        options.name = name;
        Ok(Self { options, entity, log: LineBudget::default() })
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
        self.entity.upgrade().map_or(0, |entity| entity.sessions().places_of(self.name()).len())
    }

    pub(crate) fn has_group(&self, group_tag: u16) -> bool {
        self.options.groups.contains_key(&group_tag)
    }

    pub(crate) fn nexus(&self, group_tag: u16, initiator: &InitiatorPort) -> Option<Arc<Nexus>> {
        Some(Nexus::new(initiator.to_string(), self.port(group_tag)?.clone()))
    }

    /// Ends all sessions, through whichever portal group (RFC 7143 11.5.1, TARGET COLD RESET).
    pub(crate) fn cold_reset(&self, cx: &mut dyn Cx) {
        let Some(entity) = self.entity.upgrade() else { return };
        let places = entity.sessions().places_of(self.name());
        for place in places {
            local::post(place, cx, |connection, cx| connection.reset(cx));
        }
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
