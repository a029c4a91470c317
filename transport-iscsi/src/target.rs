//! A target: an iSCSI node with its name, and its port in each portal group.

use crate::access::AccessControl;
use crate::offer::Offer;
use crate::patterns::fold;
use crate::{Error, NetworkEntity};
use lunette_engine::TargetPort;
use lunette_iscsi::target::{Settings, is_name};
use lunette_store::log::LineBudget;
use lunette_store::{Cx, Post};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

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
    name: String,
    offer: Mutex<Arc<Offer>>,
    /// Whoever changes it has this.
    changing: Mutex<()>,
    removed: AtomicBool,
    entity: Weak<NetworkEntity>,
    log: LineBudget,
}

impl Target {
    pub(crate) fn new(mut options: TargetOptions, entity: Weak<NetworkEntity>) -> Result<Self, Error> {
        options.name = Self::canonical_name(&options.name)?;
        Ok(Self {
            name: options.name.clone(),
            offer: Mutex::new(Arc::new(Offer::new(options, None))),
            changing: Mutex::default(),
            removed: AtomicBool::new(false),
            entity,
            log: LineBudget::default(),
        })
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
        &self.name
    }

    /// Its alias; empty: none.
    pub fn alias(&self) -> String {
        self.offer().options.alias.clone()
    }

    /// What is agreed to in a login.
    pub fn settings(&self) -> Settings {
        self.offer().options.settings
    }

    /// Its port in a portal group.
    pub fn port(&self, group_tag: u16) -> Option<Arc<TargetPort>> {
        self.offer().port(group_tag).cloned()
    }

    /// How many sessions are open, through whichever portal group; discovery sessions do not count.
    pub fn session_count(&self) -> usize {
        self.entity.upgrade().map_or(0, |entity| entity.table().places_of(self.name()).len())
    }

    /// What it is now.
    pub(crate) fn offer(&self) -> Arc<Offer> {
        lock(&self.offer).clone()
    }

    /// Becomes another one. `end_others` has the sessions end that the other does not let in.
    pub(crate) fn change(&self, mut options: TargetOptions, post: &dyn Post, end_others: impl FnOnce()) {
        let _changing = lock(&self.changing);
        options.name.clone_from(&self.name);
        let after = Arc::new(Offer::new(options, Some(&self.offer())));
        let before = std::mem::replace(&mut *lock(&self.offer), after.clone());
        drop(before);
        // Before maps show what was not meant for them.
        end_others();
        after.show(post);
    }

    /// Nobody may use it any more.
    pub(crate) fn remove(&self) {
        self.removed.store(true, Ordering::Release);
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Whether a line may be written to the log that initiators cause, as often as they like.
    pub(crate) fn may_log(&self, cx: &dyn Cx) -> bool {
        self.log.allows(self.name(), cx.now())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.name)
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
