//! open-iscsi in User-Mode Linux: a network of one cable between the daemon's host and a guest.

use anyhow::Result;

use crate::guest::Guest;
use crate::netns::Netns;
use crate::uml::Uml;
use crate::{checks, tools};

/// The host's address.
pub const HOST: &str = "192.0.2.1";

/// Where the daemon listens.
pub const PORTAL: &str = "192.0.2.1:3260";

/// The target that the daemon has unless told otherwise.
pub const TARGET: &str = "iqn.2026-11.dev.lunette:default";

/// The network, once everything is there that guests need.
pub fn network() -> Result<Netns> {
    tools::need(["iscsid", "iscsiadm"])?;
    checks::need_tools()?;
    Netns::with_tap("tap0", &format!("{HOST}/24"))
}

/// A guest in that network, with an initiator that has no session.
pub fn guest(netns: &Netns) -> Result<Guest> {
    let uml = Uml::new().memory_mib(512).tap("tap0").inside(netns);
    let mut guest = uml.boot()?;
    guest.check("ip address add 192.0.2.2/24 dev vec0; ip link set vec0 up; iscsi_start")?;
    Ok(guest)
}
