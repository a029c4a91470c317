//! The commands about what a daemon serves: units, targets, portals, exports, and throttles.

use super::ControlSocket;
use super::keys::{self, Keyed, Keys};
use crate::client::names;
use crate::config::values::{Label, Name, Place, TargetName, Text};
use crate::config::{Portal, Target, Throttle, Unit, VhostUser};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use std::marker::PhantomData;
use std::net::SocketAddr;

/// `lu`.
#[derive(Args, Debug)]
pub(crate) struct LuCall {
    #[command(flatten)]
    pub(crate) control: ControlSocket,
    #[command(subcommand)]
    pub(crate) command: LuCommand,
}

/// What is to be done with logical units.
#[derive(Subcommand, Debug)]
pub(crate) enum LuCommand {
    /// Show all logical units
    List(Listing),
    /// Show one, where it is seen, and its keys as in a configuration
    Show(Showing<UnitNamed>),
    /// Serve a logical unit
    ///
    /// Nothing happens if there is the same already.
    // Units have a key `version`.
    #[command(disable_version_flag = true)]
    Create {
        /// Its name; or all of it in the notation of `serve --lu`, as in disk:/srv/a.img,name=a
        #[arg(value_name = "UNIT")]
        unit: String,
        /// Show it to those who use this target or vhost-user export (may be repeated)
        #[arg(long = "to", value_name = "NAME", add = ArgValueCandidates::new(names::targets_and_exports))]
        to: Vec<Shelf>,
        #[command(flatten)]
        keys: Keys<Unit>,
    },
    /// Take logical units out of service; their bytes stay
    Delete {
        #[arg(value_name = "UNIT", required = true, add = ArgValueCandidates::new(names::units))]
        units: Vec<Name>,
        /// Also those that are shown somewhere
        #[arg(long)]
        detach: bool,
    },
    /// Change keys of a logical unit while it is used
    #[command(disable_version_flag = true)]
    Change {
        #[command(flatten)]
        change: Changing<UnitNamed, Unit>,
        /// Also make it smaller: what is beyond is lost
        #[arg(long, help_heading = "Options")]
        shrink: bool,
    },
    /// Have another target or export show a logical unit, and print where
    Move {
        #[command(flatten)]
        unit: UnitNamed,
        /// Target or export that shows it
        #[arg(value_name = "FROM", add = ArgValueCandidates::new(names::targets_and_exports))]
        from: Shelf,
        /// Target or export that is to show it
        #[arg(value_name = "TO", add = ArgValueCandidates::new(names::targets_and_exports))]
        to: Shelf,
        /// LUN, or TARGET:LUN of an export [default: the lowest that is free]
        #[arg(long, value_name = "PLACE")]
        at: Option<Place>,
    },
    /// Make a logical unit larger or smaller, and tell those who use it
    Resize {
        #[command(flatten)]
        unit: UnitNamed,
        /// Its size, as in 20G
        size: String,
        /// Also make it smaller: what is beyond is lost
        #[arg(long)]
        shrink: bool,
    },
    /// Give a logical unit the size of its store, which has another by now
    Refresh(UnitNamed),
    /// Let what is under way end, and hold back what comes
    Quiesce(UnitNamed),
    /// Let what was held back go on
    Resume(UnitNamed),
}

/// `target`.
#[derive(Args, Debug)]
pub(crate) struct TargetCall {
    #[command(flatten)]
    pub(crate) control: ControlSocket,
    #[command(subcommand)]
    pub(crate) command: TargetCommand,
}

