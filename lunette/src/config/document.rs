//! A configuration as it is written, and as it is meant.

use super::daemon::{Daemon, VhostUser};
use super::iscsi::{Account, Chap, Discovery, Limits, Portal, Target, Times, some};
use super::secret::SecretSource;
use super::throttle::Throttle;
use super::unit::{Unit, is_default};
use super::values::{FilePath, Label, Name, StoreSpec, TargetName, Text};
use lunette_transport_iscsi::Network;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// The configuration of lunette: one file, or several that are read together.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Document {
    /// Where iSCSI connections may come from; otherwise from anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub(crate) addresses: Vec<Text<Network>>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) daemon: Daemon,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) discovery: Discovery,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) limits: Limits,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) times: Times,
    #[serde(default, rename = "unit", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<super::schema::UnitTable>")]
    pub(crate) units: Vec<Arc<Unit>>,
    #[serde(default, rename = "portal", skip_serializing_if = "Vec::is_empty")]
    pub(crate) portals: Vec<Portal>,
    #[serde(default, rename = "target", skip_serializing_if = "Vec::is_empty")]
    pub(crate) targets: Vec<Target>,
    #[serde(default, rename = "vhost-user", skip_serializing_if = "Vec::is_empty")]
    pub(crate) vhost_user: Vec<VhostUser>,
    #[serde(default, rename = "throttle", skip_serializing_if = "Vec::is_empty")]
    pub(crate) throttles: Vec<Throttle>,
}

/// What `addresses` and the tables are called.
pub(super) const SECTIONS: &[&str] = &[
    "addresses",
    "daemon",
    "discovery",
    "limits",
    "times",
    "unit",
    "portal",
    "target",
    "vhost-user",
    "throttle",
];

/// A whole configuration in which everything is said once.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Model {
    /// What is settled when the daemon starts.
    pub(crate) daemon: Daemon,
    /// What concerns all of iSCSI.
    pub(crate) iscsi: Iscsi,
    /// The units by their names. There may be very many, of which a change concerns one.
    pub(crate) units: BTreeMap<Name, Arc<Unit>>,
    /// The portals by the addresses that they listen on. Several may have the port 0.
    pub(crate) portals: BTreeMap<PortalKey, Portal>,
    /// The targets by their names.
    pub(crate) targets: BTreeMap<TargetName, Target>,
    /// The exports to virtual machines by their names.
    pub(crate) exports: BTreeMap<Label, VhostUser>,
    /// How much of what some get, by their names.
    pub(crate) throttles: BTreeMap<Label, Throttle>,
}

/// What concerns all of iSCSI.
#[derive(Clone, Default, PartialEq, Debug, Serialize)]
pub(crate) struct Iscsi {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) addresses: Vec<Text<Network>>,
    pub(crate) discovery: Discovery,
    pub(crate) limits: Limits,
    pub(crate) times: Times,
}

/// The address of a portal, and which one of those with this address: with port 0 each gets a port of its own.
pub(crate) type PortalKey = (SocketAddr, usize);

impl From<Document> for Model {
    /// Of things that are named twice the last one counts; what has been [checked](super::check) has none.
    fn from(document: Document) -> Self {
        let Document {
            addresses,
            daemon,
            discovery,
            limits,
            times,
            units,
            portals,
            targets,
            vhost_user,
            throttles,
        } = document;
        let mut model = Self {
            daemon,
            iscsi: Iscsi { addresses, discovery, limits, times },
            units: units.into_iter().map(|unit| (unit.name.clone(), unit)).collect(),
            targets: targets.into_iter().map(|target| (target.name.clone(), target)).collect(),
            exports: vhost_user.into_iter().map(|export| (export.name.clone(), export)).collect(),
            throttles: throttles.into_iter().map(|throttle| (throttle.name.clone(), throttle)).collect(),
            portals: BTreeMap::new(),
        };
        for portal in portals {
            let address = portal.listen.0;
            let others = model.portals.range((address, 0)..=(address, usize::MAX)).count();
            model.portals.insert((address, if address.port() == 0 { others } else { 0 }), portal);
        }
        model
    }
}

impl From<&Model> for Document {
    fn from(model: &Model) -> Self {
        let Iscsi { addresses, discovery, limits, times } = model.iscsi.clone();
        Self {
            addresses,
            daemon: model.daemon.clone(),
            discovery,
            limits,
            times,
            units: model.units.values().cloned().collect(),
            portals: model.portals.values().cloned().collect(),
            targets: model.targets.values().cloned().collect(),
            vhost_user: model.exports.values().cloned().collect(),
            throttles: model.throttles.values().cloned().collect(),
        }
    }
}

/// What has paths, of which relative ones begin where its file is.
pub(crate) trait Rebase {
    fn rebase(&mut self, _: &Path) {}

    /// Whether there are relative ones, which mean something else elsewhere.
    fn has_relative_paths(&self) -> bool
    where
        Self: Clone + PartialEq,
    {
        let mut absolute = self.clone();
        absolute.rebase(Path::new("/"));
        absolute != *self
    }
}

impl Rebase for Document {
    fn rebase(&mut self, base: &Path) {
        self.daemon.rebase(base);
        self.discovery.rebase(base);
        self.units.rebase(base);
        self.targets.rebase(base);
        self.vhost_user.rebase(base);
    }
}

impl<T: Rebase> Rebase for Option<T> {
    fn rebase(&mut self, base: &Path) {
        self.iter_mut().for_each(|value| value.rebase(base));
    }
}

impl<T: Rebase> Rebase for Vec<T> {
    fn rebase(&mut self, base: &Path) {
        self.iter_mut().for_each(|value| value.rebase(base));
    }
}

impl<T: Rebase + Clone> Rebase for Arc<T> {
    fn rebase(&mut self, base: &Path) {
        Self::make_mut(self).rebase(base);
    }
}

impl Rebase for FilePath {
    fn rebase(&mut self, base: &Path) {
        Self::rebase(self, base);
    }
}

impl Rebase for Unit {
    fn rebase(&mut self, base: &Path) {
        if let StoreSpec::Path(path) = &mut self.store {
            path.rebase(base);
        }
    }
}

impl Rebase for Portal {}

impl Rebase for Throttle {}

impl Rebase for Limits {}

impl Rebase for Times {}

impl Rebase for Discovery {
    fn rebase(&mut self, base: &Path) {
        self.chap.rebase(base);
    }
}

impl Rebase for Target {
    fn rebase(&mut self, base: &Path) {
        self.access.iter_mut().for_each(|rule| rule.chap.rebase(base));
    }
}

impl Rebase for Chap {
    fn rebase(&mut self, base: &Path) {
        self.accounts.rebase(base);
        self.target.rebase(base);
    }
}

impl Rebase for Account {
    fn rebase(&mut self, base: &Path) {
        if let SecretSource::File(path) = &mut self.secret {
            path.rebase(base);
        }
    }
}

impl Rebase for VhostUser {
    fn rebase(&mut self, base: &Path) {
        self.socket.rebase(base);
    }
}

impl Rebase for Daemon {
    fn rebase(&mut self, base: &Path) {
        self.state_dir.rebase(base);
        self.control.rebase(base);
        self.allowed_paths.rebase(base);
    }
}
