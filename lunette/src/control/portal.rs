//! The methods `portal.…`.

use super::Call;
use crate::config::values::Text;
use crate::config::{self, Model};
use crate::running::Permit;
use lunette_control::{Failure, NoParams};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The address of a portal.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Address {
    /// Address and port that it listens on, as in the configuration, or as it has come to listen on for port 0.
    pub(crate) listen: Text<SocketAddr>,
}

/// A portal, as it is told.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PortalStatus {
    /// The address that it listens on.
    address: SocketAddr,
    /// How many connections have come in by it.
    connections: usize,
    /// Its keys, as in a configuration.
    config: config::Portal,
}

/// A portal that there is now.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Created {
    /// Whether it was not there before.
    created: bool,
    #[serde(flatten)]
    portal: PortalStatus,
}

pub(super) fn list(call: &Call<'_>, _: NoParams) -> Result<Vec<PortalStatus>, Failure> {
    Ok(call.daemon.running.now().portals(|_, status| status))
}

pub(super) fn create(call: &Call<'_>, portal: config::Portal) -> Result<Created, Failure> {
    let running = &call.daemon.running;
    let address = portal.listen.0;
    let edit = |model: &mut Model| {
        let number =
            model.portals.keys().filter(|(other, _)| *other == address).map(|(_, number)| number + 1).max();
        match model.portals.get(&(address, 0)) {
            // Each gets a port of its own.
            _ if address.port() == 0 => {
                let key = (address, number.unwrap_or_default());
                model.portals.insert(key, portal);
                Ok((key, true))
            }
            Some(known) if *known == portal => Ok(((address, 0), false)),
            Some(_) => Err(Failure::new(Failure::CONFLICT, format!("another portal listens on {address}"))),
            None => {
                model.portals.insert((address, 0), portal);
                Ok(((address, 0), true))
            }
        }
    };
    let ((key, created), _) = running.change(Permit::default(), call.work, edit)?;
    let mut portals =
        running.now().portals(|other, status| (other == key).then_some(status)).into_iter().flatten();
    let portal = portals.next().ok_or_else(|| Failure::failed("the portal has gone again"))?;
    Ok(Created { created, portal })
}

pub(super) fn delete(call: &Call<'_>, Address { listen: Text(address) }: Address) -> Result<(), Failure> {
    let running = &call.daemon.running;
    let edit = |model: &mut Model| {
        let listening = running.now().portals(|key, status| (status.address == address).then_some(key));
        let key = listening.into_iter().flatten().next().unwrap_or((address, 0));
        let removed = model.portals.remove(&key).map(drop);
        removed.ok_or_else(|| Failure::not_found(format!("no portal listens on {address}")))
    };
    running.change(Permit::default(), call.work, edit).map(drop)
}

impl PortalStatus {
    /// Of a portal that listens.
    pub(crate) fn new(config: &config::Portal, portal: &lunette_transport_iscsi::Portal) -> Self {
        Self { address: portal.address(), connections: portal.connection_count(), config: config.clone() }
    }
}
