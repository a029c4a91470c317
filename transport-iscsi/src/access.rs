//! Who may log in where, how he proves who he is, and what he sees then.

use crate::patterns::{among, folded};
use crate::{NamePattern, Network};
use lunette_engine::LogicalUnit;
use lunette_iscsi::chap::{Accounts, Algorithm, Challenge, Credentials, TargetChap};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Who may use a target. The first rule that has an initiator's name and address counts for it, and one that no rule has may
/// not log in. A name that has to be proved under one rule, wherever from, is not let in without a proof by a later one. Without
/// rules everybody may log in, and sees all logical units of the port.
#[derive(Clone, Default, Debug)]
pub struct AccessControl {
    /// In the order in which they are looked at.
    pub rules: Vec<AccessRule>,
}

/// What some initiators may do.
#[derive(Clone, Default, Debug)]
pub struct AccessRule {
    /// Names of the initiators; empty: all. They are what initiators call themselves: only [`chap`](Self::chap) proves it.
    pub initiators: Vec<NamePattern>,
    /// Where they come from; empty: from anywhere.
    pub addresses: Vec<Network>,
    /// What they must prove; `None`: nothing.
    pub chap: Option<ChapPolicy>,
    /// The logical units that they see, by logical unit number; `None`: all of the port.
    pub luns: Option<BTreeMap<u32, Arc<LogicalUnit>>>,
}

/// Who may ask which targets there are. What is told depends on the targets' own rules.
#[derive(Clone, Default, Debug)]
pub struct DiscoveryAccess {
    /// Where from; empty: from anywhere.
    pub addresses: Vec<Network>,
    /// What is to be proved; `None`: nothing.
    pub chap: Option<ChapPolicy>,
}

/// How initiators prove who they are, and the target to them (RFC 7143 12.1.3).
#[derive(Clone)]
pub struct ChapPolicy {
    /// Algorithms that are good enough. The first that the initiator knows is used.
    pub algorithms: Vec<Algorithm>,
    /// The secrets of the initiators. Who has one may use all names that the rule has: an initiator whose sessions and
    /// reservations nobody else is to have needs a rule of its own.
    pub accounts: Arc<dyn Accounts>,
    /// What the target proves itself with to initiators that ask for it; without, their login fails.
    pub own: Option<Credentials>,
}

/// Why nobody is let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Denied {
    /// No rule has the name.
    Name,
    /// Rules have the name, but not from this address.
    Address,
    /// A rule that wants a proof of the name does not have this address, and later ones want no proof or do not have it either;
    /// or there was no proof.
    Proof,
    /// What is to be seen is not what a session sees.
    View,
}

impl Denied {
    /// For the log.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Name => "no access rule has the initiator's name",
            Self::Address => "the access rules that have the initiator's name do not have its address",
            Self::Proof => {
                "the access rule that asks for a proof of the initiator's name does not have its address"
            }
            Self::View => "it is to see other logical units, or none through this portal group",
        }
    }
}

impl AccessControl {
    /// Which rule counts for an initiator; `None`: there are none, and everybody may log in.
    pub(crate) fn rule_for(&self, initiator: &str, address: IpAddr) -> Result<Option<usize>, Denied> {
        if self.rules.is_empty() {
            return Ok(None);
        }
        let name = folded(initiator);
        let is_named = |rule: &AccessRule| {
            rule.initiators.is_empty() || rule.initiators.iter().any(|pattern| pattern.matches_folded(&name))
        };
        let mut denied = Denied::Name;
        for (index, rule) in self.rules.iter().enumerate().filter(|(_, rule)| is_named(rule)) {
            let is_from_here = among(&rule.addresses, address);
            if is_from_here && (denied != Denied::Proof || rule.chap.is_some()) {
                return Ok(Some(index));
            }
            if rule.chap.is_some() && !rule.initiators.is_empty() {
                denied = Denied::Proof;
            } else if denied == Denied::Name {
                denied = Denied::Address;
            }
        }
        Err(denied)
    }
}

impl ChapPolicy {
    /// What a login goes through. `None`: there are no random bytes.
    pub(crate) fn method(&self) -> Option<TargetChap> {
        let mut random = [0; 1 + Challenge::LENGTH];
        fill(&mut random)?;
        let [identifier, bytes @ ..] = random;
        let challenge = Challenge { identifier, bytes };
        Some(TargetChap::new(self.algorithms.clone(), self.accounts.clone(), self.own.clone(), challenge))
    }
}

