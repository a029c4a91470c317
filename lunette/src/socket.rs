//! The notation for sockets: `SOCKET[,mode=0660][,owner=USER[:GROUP]][,group=N]` for vhost-user and
//! `ADDRESS:PORT[,group=N]` for iSCSI.

use crate::access::{self, Grouped};
use crate::notation::{NotationError, Options, split_at_commas};
use lunette_engine::TargetPort;
use lunette_transport_vhost_user::{Access, Endpoint};
use nix::unistd::{Group, User};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// A vhost-user socket as a user describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SocketSpec {
    path: PathBuf,
    access: Access,
    group: u16,
}

/// An iSCSI portal as a user describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PortalSpec {
    address: SocketAddr,
    group: u16,
}

impl SocketSpec {
    /// A socket for the daemon's own user.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, access: Access::default(), group: TargetPort::DEFAULT_GROUP }
    }
}

impl From<SocketSpec> for Grouped<Endpoint> {
    fn from(SocketSpec { path, access, group }: SocketSpec) -> Self {
        Self { place: Endpoint::Path { path, access }, group }
    }
}

impl From<PortalSpec> for Grouped<SocketAddr> {
    fn from(PortalSpec { address, group }: PortalSpec) -> Self {
        Self { place: address, group }
    }
}

impl FromStr for PortalSpec {
    type Err = NotationError;

    fn from_str(text: &str) -> Result<Self, NotationError> {
        parse_portal(text).map_err(|why| NotationError::new(text, why))
    }
}

fn parse_portal(text: &str) -> Result<PortalSpec, String> {
    let (address, option) =
        text.split_once(',').map_or((text, None), |(address, rest)| (address, Some(rest)));
    let address = address.parse().map_err(|_| "an iSCSI portal is written ADDRESS:PORT, as in [::1]:3260")?;
    let group = match option.map(|option| option.split_once('=')) {
        None => TargetPort::DEFAULT_GROUP,
        Some(Some(("group", value))) => access::group(value)?,
        Some(_) => return Err("only group= can follow the address".into()),
    };
    Ok(PortalSpec { address, group })
}

impl FromStr for SocketSpec {
    type Err = NotationError;

    fn from_str(text: &str) -> Result<Self, NotationError> {
        parse(text).map_err(|why| NotationError::new(text, why))
    }
}

fn parse(text: &str) -> Result<SocketSpec, String> {
    let mut parts = split_at_commas(text).into_iter();
    let path = parts.next().filter(|path| !path.is_empty()).ok_or("the path is missing")?;
    let mut socket = SocketSpec::new(path.into());
    let mut mode_given = None;
    let mut options = Options::default();
    for part in parts {
        match part.split_once('=') {
            Some(("mode", value)) => mode_given = Some(mode(value)?),
            Some(("owner", value)) => set_owner(&mut socket.access, value)?,
            Some(("group", value)) => socket.group = access::group(value)?,
            _ => {
                return Err(format!(
                    "`{part}` is neither mode=, owner= nor group=; a comma in a path is written `\\,`"
                ));
            }
        }
        options.once(part.split_once('=').map_or("", |(key, _)| key))?;
    }
    // Who names a group means it to connect.
    let usual = if socket.access.group.is_some() { 0o660 } else { socket.access.mode };
    socket.access.mode = mode_given.unwrap_or(usual);
    Ok(socket)
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| format!("mode={text}: a mode is octal, up to 0777"))
}

fn set_owner(access: &mut Access, text: &str) -> Result<(), String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    // As chown(1) has it, `:GROUP` leaves the user alone.
    if !(user.is_empty() && group.is_some()) {
        let find = |name: &str| Ok(User::from_name(name)?.map(|user| user.uid.as_raw()));
        access.user = Some(number("user", user, find)?);
    }
    if let Some(group) = group {
        access.group = Some(group_number(group)?);
    }
    Ok(())
}

/// The number of the group that `text` names.
pub(crate) fn group_number(text: &str) -> Result<u32, String> {
    number("group", text, |name| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())))
}

/// The number that `text` is, or that belongs to it as a name.
fn number(kind: &str, text: &str, find: impl Fn(&str) -> nix::Result<Option<u32>>) -> Result<u32, String> {
    // The largest number means to the kernel: leave as it is.
    if let Some(number) = text.parse().ok().filter(|number| *number != u32::MAX) {
        return Ok(number);
    }
    let found = find(text).map_err(|error| format!("cannot look up the {kind} `{text}`: {error}"))?;
    found.ok_or_else(|| format!("there is no {kind} `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(path: &str, mode: u32, user: Option<u32>, group: Option<u32>) -> SocketSpec {
        let access = Access { mode, user, group };
        SocketSpec { access, ..SocketSpec::new(path.into()) }
    }

    #[test]
    fn paths_modes_and_owners_are_understood() {
        for (text, expected) in [
            ("/run/vm.sock", socket("/run/vm.sock", 0o600, None, None)),
            (r"/run/a\,b.sock,mode=666", socket("/run/a,b.sock", 0o666, None, None)),
            ("vm.sock,owner=64055", socket("vm.sock", 0o600, Some(64055), None)),
            ("vm.sock,owner=root:root", socket("vm.sock", 0o660, Some(0), Some(0))),
            ("vm.sock,owner=:7", socket("vm.sock", 0o660, None, Some(7))),
            ("vm.sock,owner=1:2,mode=0600", socket("vm.sock", 0o600, Some(1), Some(2))),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn target_port_groups_are_understood() {
        let spec: SocketSpec = "vm.sock,group=7,mode=0600".parse().unwrap();
        assert_eq!(spec, SocketSpec { group: 7, ..socket("vm.sock", 0o600, None, None) });
        let portal = |text: &str| text.parse::<PortalSpec>().map_err(|error| error.to_string());
        let address = SocketAddr::from(([127, 0, 0, 1], 3260));
        assert_eq!(portal("127.0.0.1:3260"), Ok(PortalSpec { address, group: 1 }));
        assert_eq!(portal("127.0.0.1:3260,group=2"), Ok(PortalSpec { address, group: 2 }));
        assert_eq!(portal("[::1]:0,group=65534").unwrap().group, 65534);
        for (text, part) in [
            ("localhost", "written ADDRESS:PORT"),
            ("127.0.0.1:1,group=0", "1 to 65534"),
            ("127.0.0.1:1,", "only group="),
            ("127.0.0.1:1,group=1,group=2", "1 to 65534"),
        ] {
            let error = portal(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (text, part) in [
            ("", "path is missing"),
            (",mode=0600", "path is missing"),
            ("a,b", "`b` is neither mode=, owner= nor group="),
            ("a,colour=red", "`colour=red` is neither"),
            ("a,mode=", "mode=: a mode is octal"),
            ("a,mode=rw", "mode=rw: a mode is octal"),
            ("a,mode=1777", "up to 0777"),
            ("a,mode=600,mode=600", "`mode` is given twice"),
            ("a,owner=", "no user ``"),
            ("a,owner=no-such-user-here", "no user `no-such-user-here`"),
            ("a,owner=root:no-such-group-here", "no group `no-such-group-here`"),
            ("a,owner=root:", "no group ``"),
            ("a,owner=4294967295", "no user `4294967295`"),
        ] {
            let error = text.parse::<SocketSpec>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
