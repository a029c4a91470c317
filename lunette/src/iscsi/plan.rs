//! What is to be served by iSCSI, with everything checked that can be before a unit is opened.

use super::source::{Mistake, Source};
use super::tables::{self, Digest, Length, Tables};
use crate::access::Grouped;
use crate::units::Address;
use anyhow::Result;
use lunette_engine::TargetPort;
use lunette_iscsi::chap::{Credentials, Secret};
use lunette_iscsi::params::Parameters;
use lunette_iscsi::target::Settings;
use lunette_transport_iscsi::{
    ChapPolicy, DiscoveryAccess, EntityOptions, LoginLimits, NamePattern, Network, PortalOptions, Redirect,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use toml::Spanned;

/// The units, by the names that a configuration gives them.
pub(crate) type Names = BTreeMap<String, Address>;
/// Where initiators find units.
pub(crate) type Luns = BTreeMap<u32, Address>;

/// Portals and targets.
pub(crate) struct Plan {
    pub(crate) options: EntityOptions,
    pub(crate) portals: Vec<Portal>,
    pub(crate) targets: Vec<Target>,
}

/// Where initiators connect.
pub(crate) struct Portal {
    pub(crate) listen: SocketAddr,
    pub(crate) options: PortalOptions,
}

impl From<Grouped<SocketAddr>> for Portal {
    fn from(Grouped { place: listen, group: group_tag }: Grouped<SocketAddr>) -> Self {
        Self { listen, options: PortalOptions { group_tag, ..PortalOptions::default() } }
    }
}

impl From<tables::Portal> for Portal {
    fn from(tables::Portal { listen, group: group_tag, advertise: advertised }: tables::Portal) -> Self {
        Self { listen, options: PortalOptions { group_tag, advertised } }
    }
}

/// A target.
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) alias: String,
    /// None: those of all portals.
    pub(crate) groups: BTreeSet<u16>,
    /// None: the units of target 0, where they are there.
    pub(crate) luns: Option<Luns>,
    pub(crate) redirect: Option<Redirect>,
    pub(crate) settings: Settings,
    pub(crate) access: Vec<Rule>,
}

/// Who is let in how, and sees what.
pub(crate) struct Rule {
    pub(crate) initiators: Vec<NamePattern>,
    pub(crate) addresses: Vec<Network>,
    pub(crate) chap: Option<ChapPolicy>,
    pub(crate) luns: Option<Luns>,
}

impl Plan {
    /// One target, which everyone may use, on these portals.
    pub(crate) fn open_to_all(name: &str, portals: Vec<Grouped<SocketAddr>>) -> Self {
        let target = Target {
            name: name.to_owned(),
            alias: String::new(),
            groups: BTreeSet::new(),
            luns: None,
            redirect: None,
            settings: Settings::default(),
            access: Vec::new(),
        };
        let portals = portals.into_iter().map(Portal::from);
        Self { options: EntityOptions::default(), portals: portals.collect(), targets: vec![target] }
    }

    /// What a file says of the units that have these names. `has_sockets`: there are portals besides those of the file, of the
    /// default group.
    pub(crate) fn read(path: &Path, names: &Names, has_sockets: bool) -> Result<Self> {
        let source = Source::read(path)?;
        let tables: Tables = source.parse()?;
        Reader { source: &source, names, has_sockets }.plan(tables)
    }

    /// Whether a unit is seen by anybody.
    pub(crate) fn shows(&self, address: &Address) -> bool {
        self.targets.iter().any(|target| {
            let rules = target.access.iter().map(|rule| &rule.luns);
            let shown_by_default = address.target == 0 && target.luns.is_none();
            shown_by_default
                || rules
                    .chain([&target.luns])
                    .flatten()
                    .any(|luns| luns.values().any(|shown| shown == address))
        })
    }
}

/// From tables to a plan.
struct Reader<'a> {
    source: &'a Source,
    names: &'a Names,
    has_sockets: bool,
}

