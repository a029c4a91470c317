//! The notation for sockets: `SOCKET[,client=on][,mode=0660][,owner=USER[:GROUP]][,group=N][,name=NAME]` for vhost-user and
//! `ADDRESS:PORT[,group=N]` for iSCSI.

use crate::access;
use crate::config::values::{FilePath, Label, Mode, Text};
use crate::config::{self, ExportKnownBy, PortGroup, Portal, VhostUser};
use crate::notation::{NotationError, Options, split_at_commas, switch};
use std::str::FromStr;

impl FromStr for Portal {
    type Err = NotationError;

    fn from_str(text: &str) -> Result<Self, NotationError> {
        parse_portal(text).map_err(|why| NotationError::new(text, why))
    }
}

fn parse_portal(text: &str) -> Result<Portal, String> {
    let (address, option) =
        text.split_once(',').map_or((text, None), |(address, rest)| (address, Some(rest)));
    let address = address.parse().map_err(|_| "an iSCSI portal is written ADDRESS:PORT, as in [::1]:3260")?;
    let group = match option.map(|option| option.split_once('=')) {
        None => PortGroup::default(),
        Some(Some(("group", value))) => PortGroup(access::group(value)?),
        Some(_) => return Err("only group= can follow the address".into()),
    };
    Ok(Portal { listen: Text(address), group, advertise: Vec::new() })
}

/// The export is called, and known, by the path of its socket, or by the name that it is given.
impl FromStr for VhostUser {
    type Err = NotationError;

    fn from_str(text: &str) -> Result<Self, NotationError> {
        parse(text).map_err(|why| NotationError::new(text, why))
    }
}

/// A socket for the daemon's own user, called by its path.
pub(crate) fn at_path(path: &str) -> Result<VhostUser, String> {
    let socket: FilePath = path.parse()?;
    Ok(VhostUser::new(path.parse::<Label>()?, socket))
}

fn parse(text: &str) -> Result<VhostUser, String> {
    let mut parts = split_at_commas(text).into_iter();
    let path = parts.next().filter(|path| !path.is_empty()).ok_or("the path is missing")?;
    let mut export = at_path(&path)?;
    let mut options = Options::default();
    for part in parts {
        match part.split_once('=') {
            Some(("client", value)) => export.client = switch("client", value)?,
            Some(("mode", value)) => export.mode = Some(value.parse::<Mode>()?),
            Some(("owner", value)) => set_owner(&mut export, value)?,
            Some(("group", value)) => export.port_group = PortGroup(access::group(value)?),
            Some(("name", value)) => {
                (export.name, export.known_by) = (value.parse()?, ExportKnownBy::Name);
            }
            _ => {
                return Err(format!(
                    "`{part}` is neither client=, mode=, owner=, group= nor name=; a comma in a path is written `\\,`"
                ));
            }
        }
        options.once(part.split_once('=').map_or("", |(key, _)| key))?;
    }
    if export.client && (export.mode.is_some() || export.group.is_some()) {
        return Err(
            "mode= and owner=:GROUP are of a socket that lunette makes, and with client=on it makes none"
                .into(),
        );
    }
    config::access(&export)?;
    Ok(export)
}

fn set_owner(export: &mut VhostUser, text: &str) -> Result<(), String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let nobody = |kind: &str, name: &str| format!("there is no {kind} `{name}`");
    // As chown(1) has it, `:GROUP` leaves the user alone.
    if !(user.is_empty() && group.is_some()) {
        export.owner = Some(user.parse().map_err(|_| nobody("user", user))?);
    }
    if let Some(group) = group {
        export.group = Some(group.parse().map_err(|_| nobody("group", group))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_transport_vhost_user::Access;

    fn access_of(text: &str) -> (String, Access) {
        let export: VhostUser = text.parse().unwrap();
        assert_eq!(export.name.as_str(), export.socket.to_string());
        (export.socket.to_string(), config::access(&export).unwrap())
    }

    #[test]
    fn paths_modes_and_owners_are_understood() {
        for (text, path, mode, user, group) in [
            ("/run/vm.sock", "/run/vm.sock", 0o600, None, None),
            (r"/run/a\,b.sock,mode=666", "/run/a,b.sock", 0o666, None, None),
            ("vm.sock,owner=64055", "vm.sock", 0o600, Some(64055), None),
            ("vm.sock,owner=root:root", "vm.sock", 0o660, Some(0), Some(0)),
            ("vm.sock,owner=:7", "vm.sock", 0o660, None, Some(7)),
            ("vm.sock,owner=1:2,mode=0600", "vm.sock", 0o600, Some(1), Some(2)),
        ] {
            assert_eq!(access_of(text), (path.to_owned(), Access { mode, user, group }), "{text}");
        }
    }

    #[test]
    fn clients_are_understood() {
        let export: VhostUser = "vm.sock,client=on,owner=7".parse().unwrap();
        assert!(export.client);
        assert_eq!(config::access(&export).unwrap().user, Some(7));
        assert!(!"vm.sock,client=off,mode=0600".parse::<VhostUser>().unwrap().client);
    }

    #[test]
    fn target_port_groups_are_understood() {
        let export: VhostUser = "vm.sock,group=7,mode=0600".parse().unwrap();
        assert_eq!((export.port_group, export.mode), (PortGroup(7), Some(Mode(0o600))));
        let portal = |text: &str| text.parse::<Portal>().map_err(|error| error.to_string());
        let at = |group| Portal {
            listen: Text(([127, 0, 0, 1], 3260).into()),
            group: PortGroup(group),
            advertise: Vec::new(),
        };
        assert_eq!(portal("127.0.0.1:3260"), Ok(at(1)));
        assert_eq!(portal("127.0.0.1:3260,group=2"), Ok(at(2)));
        assert_eq!(portal("[::1]:0,group=65534").unwrap().group, PortGroup(65534));
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
            ("a,b", "`b` is neither client=, mode=, owner=, group= nor name="),
            ("a,client=1", "client=1"),
            ("a,client=on,mode=600", "it makes none"),
            ("a,owner=:7,client=on", "it makes none"),
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
            let error = text.parse::<VhostUser>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
