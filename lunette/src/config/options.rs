//! From the command line of `serve` to a model.

use super::check::Setting;
use super::daemon::{Daemon, VhostUser};
use super::document::{Document, Model, Rebase};
use super::iscsi::{Portal, Target};
use super::load::{DEFAULT_FILE, Files, load, without_file};
use super::report::Report;
use super::unit::{KnownBy, Unit, UnitLun};
use super::values::{Bytes, FilePath, Name, Place, Text};
use crate::cli::Serve;
use crate::inherited::Inherited;
use crate::notation::MAX_LUNS;
use crate::socket;
use crate::state::StateDir;
use anyhow::{Context, Result, anyhow, bail};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// The iSCSI address when none is given.
const DEFAULT_ISCSI: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3260);

/// Which sockets there are in any case.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Sockets {
    iscsi: bool,
    vhost_user: bool,
    /// The command line names some of them.
    by_option: bool,
}

impl From<&Inherited> for Sockets {
    fn from(inherited: &Inherited) -> Self {
        Self {
            iscsi: !inherited.iscsi.is_empty(),
            vhost_user: !inherited.vhost_user.is_empty(),
            by_option: inherited.by_option,
        }
    }
}

/// What `serve` is to serve, and what is hardly meant.
pub(super) fn configure(options: &Serve, sockets: Sockets) -> Result<(Model, Report)> {
    let daemon = daemon(options)?;
    let setting = Setting {
        iscsi_sockets: Some(sockets.iscsi),
        vhost_user_sockets: Some(sockets.vhost_user),
        looks_at_system: true,
        is_whole: true,
    };
    // Who reads files is to know who will own them.
    let user = || Daemon { user: daemon.user.clone(), ..Daemon::default() };
    let alone = || anyhow::Ok(Document { daemon: user(), ..document(options, &daemon, sockets)? });
    let nothing = || Document { daemon: user(), ..Document::default() };
    let whole = |path: &Path| std::path::absolute(path).with_context(|| path.display().to_string());
    let loaded = match (&options.iscsi_config, file(options, sockets)) {
        (None, Some(path)) => load(&whole(path)?, Files::WithDirectory, nothing(), setting),
        (Some(path), _) => load(&whole(path)?, Files::Alone, alone()?, setting),
        (None, None) => without_file(alone()?, setting),
    };
    let (mut model, report) = loaded?;
    model.daemon = model.daemon.overridden_by(daemon);
    Ok((model, report))
}

/// The file to be read: that of `--config`, or the default one if there is one and nothing is said of what to serve. Sockets of a
/// service manager say where, not what.
pub(super) fn file(options: &Serve, sockets: Sockets) -> Option<&Path> {
    if options.config.is_some() {
        return options.config.as_deref();
    }
    let says_nothing = options.units.is_empty()
        && options.iscsi.is_empty()
        && options.vhost_user.is_empty()
        && options.socket_paths.is_empty()
        && options.target.is_none()
        && !sockets.by_option
        && !options.is_back_end;
    let default = Path::new(DEFAULT_FILE);
    (says_nothing && default.exists()).then_some(default)
}

/// What the command line says of the daemon itself.
pub(super) fn daemon(options: &Serve) -> Result<Daemon> {
    let path = |path: &Option<std::path::PathBuf>| path.as_deref().map(file_path).transpose();
    let mut daemon = Daemon {
        state_dir: path(&options.state_dir)?,
        control: path(&options.control)?,
        metrics: options.metrics.clone(),
        log_level: options.log_level,
        control_admin_groups: options.control_access.administrators.clone(),
        control_read_groups: options.control_access.readers.clone(),
        control_clients: options.control_access.clients.and_then(std::num::NonZeroU16::new),
        allowed_paths: options.confine.allowed_paths.clone(),
        confine: options.confine.mode,
        user: options.confine.user.clone(),
        group: options.confine.group.clone(),
        reactors: options.reactors,
        poll: options.poll,
        io: options.io,
        pin_memory: options.pin_memory,
        ..Daemon::default()
    };
    daemon.rebase(&std::env::current_dir().context("cannot find out the directory")?);
    Ok(daemon)
}

fn file_path(path: &Path) -> Result<FilePath> {
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    text.parse().map_err(|why| anyhow!("{text}: {why}"))
}