/// What is to be done with iSCSI targets.
#[derive(Subcommand, Debug)]
pub(crate) enum TargetCommand {
    /// Show all targets
    List(Listing),
    /// Show one, and its keys as in a configuration
    Show(Showing<TargetNamed>),
    /// Serve a target
    ///
    /// It shows the units of `--units`, none if that is `{}`, and all that have a `lun` of their own without it. Nothing
    /// happens if there is the same already.
    Create {
        /// Its iSCSI name
        #[arg(value_name = "TARGET")]
        name: TargetName,
        #[command(flatten)]
        keys: Keys<Target>,
    },
    /// Take a target out of service, and end its sessions
    Delete(TargetNamed),
    /// Change keys of a target while it is used
    Change(Changing<TargetNamed, Target>),
    /// Have a target show a logical unit, and print where
    Attach {
        #[command(flatten)]
        target: TargetNamed,
        #[command(flatten)]
        unit: UnitNamed,
        /// Logical unit number [default: where it is, or the lowest that is free]
        #[arg(long)]
        lun: Option<u32>,
    },
    /// Have a target show a logical unit no more
    Detach {
        #[command(flatten)]
        target: TargetNamed,
        /// Name of the unit
        #[arg(value_name = "UNIT", required_unless_present = "lun", add = ArgValueCandidates::new(names::units))]
        unit: Option<Name>,
        /// Logical unit number [default: all that it has]
        #[arg(long)]
        lun: Option<u32>,
    },
}

/// `portal`.
#[derive(Args, Debug)]
pub(crate) struct PortalCall {
    #[command(flatten)]
    pub(crate) control: ControlSocket,
    #[command(subcommand)]
    pub(crate) command: PortalCommand,
}

/// What is to be done with iSCSI portals.
#[derive(Subcommand, Debug)]
pub(crate) enum PortalCommand {
    /// Show all portals
    List(Listing),
    /// Listen for iSCSI initiators
    ///
    /// Nothing happens if there is the same already.
    Create {
        /// Address and port, as in 192.0.2.1:3260; port 0 chooses one
        #[arg(value_name = "ADDRESS:PORT")]
        listen: Text<SocketAddr>,
        #[command(flatten)]
        keys: Keys<Portal>,
    },
    /// Listen there no more; who has come in by it is asked to log out
    Delete {
        /// Address and port
        #[arg(value_name = "ADDRESS:PORT", add = ArgValueCandidates::new(names::portals))]
        listen: Text<SocketAddr>,
    },
}

/// `export`.
#[derive(Args, Debug)]
pub(crate) struct ExportCall {
    #[command(flatten)]
    pub(crate) control: ControlSocket,
    #[command(subcommand)]
    pub(crate) command: ExportCommand,
}

/// What is to be done with vhost-user exports.
#[derive(Subcommand, Debug)]
pub(crate) enum ExportCommand {
    /// Show all exports
    List(Listing),
    /// Show one, and its keys as in a configuration
    Show(Showing<ExportNamed>),
    /// Serve a virtual machine at a socket
    ///
    /// It shows the units of `--units`, none if that is `{}`, and all that have a `lun` of their own without it. Nothing
    /// happens if there is the same already.
    Create {
        /// Its name
        #[arg(value_name = "EXPORT")]
        name: Label,
        #[command(flatten)]
        keys: Keys<VhostUser>,
    },
    /// Take an export out of service; the virtual machine loses its disks
    Delete(ExportNamed),
    /// Change keys of an export while it is used
    Change(Changing<ExportNamed, VhostUser>),
    /// Call an export otherwise
    Rename {
        #[command(flatten)]
        export: ExportNamed,
        /// What it is to be called
        #[arg(value_name = "NAME")]
        to: Label,
    },
    /// Have an export show a logical unit, and print where
    Attach {
        #[command(flatten)]
        export: ExportNamed,
        #[command(flatten)]
        unit: UnitNamed,
        /// LUN, or TARGET:LUN [default: where it is, or the lowest that is free of target 0]
        #[arg(long, value_name = "PLACE")]
        at: Option<Place>,
    },
    /// Have an export show a logical unit no more
    Detach {
        #[command(flatten)]
        export: ExportNamed,
        /// Name of the unit
        #[arg(value_name = "UNIT", required_unless_present = "at", add = ArgValueCandidates::new(names::units))]
        unit: Option<Name>,
        /// LUN, or TARGET:LUN [default: all that it has]
        #[arg(long, value_name = "PLACE")]
        at: Option<Place>,
    },
}

/// `throttle`.
#[derive(Args, Debug)]
pub(crate) struct ThrottleCall {
    #[command(flatten)]
    pub(crate) control: ControlSocket,
    #[command(subcommand)]
    pub(crate) command: ThrottleCommand,
}

