//! tgt: what its `targets.conf` means to tgt-admin(8).

use super::tgt_file::{self, Directive};
use super::tgt_units::{OF_UNITS, units};
use super::{Import, is_usual, nothing_like, set_parameter};
use crate::config::iscsi::{Access, Chap, Portal, Target};
use crate::config::values::Text;
use anyhow::Result;
use lunette_transport_iscsi::Network;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) fn import(path: &Path, text: &str, import: &mut Import) -> Result<()> {
    let directives = tgt_file::parse(path, text)?;
    let mut accounts = Accounts::default();
    let mut targets: BTreeMap<&str, Vec<&Directive>> = BTreeMap::new();
    for directive in &directives {
        let Directive { key, value, place, block } = directive;
        match (key.as_str(), block) {
            ("target", Some(block)) => targets.entry(value).or_default().extend(block),
            ("incomingdiscoveryuser" | "outgoingdiscoveryuser" | "control-port" | "ignore-errors", None) => {}
            ("default-driver", None) if value == "iscsi" => {}
            (key, _) => import.lose(place, format!("`{key}` has nothing that is like it")),
        }
    }
    let all: Vec<&Directive> = directives.iter().collect();
    let incoming = accounts.users(&all, "incomingdiscoveryuser", import);
    let outgoing = accounts.users(&all, "outgoingdiscoveryuser", import);
    import.document.discovery.chap = import.chap(&incoming.users, outgoing.users.first(), "discovery");
    // Without other orders targets are numbered in the order of their names.
    let mut next = 1;
    for (name, block) in targets {
        let given = find(&block, "controller_tid").and_then(|given| given.value.parse().ok());
        let tid: u32 = given.unwrap_or(next);
        next = tid.saturating_add(1);
        target(name, tid, &block, &mut accounts, import);
    }
    if !import.document.targets.is_empty() {
        import.document.portals.push(Portal {
            listen: "0.0.0.0:3260".parse().map_err(anyhow::Error::msg)?,
            group: Default::default(),
            advertise: Vec::new(),
        });
        import.lose("portals", "tgtd listens on all addresses, also of IPv6, unless its own options say otherwise: see [[portal]]");
    }
    Ok(())
}

pub(super) fn find<'a>(block: &[&'a Directive], key: &str) -> Option<&'a Directive> {
    block.iter().find(|directive| directive.key == key).copied()
}

/// The secret of each name, of which tgtd has one for all targets, and where it stands.
#[derive(Default)]
struct Accounts(BTreeMap<String, (String, String)>);

/// What some directives say of names and secrets.
struct Users {
    users: Vec<(String, String)>,
    /// One of them says nothing that can be used.
    has_lost: bool,
}

impl Accounts {
    fn users(&mut self, block: &[&Directive], key: &str, import: &mut Import) -> Users {
        let mut found = Users { users: Vec::new(), has_lost: false };
        for Directive { value, place, .. } in block.iter().filter(|directive| directive.key == key) {
            let mut words = value.split_whitespace().map(str::to_owned);
            let (Some(name), Some(secret)) = (words.next(), words.next()) else {
                found.has_lost = true;
                import.lose(place, format!("{key} has a name and a secret"));
                continue;
            };
            let first = self.0.entry(name.clone()).or_insert_with(|| (secret.clone(), place.clone()));
            if first.0 != secret {
                let why = format!("to tgtd the secret of {name} is the one of line {} everywhere", first.1);
                import.lose(place, why);
            }
            found.users.push((name, first.0.clone()));
        }
        found
    }
}

/// Who is let in: whose name or whose address is there.
#[derive(Default)]
struct LetIn {
    addresses: Access,
    names: Access,
    /// Everybody.
    all: bool,
    is_by_address: bool,
    is_by_name: bool,
}

impl LetIn {
    fn address(&mut self, value: &str, place: &str, import: &mut Import) {
        self.is_by_address = true;
        match value.parse() {
            _ if value == "ALL" => self.all = true,
            Ok(network) => self.addresses.addresses.push(network),
            Err(why) => import.lose(place, format!("initiator-address: {why}")),
        }
    }

    fn name(&mut self, value: &str, place: &str, import: &mut Import) {
        // What `tgt-admin --dump` makes of addresses that it does not know as such.
        if value == "ALL" || value.parse::<Text<Network>>().is_ok() {
            import.lose(place, format!("`{value}` is taken as an initiator-address"));
            return self.address(value, place, import);
        }
        self.is_by_name = true;
        match super::whole_name(value) {
            Ok(name) => self.names.initiators.push(name),
            Err(why) => import.lose(place, format!("initiator-name: {why}")),
        }
    }

    /// The rules, without any for all who need no proof; `None`: more would be let in than before.
    fn rules(self, chap: Option<Chap>, place: &str, import: &mut Import) -> Option<Vec<Access>> {
        if self.all || !self.is_by_address && !self.is_by_name {
            return Some(
                chap.map(|chap| Access { chap: Some(chap), ..Access::default() }).into_iter().collect(),
            );
        }
        if !self.is_by_address {
            import.lose(
                place,
                "tgt-admin lets everybody in where no initiator-address is said; here only these names are",
            );
        }
        let mut rules = Vec::new();
        if !self.addresses.addresses.is_empty() {
            rules.push(Access { chap: chap.clone(), ..self.addresses });
        }
        if !self.names.initiators.is_empty() {
            rules.push(Access { chap, ..self.names });
        }
        (!rules.is_empty()).then_some(rules)
    }
}

fn target(name: &str, tid: u32, block: &[&Directive], accounts: &mut Accounts, import: &mut Import) {
    let place = block.first().map_or(name, |first| &first.place);
    let Ok(iscsi_name) = name.parse() else {
        return import.lose(place, format!("`{name}` is not an iSCSI name"));
    };
    let mut target = Target::new(iscsi_name);
    let mut let_in = LetIn::default();
    for Directive { key, value, place, .. } in block {
        match key.as_str() {
            "initiator-address" => let_in.address(value, place, import),
            "initiator-name" => let_in.name(value, place, import),
            "driver" if value != "iscsi" => {
                import.lose(place, format!("the driver `{value}` is not there; iSCSI is"))
            }
            "state" if value != "ready" => {
                return import.lose(place, format!("the target {name} is left out: it is {value}"));
            }
            "backing-store" | "direct-store" | "incominguser" | "outgoinguser" => {}
            "lun" | "controller_tid" | "allow-in-use" | "driver" | "state" => {}
            other if OF_UNITS.contains(&other) || is_usual(other, value) => {}
            _ if set_parameter(&mut target.parameters, key, value) => {}
            _ => import.lose(place, nothing_like(key, value)),
        }
    }
    let incoming = accounts.users(block, "incominguser", import);
    let outgoing = accounts.users(block, "outgoinguser", import);
    let chap = import.chap(&incoming.users, outgoing.users.first(), place);
    let has_lost_chap = chap.is_none() && (incoming.has_lost || !incoming.users.is_empty());
    match let_in.rules(chap, place, import) {
        Some(rules) if !has_lost_chap => target.access = rules,
        _ => {
            return import
                .lose(place, format!("the target {name} is left out: more would be let in than before"));
        }
    }
    target.units = Some(units(tid, block, import));
    import.document.targets.push(target);
}