/// What the command line says of units and exports.
fn document(options: &Serve, daemon: &Daemon, sockets: Sockets) -> Result<Document> {
    let mut units = options.units.clone();
    if units.is_empty() {
        units.push(default_unit(daemon)?);
    }
    number(&mut units)?;
    let mut portals = options.iscsi.clone();
    let mut vhost_user = options.vhost_user.clone();
    for path in &options.socket_paths {
        let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
        vhost_user.push(socket::at_path(text).map_err(|why| anyhow!("{text}: {why}"))?);
    }
    let has_file = options.iscsi_config.is_some();
    let is_alone = portals.is_empty() && vhost_user.is_empty() && !sockets.iscsi && !sockets.vhost_user;
    if is_alone && !has_file {
        if !options.is_back_end {
            portals.push(Portal {
                listen: Text(DEFAULT_ISCSI),
                group: Default::default(),
                advertise: Vec::new(),
            });
        }
        vhost_user.push(default_socket(daemon)?);
    }
    let has_iscsi = !portals.is_empty() || sockets.iscsi;
    let targets = if has_iscsi && !has_file { vec![target(options)?] } else { Vec::new() };
    let nowhere = units.iter().find(|unit| unit.target != 0);
    if let Some(unit) = nowhere.filter(|_| !has_file && vhost_user.is_empty() && !sockets.vhost_user) {
        bail!(
            "the unit `{}` would be seen by nobody: an iSCSI target shows the units of target 0, unless a file says more. \
             Serve it with --vhost-user, name it in the file, or leave the target out",
            unit.name
        );
    }
    let here = std::env::current_dir().context("cannot find out the directory")?;
    units.rebase(&here);
    vhost_user.rebase(&here);
    let units = units.into_iter().map(Arc::new).collect();
    Ok(Document { units, portals, targets, vhost_user, ..Document::default() })
}

/// The name of the target when none is given.
const DEFAULT_TARGET: &str = "iqn.2026-11.dev.lunette:default";

/// One target, which everyone may use.
fn target(options: &Serve) -> Result<Target> {
    let name = options.target.as_deref().unwrap_or(DEFAULT_TARGET);
    Ok(Target::new(name.parse().map_err(|why: String| anyhow!(why))?))
}

fn state_dir(daemon: &Daemon) -> std::path::PathBuf {
    StateDir::place(daemon.state_dir.as_ref().map(|path| path.as_path()))
}

/// The disk that is served when nothing else is said.
fn default_unit(daemon: &Daemon) -> Result<Unit> {
    let image = file_path(&state_dir(daemon).join("default.img"))?;
    let store = super::values::StoreSpec::Path(image);
    Ok(Unit { size: Some(Bytes(1 << 30)), name: Name::of("default"), ..Unit::new(store) })
}

fn default_socket(daemon: &Daemon) -> Result<VhostUser> {
    let path = state_dir(daemon).join("vhost-user.sock");
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    socket::at_path(text).map_err(|why| anyhow!("{text}: {why}"))
}