impl Reader<'_> {
    fn plan(&self, tables: Tables) -> Result<Plan> {
        self.check(&tables)?;
        let discovery = match tables.discovery {
            Some(tables::Discovery { addresses, chap }) => {
                DiscoveryAccess { addresses, chap: chap.map(|chap| self.chap(chap)).transpose()? }
            }
            None => DiscoveryAccess::default(),
        };
        let targets = tables.targets.into_iter().map(|target| self.target(target));
        Ok(Plan {
            options: EntityOptions {
                addresses: tables.addresses,
                discovery,
                logins: limits(&tables.limits),
                ..times(&tables.times)
            },
            portals: tables.portals.into_iter().map(Portal::from).collect(),
            targets: targets.collect::<Result<_>>()?,
        })
    }

    /// Whether what is there fits together.
    fn check(&self, tables: &Tables) -> Result<(), Mistake> {
        if tables.portals.is_empty() && !self.has_sockets {
            return Err(self.source.mistake(0..0, "without a [[portal]] nobody reaches the targets"));
        }
        if tables.targets.is_empty() {
            return Err(self.source.mistake(0..0, "without a [[target]] there is nothing to log in to"));
        }
        let of_sockets = self.has_sockets.then_some(TargetPort::DEFAULT_GROUP);
        let groups: BTreeSet<u16> =
            tables.portals.iter().map(|portal| portal.group).chain(of_sockets).collect();
        let mut names = BTreeSet::new();
        for target in &tables.targets {
            let tables::Name(name) = target.name.get_ref();
            if !names.insert(name) {
                let what = format!("there are two targets of the name {name}");
                return Err(self.source.mistake(target.name.span(), what));
            }
            if let Some(wanted) = &target.groups {
                if let Some(group) = wanted.get_ref().iter().find(|group| !groups.contains(group)) {
                    let what = format!("no portal belongs to the portal group {group}");
                    return Err(self.source.mistake(wanted.span(), what));
                }
                if wanted.get_ref().is_empty() {
                    return Err(self
                        .source
                        .mistake(wanted.span(), "without portal groups nobody reaches it"));
                }
            }
            let is_open = |rule: &Spanned<tables::Access>| {
                rule.get_ref().initiators.is_empty() && rule.get_ref().addresses.is_empty()
            };
            let for_all = target.access.iter().position(is_open);
            if let Some(idle) = for_all.and_then(|place| target.access.get(place + 1)) {
                let what = "this rule never counts, for the one before it is for all initiators";
                return Err(self.source.mistake(idle.span(), what));
            }
        }
        Ok(())
    }

    fn target(&self, target: tables::Target) -> Result<Target> {
        Ok(Target {
            name: target.name.into_inner().0,
            alias: target.alias,
            groups: target.groups.map(Spanned::into_inner).unwrap_or_default(),
            luns: target.units.map(|units| self.luns(units)).transpose()?,
            redirect: target
                .redirect
                .map(|tables::Redirect { address, permanent }| Redirect { address, permanent }),
            settings: settings(&target.parameters),
            access: target
                .access
                .into_iter()
                .map(|rule| self.rule(rule.into_inner()))
                .collect::<Result<_>>()?,
        })
    }

    fn rule(&self, rule: tables::Access) -> Result<Rule> {
        Ok(Rule {
            initiators: rule.initiators,
            addresses: rule.addresses,
            chap: rule.chap.map(|chap| self.chap(chap)).transpose()?,
            luns: rule.units.map(|units| self.luns(units)).transpose()?,
        })
    }

    fn luns(&self, units: tables::Units) -> Result<Luns, Mistake> {
        let find = |(tables::Lun(lun), name): (_, Spanned<String>)| {
            let address = self.names.get(name.get_ref()).ok_or_else(|| {
                let known: Vec<_> = self.names.keys().map(String::as_str).collect();
                let what = format!(
                    "there is no unit of the name `{}`; there are {}",
                    name.get_ref(),
                    known.join(", ")
                );
                self.source.mistake(name.span(), what)
            })?;
            Ok((lun, *address))
        };
        units.into_iter().map(find).collect()
    }

    fn chap(&self, chap: Spanned<tables::Chap>) -> Result<ChapPolicy> {
        let span = chap.span();
        let chap = chap.into_inner();
        if chap.accounts.is_empty() {
            return Err(self.source.mistake(span, "without accounts nobody could prove who he is").into());
        }
        let load = |account: tables::Account| self.credentials(account, chap.short_secrets);
        let own = chap.target.map(load).transpose()?;
        let mut accounts = BTreeMap::new();
        for account in chap.accounts {
            let place = account.name.span();
            let Credentials { name, secret } = load(account)?;
            // Each side could otherwise have the other answer its own challenge.
            if own.as_ref().is_some_and(|own| own.secret.is_same(&secret)) {
                let what =
                    format!("`{name}` has the same secret as the target, which RFC 7143 9.2.1 forbids");
                return Err(self.source.mistake(place, what).into());
            }
            if accounts.insert(name.clone(), secret).is_some() {
                let what = format!("there are two accounts of the name `{name}`");
                return Err(self.source.mistake(place, what).into());
            }
        }
        Ok(ChapPolicy { algorithms: chap.algorithms, accounts: Arc::new(Known(accounts)), own })
    }

    fn credentials(&self, account: tables::Account, short: bool) -> Result<Credentials> {
        let place = account.secret.span();
        let secret = account.secret.get_ref().load(|path| self.source.resolve(path), short);
        let secret = secret.map_err(|error| self.source.mistake(place, format!("{error:#}")))?;
        let name = account.name.get_ref();
        if name.is_empty() || name.len() > 255 || name.contains(|c: char| c.is_control()) {
            let what = "the name of an account has 1 to 255 bytes, none of them control characters";
            return Err(self.source.mistake(account.name.span(), what).into());
        }
        Ok(Credentials { name: name.clone(), secret })
    }
}