/// What is to be done with throttles.
#[derive(Subcommand, Debug)]
pub(crate) enum ThrottleCommand {
    /// Show all throttles
    List(Listing),
    /// Show one, and its keys as in a configuration
    Show(Showing<ThrottleNamed>),
    /// Say how many commands and bytes a second there may be
    ///
    /// It is about everybody and all units, as far as `--units`, `--initiators` and `--exports` do not say something else. Nothing
    /// happens if there is the same already.
    Create {
        /// Its name
        #[arg(value_name = "THROTTLE")]
        name: Label,
        #[command(flatten)]
        keys: Keys<Throttle>,
    },
    /// Have a throttle count no more; what has waited for it goes on
    Delete(ThrottleNamed),
    /// Change keys of a throttle while commands wait
    Change(Changing<ThrottleNamed, Throttle>),
}

/// How a list is shown.
#[derive(Args, Clone, Debug)]
pub(crate) struct Listing {
    /// As JSON, with everything that is known
    #[arg(long)]
    pub(crate) json: bool,
}

/// How one object is shown.
#[derive(Args, Clone, Debug)]
pub(crate) struct Showing<N: Args> {
    #[command(flatten)]
    pub(crate) of: N,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which keys become what.
#[derive(Args, Clone, Debug)]
pub(crate) struct Changing<N: Args, T: Keyed> {
    #[command(flatten)]
    pub(crate) of: N,
    #[command(flatten)]
    pub(crate) keys: Keys<T>,
    #[command(flatten)]
    pub(crate) unset: Unset<T>,
    /// Let it go and come again, if a key cannot be changed otherwise
    #[arg(long, help_heading = "Options")]
    pub(crate) recreate: bool,
}

/// Keys that are left out.
#[derive(Clone, Debug)]
pub(crate) struct Unset<T> {
    pub(crate) keys: Vec<String>,
    of: PhantomData<T>,
}

impl<T: Keyed> Args for Unset<T> {
    fn augment_args(command: clap::Command) -> clap::Command {
        let parser = PossibleValuesParser::new(keys::names::<T>());
        command.arg(
            clap::Arg::new("unset")
                .long("unset")
                .value_name("KEY")
                .value_parser(parser)
                .hide_possible_values(true)
                .action(clap::ArgAction::Append)
                .help_heading("Options")
                .help("Leave this key out, as if it had never been said (may be repeated)"),
        )
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl<T: Keyed> clap::FromArgMatches for Unset<T> {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        let keys = matches.get_many::<String>("unset").unwrap_or_default().cloned().collect();
        Ok(Self { keys, of: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A unit that there is.
#[derive(Args, Clone, Debug)]
pub(crate) struct UnitNamed {
    /// Name of the unit
    #[arg(value_name = "UNIT", add = ArgValueCandidates::new(names::units))]
    pub(crate) unit: Name,
}

/// A target that there is.
#[derive(Args, Clone, Debug)]
pub(crate) struct TargetNamed {
    /// iSCSI name of the target
    #[arg(value_name = "TARGET", add = ArgValueCandidates::new(names::targets))]
    pub(crate) target: TargetName,
}

/// An export that there is.
#[derive(Args, Clone, Debug)]
pub(crate) struct ExportNamed {
    /// Name of the export
    #[arg(value_name = "EXPORT", add = ArgValueCandidates::new(names::exports))]
    pub(crate) export: Label,
}

/// A throttle that there is.
#[derive(Args, Clone, Debug)]
pub(crate) struct ThrottleNamed {
    /// Name of the throttle
    #[arg(value_name = "THROTTLE", add = ArgValueCandidates::new(names::throttles))]
    pub(crate) throttle: Label,
}

/// What shows units.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Shelf {
    Target(TargetName),
    Export(Label),
}

impl std::fmt::Display for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Target(name) => name.fmt(f),
            Self::Export(name) => name.fmt(f),
        }
    }
}

impl std::str::FromStr for Shelf {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name.parse() {
            Ok(target) => Ok(Self::Target(target)),
            Err(_) => name.parse().map(Self::Export),
        }
    }
}