/// Random bytes.
fn fill(bytes: &mut [u8]) -> Option<()> {
    // A read of so few bytes is never cut short.
    let count = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty()).ok()?;
    (count == bytes.len()).then_some(())
}

impl fmt::Debug for ChapPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mutual = self.own.is_some();
        f.debug_struct("ChapPolicy").field("algorithms", &self.algorithms).field("mutual", &mutual).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_iscsi::chap::Secret;

    struct One(Secret);

    impl Accounts for One {
        fn secret(&self, _: &str) -> Option<&Secret> {
            Some(&self.0)
        }
    }

    fn rule(initiators: &[&str], addresses: &[&str]) -> AccessRule {
        AccessRule {
            initiators: initiators.iter().map(|name| name.parse().unwrap()).collect(),
            addresses: addresses.iter().map(|network| network.parse().unwrap()).collect(),
            ..AccessRule::default()
        }
    }

    fn ask(rules: &[AccessRule], name: &str, address: &str) -> Result<Option<usize>, Denied> {
        AccessControl { rules: rules.to_vec() }.rule_for(name, address.parse().unwrap())
    }

    #[test]
    fn without_rules_everybody_is_let_in() {
        assert_eq!(ask(&[], "iqn.a", "192.0.2.1"), Ok(None));
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rules = [
            rule(&["iqn.a", "iqn.b"], &["192.0.2.0/24", "2001:db8::/64"]),
            rule(&["iqn.b"], &[]),
            rule(&[], &["198.51.100.1"]),
        ];
        for (name, address, expected) in [
            ("iqn.a", "192.0.2.1", Ok(Some(0))),
            ("IQN.B", "::ffff:192.0.2.1", Ok(Some(0))),
            ("iqn.b", "2001:db8::7", Ok(Some(0))),
            ("iqn.b", "203.0.113.1", Ok(Some(1))),
            ("iqn.a", "198.51.100.1", Ok(Some(2))),
            ("iqn.a", "203.0.113.1", Err(Denied::Address)),
            ("iqn.c", "203.0.113.1", Err(Denied::Address)),
        ] {
            assert_eq!(ask(&rules, name, address), expected, "{name} {address}");
        }
        assert_eq!(ask(&rules[..2], "iqn.c", "192.0.2.1"), Err(Denied::Name));
    }

    #[test]
    fn a_name_that_has_to_be_proved_is_never_let_in_without() {
        let proving = |initiators: &[&str], addresses: &[&str]| AccessRule {
            chap: Some(chap()),
            ..rule(initiators, addresses)
        };
        let rules = [
            proving(&["iqn.a"], &["192.0.2.1"]),
            rule(&["iqn.*"], &["198.51.100.0/24", "192.0.2.0/24"]),
            proving(&["iqn.*"], &["203.0.113.1"]),
            rule(&[], &[]),
        ];
        for (name, address, expected) in [
            ("iqn.a", "192.0.2.1", Ok(Some(0))),
            ("iqn.a", "192.0.2.2", Err(Denied::Proof)),
            ("iqn.a", "203.0.113.1", Ok(Some(2))),
            ("iqn.b", "198.51.100.1", Ok(Some(1))),
            ("iqn.b", "203.0.113.2", Err(Denied::Proof)),
            ("eui.c", "203.0.113.2", Ok(Some(3))),
        ] {
            assert_eq!(ask(&rules, name, address), expected, "{name} {address}");
        }
        // One for all names is about addresses.
        let rules = [proving(&[], &["192.0.2.0/24"]), rule(&[], &["198.51.100.1"])];
        assert_eq!(ask(&rules, "iqn.a", "198.51.100.1"), Ok(Some(1)));
    }

    fn secret() -> Secret {
        Secret::new(b"correct horse battery".to_vec()).unwrap()
    }

    fn chap() -> ChapPolicy {
        let own = Some(Credentials { name: "disk".to_owned(), secret: secret() });
        ChapPolicy { algorithms: vec![Algorithm::Sha256], accounts: Arc::new(One(secret())), own }
    }

    #[test]
    fn nothing_shows_secrets() {
        let chap = Some(chap());
        let rules = vec![AccessRule { chap: chap.clone(), ..AccessRule::default() }];
        let shown =
            format!("{:?} {:#?}", AccessControl { rules }, DiscoveryAccess { chap, ..Default::default() });
        assert!(shown.contains("Sha256") && !shown.contains("horse"), "{shown}");
    }

    #[test]
    fn challenges_differ() {
        let (mut one, mut other) = ([0; 33], [0; 33]);
        fill(&mut one).unwrap();
        fill(&mut other).unwrap();
        assert_ne!(one, other);
    }
}