/// What a target wants in a login.
fn settings(wanted: &tables::Parameters) -> Settings {
    let mut settings = Settings::default();
    let Parameters { header_digest, data_digest, .. } = &mut settings.parameters;
    let required = &mut settings.required_digests;
    let digests = [
        (wanted.header_digest, header_digest, &mut required.header),
        (wanted.data_digest, data_digest, &mut required.data),
    ];
    for (wanted, allowed, required) in digests {
        let wanted = wanted.unwrap_or(Digest::Allow);
        (*allowed, *required) = (wanted != Digest::Forbid, wanted == Digest::Require);
    }
    let length = |wanted: Option<Length>| wanted.map(|Length(bytes)| bytes);
    let parameters = &mut settings.parameters;
    set(&mut parameters.initial_r2t, wanted.initial_r2t);
    set(&mut parameters.immediate_data, wanted.immediate_data);
    set(&mut parameters.max_recv_data_segment_length, length(wanted.max_recv_data_segment_length));
    set(&mut parameters.max_burst_length, length(wanted.max_burst_length));
    set(&mut parameters.first_burst_length, length(wanted.first_burst_length));
    set(&mut parameters.max_outstanding_r2t, wanted.max_outstanding_r2t);
    set(&mut settings.command_window, wanted.command_window);
    settings
}

/// How many may log in.
fn limits(wanted: &tables::Limits) -> LoginLimits {
    let mut limits = LoginLimits::default();
    let count = |wanted: Option<NonZeroU32>| wanted.map(|count| count.get() as usize);
    set(&mut limits.connections, count(wanted.connections));
    set(&mut limits.logins, count(wanted.logins));
    set(&mut limits.logins_of_address, count(wanted.logins_of_address));
    set(&mut limits.burst, wanted.login_burst.map(NonZeroU32::get));
    set(&mut limits.rate, wanted.login_rate.map(NonZeroU32::get));
    set(&mut limits.failure_weight, wanted.failure_weight);
    set(&mut limits.sessions_of_initiator, count(wanted.sessions_of_initiator));
    limits
}

/// How long things may take.
fn times(wanted: &tables::Times) -> EntityOptions {
    let mut options = EntityOptions::default();
    let time = |wanted: Option<NonZeroU16>| wanted.map(|seconds| Duration::from_secs(seconds.get().into()));
    set(&mut options.login_time, time(wanted.login));
    set(&mut options.idle_time, time(wanted.idle));
    set(&mut options.silence_time, time(wanted.silence));
    set(&mut options.stop_time, time(wanted.stop));
    options
}

/// Replaces what is usual by what is wanted.
fn set<T>(field: &mut T, wanted: Option<T>) {
    if let Some(wanted) = wanted {
        *field = wanted;
    }
}

/// The secrets of the accounts, by their names.
struct Known(BTreeMap<String, Secret>);

impl lunette_iscsi::chap::Accounts for Known {
    fn secret(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }
}

#[cfg(test)]
mod tests;