/// Gives every unit its place, `lun=` where given and the lowest free ones of the target in order otherwise, and a name. What has
/// none is recognised by its file.
fn number(units: &mut [Unit]) -> Result<()> {
    let place = |unit: &Unit| Some(Place { target: unit.target, lun: unit.lun?.0 });
    let taken: HashSet<Place> = units.iter().filter_map(place).collect();
    let mut next = [0; 256];
    for unit in units {
        let target = unit.target;
        let next: &mut u32 = &mut next[usize::from(target)];
        let lun = match unit.lun {
            Some(UnitLun(lun)) => lun,
            None => {
                while taken.contains(&Place { target, lun: *next }) {
                    *next += 1;
                }
                *next += 1;
                *next - 1
            }
        };
        if lun >= MAX_LUNS {
            bail!("target {target} has no room for more than {MAX_LUNS} logical units");
        }
        unit.lun = Some(UnitLun(lun));
        if unit.name.is_empty() {
            unit.known_by = KnownBy::File;
            unit.name = Name::of(&match target {
                0 => format!("lun{lun}"),
                target => format!("target{target}-lun{lun}"),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(units: &[(u8, Option<u32>)]) -> Result<Vec<(u8, u32)>> {
        let unit = |&(target, lun): &(u8, Option<u32>)| {
            let ram = Unit::new("ram:1M".parse().unwrap());
            Unit { target, lun: lun.map(UnitLun), ..ram }
        };
        let mut units: Vec<_> = units.iter().map(unit).collect();
        number(&mut units)?;
        Ok(units.iter().map(|unit| (unit.target, unit.lun.unwrap().0)).collect())
    }

    #[test]
    fn units_are_numbered_from_zero_around_the_given_numbers() {
        assert_eq!(numbers(&[(0, None), (0, None)]).unwrap(), [(0, 0), (0, 1)]);
        let mixed = [(0, None), (0, Some(0)), (3, None), (0, None), (0, Some(2)), (3, Some(2)), (3, None)];
        let expected = [(0, 1), (0, 0), (3, 0), (0, 3), (0, 2), (3, 2), (3, 1)];
        assert_eq!(numbers(&mixed).unwrap(), expected);
        let full = [(7, None); MAX_LUNS as usize + 1];
        assert_eq!(numbers(&full[1..]).unwrap().last(), Some(&(7, 16383)));
        assert!(numbers(&full).is_err());
    }

    fn model(words: &[&str]) -> Result<Model> {
        let words = [&["lunette", "serve", "--state-dir", "/s"], words].concat();
        let words: Vec<_> = words.into_iter().map(Into::into).collect();
        match crate::cli::Call::parse(&words).unwrap() {
            crate::cli::Call::Serve(options) => {
                configure(&options, Sockets::default()).map(|(model, _)| model)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_arguments_there_is_a_disk_on_both_transports() {
        let model = model(&[]).unwrap();
        let text = super::super::print::to_toml(&model).unwrap();
        assert_eq!(
            text,
            "[daemon]\nstate-dir = \"/s\"\n\n\
             [[unit]]\nname = \"default\"\nstore = \"/s/default.img\"\nsize = \"1G\"\nlun = 0\n\n\
             [[portal]]\nlisten = \"127.0.0.1:3260\"\n\n\
             [[target]]\nname = \"iqn.2026-11.dev.lunette:default\"\n\n\
             [[vhost-user]]\nname = \"/s/vhost-user.sock\"\nsocket = \"/s/vhost-user.sock\"\n"
        );
    }

    #[test]
    fn units_without_a_name_are_known_by_their_files() {
        let model =
            model(&["--lu", "disk:/a", "--lu", "disk:/b,name=b,target=3", "--vhost-user", "/v,group=2"])
                .unwrap();
        let units: Vec<_> = model
            .units
            .values()
            .map(|unit| (unit.name.as_str(), unit.known_by, unit.target, unit.lun.unwrap().0))
            .collect();
        assert_eq!(units, [("b", KnownBy::Name, 3, 0), ("lun0", KnownBy::File, 0, 0)]);
        assert!(model.portals.is_empty() && model.targets.is_empty());
        assert_eq!(model.exports.values().next().unwrap().port_group.0, 2);
    }

    #[test]
    fn what_is_said_twice_or_seen_by_nobody_is_refused() {
        for (words, part) in [
            (&["--lu", "disk:ram:1M,name=x", "--lu", "disk:ram:1M,name=x"][..], "two units of the name `x`"),
            (&["--lu", "disk:/a", "--lu", "disk:/a"], "have the same bytes"),
            (&["--lu", "disk:ram:1M,lun=1", "--lu", "disk:ram:1M,lun=1"], "lun=1"),
            (&["--lu", "disk:ram:1M,target=1", "--iscsi", "127.0.0.1:0"], "seen by nobody"),
            (&["--lu", "disk:ram:1M,access=7:standby", "--iscsi", "127.0.0.1:0"], "target port group 7"),
            (&["--vhost-user", "/a", "--vhost-user", "/a,mode=0600"], "`/a`"),
            (&["--iscsi", "127.0.0.1:1", "--iscsi", "127.0.0.1:1"], "two portals listen on"),
            (&["--target", "x", "--iscsi", "127.0.0.1:1"], "`x`"),
        ] {
            let error = model(words).err().unwrap_or_else(|| panic!("{words:?}")).to_string();
            assert!(error.contains(part), "{words:?}: {error}");
        }
        model(&["--lu", "disk:/a,r", "--lu", "disk:/a,r", "--iscsi", "127.0.0.1:0"]).unwrap();
    }
}
