//! What is to be served by iSCSI, in the words of the transport, with all secrets.

use super::secrets::{SecretReader, Secrets};
use crate::config::values::{Bytes, Length, Text};
use crate::config::{self, Chap, Digest, Luns, Model};
use anyhow::{Context, Result, anyhow};
use lunette_iscsi::chap::{Algorithm, Credentials, Secret};
use lunette_iscsi::params::Parameters;
use lunette_iscsi::target::Settings;
use lunette_transport_iscsi::{
    ChapPolicy, DiscoveryAccess, EntityOptions, LoginLimits, NamePattern, Network, PortalOptions, Redirect,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

/// The targets, and what concerns all of them.
pub(crate) struct Plan {
    pub(crate) options: EntityOptions,
    /// The secrets of the options.
    pub(crate) secrets: Secrets,
    pub(crate) targets: Vec<Target>,
}

/// Where initiators connect.
pub(crate) struct Portal {
    pub(crate) listen: SocketAddr,
    pub(crate) options: PortalOptions,
}

/// A target.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) alias: String,
    /// None: the units that have a place in target 0.
    pub(crate) luns: Option<Luns>,
    pub(crate) redirect: Option<Redirect>,
    pub(crate) settings: Settings,
    pub(crate) access: Vec<Rule>,
    /// The secrets of the rules.
    pub(crate) secrets: Secrets,
}

/// Who is let in how, and sees what.
#[derive(Clone)]
pub(crate) struct Rule {
    pub(crate) initiators: Vec<NamePattern>,
    pub(crate) addresses: Vec<Network>,
    pub(crate) chap: Option<ChapPolicy>,
    pub(crate) luns: Option<Luns>,
}

impl Plan {
    /// What the model says. Reads the secrets.
    pub(crate) fn new(model: &Model) -> Result<Self> {
        let becomes = model.daemon.user.as_ref().map(config::user_number).transpose();
        let becomes = becomes.map_err(|why| anyhow!(why))?;
        let (options, secrets) = options(&model.iscsi, SecretReader::before(becomes))?;
        let target = |wanted| target(wanted, SecretReader::before(becomes));
        let targets = model.targets.values().map(target).collect::<Result<_>>()?;
        Ok(Self { options, secrets, targets })
    }
}

/// What concerns all of iSCSI, and its secrets.
pub(crate) fn options(wanted: &config::Iscsi, mut reader: SecretReader) -> Result<(EntityOptions, Secrets)> {
    let config::Iscsi { addresses, discovery, limits: wanted_limits, times: wanted_times } = wanted;
    let discovery = DiscoveryAccess {
        addresses: inner(&discovery.addresses),
        chap: discovery
            .chap
            .as_ref()
            .map(|policy| chap(policy, &mut reader))
            .transpose()
            .context("[discovery]")?,
    };
    let logins = limits(wanted_limits);
    let options = EntityOptions { addresses: inner(addresses), discovery, logins, ..times(wanted_times) };
    Ok((options, reader.all()))
}

/// How long initiators have to log out when they are to go.
pub(crate) fn stop_time(wanted: &config::Iscsi) -> Duration {
    times(&wanted.times).stop_time
}

/// Values as the transport takes them.
fn inner<T: Clone>(values: &[Text<T>]) -> Vec<T> {
    values.iter().map(|Text(value)| value.clone()).collect()
}

impl From<&config::Portal> for Portal {
    fn from(config::Portal { listen, group, advertise }: &config::Portal) -> Self {
        let options = PortalOptions { group_tag: group.0, advertised: inner(advertise) };
        Self { listen: listen.0, options }
    }
}

/// What a target is, with its secrets.
pub(crate) fn target(wanted: &config::Target, reader: SecretReader) -> Result<Target> {
    with_secrets(wanted, reader).with_context(|| format!("target {}", wanted.name))
}

fn with_secrets(wanted: &config::Target, mut reader: SecretReader) -> Result<Target> {
    let mut rule = |rule: &config::Access| {
        Ok(Rule {
            initiators: inner(&rule.initiators),
            addresses: inner(&rule.addresses),
            chap: rule.chap.as_ref().map(|policy| chap(policy, &mut reader)).transpose()?,
            luns: rule.units.clone(),
        })
    };
    let access = wanted.access.iter().map(&mut rule).collect::<Result<_>>()?;
    Ok(Target {
        name: wanted.name.to_string(),
        alias: wanted.alias.clone(),
        luns: wanted.units.clone(),
        redirect: wanted
            .redirect
            .as_ref()
            .map(|redirect| Redirect { address: redirect.address.0, permanent: redirect.permanent }),
        settings: settings(&wanted.parameters),
        access,
        secrets: reader.all(),
    })
}

/// Who may log in, with his secret.
fn chap(policy: &Chap, reader: &mut SecretReader) -> Result<ChapPolicy> {
    let mut load = |account: &config::Account| {
        let secret = reader.read(&account.secret, policy.short_secrets)?;
        anyhow::Ok(Credentials { name: account.name.to_string(), secret })
    };
    let accounts =
        policy.accounts.iter().map(&mut load).map(|account| account.map(|it| (it.name, it.secret)));
    let accounts = accounts.collect::<Result<_>>()?;
    let algorithms = match policy.algorithms.is_empty() {
        true => Algorithm::ALL.into(),
        false => inner(&policy.algorithms),
    };
    Ok(ChapPolicy {
        algorithms,
        accounts: Arc::new(Known(accounts)),
        own: policy.target.as_ref().map(load).transpose()?,
    })
}

/// What a target wants in a login.
fn settings(wanted: &config::Parameters) -> Settings {
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
    let length = |wanted: Option<Length>| wanted.map(|Bytes(bytes)| u32::try_from(bytes).unwrap_or(u32::MAX));
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
fn limits(wanted: &config::Limits) -> LoginLimits {
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
fn times(wanted: &config::Times) -> EntityOptions {
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

/// Whether the secrets of the accounts of `wanted` are the same in both.
pub(crate) fn has_same_secrets(wanted: &Chap, one: &ChapPolicy, other: &ChapPolicy) -> bool {
    let same = |one: Option<&Secret>, other: Option<&Secret>| match (one, other) {
        (Some(one), Some(other)) => one.is_same(other),
        (one, other) => one.is_none() && other.is_none(),
    };
    let mut names = wanted.accounts.iter().map(|account| account.name.as_str());
    names.all(|name| same(one.accounts.secret(name), other.accounts.secret(name)))
        && same(one.own.as_ref().map(|own| &own.secret), other.own.as_ref().map(|own| &own.secret))
}

#[cfg(test)]
mod tests;
