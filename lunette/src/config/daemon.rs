//! The exports to virtual machines, and what is settled when the daemon starts.

use super::iscsi::{PortGroup, some};
use super::unit::is_default;
use super::values::{FilePath, Label, Mode, Name, Place, Principal};
use crate::log::LogLevel;
use clap::ValueEnum;
use lunette_reactor::{Io, Poll};
use schemars::JsonSchema;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU16;

/// `[[vhost-user]]`: a socket for virtual machines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct VhostUser {
    /// What the export is called.
    pub(crate) name: Label,
    /// The path of the socket. A relative one begins where the file is.
    pub(crate) socket: FilePath,
    /// The socket is the virtual machine monitor's (`server=on` in QEMU), and lunette connects to it, again and again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) client: bool,
    /// Who may connect, in octal, as in `0660`; otherwise the owner, and the group if one is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<Mode>,
    /// The user whom the socket belongs to, by name or number; otherwise the daemon's. With `client` the user who has to listen
    /// there; otherwise anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Principal>,
    /// The group that the socket belongs to, by name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<Principal>,
    /// The target port group of its ports.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) port_group: PortGroup,
    /// What it is recognised by in the state directory: its ports have their names from that.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) known_by: ExportKnownBy,
    /// The names of units at their places, which are `LUN` or `TARGET:LUN`; without it those that have a `lun` of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) units: Option<Places>,
}

/// The names of units by the places at which a virtual machine sees them.
pub(crate) type Places = BTreeMap<Place, Name>;

impl VhostUser {
    /// A socket for the daemon's own user, which shows all units.
    pub(crate) fn new(name: Label, socket: FilePath) -> Self {
        Self {
            name,
            socket,
            client: false,
            mode: None,
            owner: None,
            group: None,
            port_group: PortGroup::default(),
            known_by: ExportKnownBy::Socket,
            units: None,
        }
    }
}

/// What an export is recognised by in the state directory.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ExportKnownBy {
    /// By the path of its socket.
    #[default]
    Socket,
    /// By its name, wherever its socket is: two daemons that share a state directory can serve one virtual machine, at two sockets.
    Name,
}

/// `[daemon]`: what is settled when the daemon starts.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Daemon {
    /// Where identities, and what units save, are kept; otherwise `$LUNETTE_STATE_DIR`, `/var/lib/lunette` or
    /// `~/.local/state/lunette`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state_dir: Option<FilePath>,
    /// The socket by which the daemon is controlled; otherwise `control.sock` in the state directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) control: Option<FilePath>,
    /// Groups whose members may control the daemon, by names or numbers; otherwise its user alone, and root.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub(crate) control_admin_groups: Vec<Principal>,
    /// Groups whose members may look at everything by the control socket, but change nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub(crate) control_read_groups: Vec<Principal>,
    /// The most connections to the control socket at a time, 1 to 4096, otherwise 256; those who may only read get half of it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "clients")]
    #[schemars(range(min = 1, max = 4096))]
    pub(crate) control_clients: Option<NonZeroU16>,
    /// Where metrics are read by HTTP: a loopback address with a port, or the path of a socket; otherwise nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<Label>,
    /// How much is logged: that much, and what is more important; otherwise `info`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log_level: Option<LogLevel>,
    /// The directories below which stores may be; otherwise anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub(crate) allowed_paths: Vec<FilePath>,
    /// Whether the daemon gives up what it does not need when it starts; otherwise `on`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) confine: Option<Confine>,
    /// The user, by name or number, that a daemon becomes which root has started; otherwise it stays root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<Principal>,
    /// The group, by name or number, that it has then; otherwise the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<Principal>,
    /// Number of reactor threads; 0, or nothing, means one for each CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reactors: Option<u16>,
    /// What a reactor does when it has nothing to do; otherwise `adaptive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) poll: Option<PollMode>,
    /// How a reactor talks to the kernel; otherwise `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) io: Option<IoMode>,
    /// Bring the memory of virtual machines in as a whole, and lock it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) pin_memory: bool,
    /// Write every change that is made by the control socket to the file that all of this was read from, before it is answered.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) save_changes: bool,
}

impl Daemon {
    /// What `over` says, and where it says nothing what this does.
    pub(crate) fn overridden_by(self, over: Self) -> Self {
        Self {
            state_dir: over.state_dir.or(self.state_dir),
            control: over.control.or(self.control),
            control_admin_groups: either(over.control_admin_groups, self.control_admin_groups),
            control_read_groups: either(over.control_read_groups, self.control_read_groups),
            control_clients: over.control_clients.or(self.control_clients),
            metrics: over.metrics.or(self.metrics),
            log_level: over.log_level.or(self.log_level),
            allowed_paths: either(over.allowed_paths, self.allowed_paths),
            confine: over.confine.or(self.confine),
            user: over.user.or(self.user),
            group: over.group.or(self.group),
            reactors: over.reactors.or(self.reactors),
            poll: over.poll.or(self.poll),
            io: over.io.or(self.io),
            pin_memory: over.pin_memory || self.pin_memory,
            save_changes: over.save_changes || self.save_changes,
        }
    }
}

/// The first list, unless it is empty.
fn either<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
    if first.is_empty() { second } else { first }
}

fn clients<'de, D: Deserializer<'de>>(from: D) -> Result<Option<NonZeroU16>, D::Error> {
    match NonZeroU16::deserialize(from)? {
        number if number.get() <= 4096 => Ok(Some(number)),
        _ => Err(D::Error::custom("there may be 1 to 4096 connections")),
    }
}

/// What a reactor does when it has nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PollMode {
    /// Spin for a moment before sleeping, where that pays
    #[default]
    Adaptive,
    /// Never sleep: a whole CPU for each reactor
    Always,
    /// Sleep at once
    Never,
}

/// How a reactor talks to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum IoMode {
    /// By io_uring, or by epoll where that is refused
    #[default]
    Auto,
    /// By epoll and a pool of threads
    Epoll,
}

/// What becomes of what the daemon does not need.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Confine {
    /// It is refused and logged
    #[default]
    On,
    /// System calls are carried out and logged by the kernel, and files are not confined
    Log,
    /// Nothing is given up
    Off,
}

impl From<PollMode> for Poll {
    fn from(mode: PollMode) -> Self {
        match mode {
            PollMode::Adaptive => Self::Adaptive,
            PollMode::Always => Self::Always,
            PollMode::Never => Self::Never,
        }
    }
}

impl From<IoMode> for Io {
    fn from(mode: IoMode) -> Self {
        match mode {
            IoMode::Auto => Self::Auto,
            IoMode::Epoll => Self::Epoll,
        }
    }
}
