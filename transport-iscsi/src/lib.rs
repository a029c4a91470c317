//! The iSCSI way in: sockets, sessions and data buffers.
//!
//! A [`NetworkEntity`] has targets, and portals through which they are reached. A [`Portal`] listens and hands every
//! connection to the reactor with the fewest. There the protocol machine of
//! [`lunette_iscsi`] turns bytes into commands, the engine carries them out, and the answers of one turn leave in one
//! `sendmsg`. Data-in is sent from the buffer that the store filled, and data-out of some size is received into the buffer
//! that the store writes from.
//!
//! It knows no device type and no kind of store. Whatever an initiator sends, only its own connection suffers; every
//! bound stands in [`limits`].
//!
//! Entry types: [`NetworkEntity`], [`Target`], [`Portal`].
//!
//! ```
//! use lunette_engine::TargetPort;
//! use lunette_reactor::Reactors;
//! use lunette_scsi::Protocol;
//! use lunette_transport_iscsi::{EntityOptions, NetworkEntity, Portal, PortalOptions, TargetOptions};
//! use std::collections::BTreeMap;
//!
//! let reactors = Reactors::start(&lunette_reactor::Options::default())?;
//! let port = TargetPort::new("iqn.2026-11.dev.lunette:default,t,0x0001", 1, Protocol::ISCSI, BTreeMap::new());
//! let entity = NetworkEntity::new(EntityOptions::default());
//! let name = "iqn.2026-11.dev.lunette:default".to_owned();
//! entity.add(TargetOptions { name, groups: BTreeMap::from([(1, port)]), ..TargetOptions::default() })?;
//! let portal = Portal::start("127.0.0.1:0".parse()?, PortalOptions::default(), &entity, &reactors)?;
//! println!("iscsiadm -m discovery -t sendtargets -p {}", portal.address());
//! portal.stop(&reactors);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod advertise;
mod budget;
mod connection;
mod entity;
mod error;
mod events;
mod gatekeeper;
mod handover;
pub mod limits;
mod linger;
mod local;
mod memory;
mod offer;
mod patterns;
mod portal;
mod sessions;
mod slots;
mod status;
mod target;

pub use access::{AccessControl, AccessRule, ChapPolicy, DiscoveryAccess};
pub use entity::{EntityOptions, NetworkEntity};
pub use error::Error;
pub use gatekeeper::LoginLimits;
pub use handover::{HandedSession, HandedState, RestingSession};
pub use patterns::{NamePattern, Network, NotANetwork, NotAPattern};
pub use portal::{Portal, PortalOptions};
pub use status::{EndHow, SessionChange, SessionCounters, SessionEvent, SessionParameters, SessionStatus};
pub use target::{Redirect, Target, TargetOptions};
