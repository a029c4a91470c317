//! The command line.

use crate::notation::UnitSpec;
use clap::{Args, Parser, ValueEnum};
use lunette_reactor::{Io, Poll};
use std::net::SocketAddr;
use std::path::PathBuf;

/// A user-space SCSI target: disks for virtual machines and the network.
#[derive(Parser, Debug)]
#[command(version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Subcommand,
}

#[derive(clap::Subcommand, Debug)]
pub(crate) enum Subcommand {
    /// Serve logical units until SIGTERM or SIGINT
    ///
    /// Without any option: a thin 1 GiB disk in the state directory, on iSCSI 127.0.0.1:3260 and on a vhost-user socket.
    Serve(Serve),
}

#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// A logical unit, as in disk:/var/vm/a.img,w or disk:ram:4G (may be repeated)
    ///
    /// Written `TYPE:STORE[,r|w][,key=value…]`. TYPE is `disk`. STORE is the path of a file or block device, or ram:SIZE. `r`
    /// refuses writes. Keys: size= (create a sparse file of this size if there is none), block=512|4096, direct=on|off,
    /// inline=on|off, serial=, wwn= (NAA name), name=, rotational=on|off, removable=on|off, target= (0 to 255, otherwise 0;
    /// not for iSCSI, whose target is 0), lun= (0 to 16383, otherwise numbered from 0 in each target, in the order given). A
    /// comma in a path is written `\,`.
    #[arg(long = "lu", value_name = "UNIT")]
    pub(crate) units: Vec<UnitSpec>,

    /// Serve iSCSI on this address; port 0 chooses one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) iscsi: Vec<SocketAddr>,

    /// Serve virtual machines on this vhost-user socket
    #[arg(long, value_name = "SOCKET")]
    pub(crate) vhost_user: Vec<PathBuf>,

    /// Bring the memory of virtual machines in as a whole, and lock it
    ///
    /// No command then waits for a page of guest memory. It takes a while when a guest starts, and the right to lock that
    /// much (RLIMIT_MEMLOCK); without the right the memory is used as it is.
    #[arg(long)]
    pub(crate) pin_memory: bool,

    /// Name of the iSCSI target
    #[arg(long, value_name = "IQN", default_value = "iqn.2026-11.dev.lunette:default")]
    pub(crate) target: String,

    /// Where identities are kept [default: $LUNETTE_STATE_DIR, /var/lib/lunette or ~/.local/state/lunette]
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) state_dir: Option<PathBuf>,

    /// Number of reactor threads; 0 means one for each CPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) reactors: u16,

    /// What a reactor does when it has nothing to do
    #[arg(long, value_enum, default_value_t = PollMode::Adaptive)]
    pub(crate) poll: PollMode,

    /// How a reactor talks to the kernel
    #[arg(long, value_enum, default_value_t = IoMode::Auto)]
    pub(crate) io: IoMode,
}

/// `--poll`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum PollMode {
    /// Spin for a moment before sleeping, where that pays
    Adaptive,
    /// Never sleep: a whole CPU for each reactor
    Always,
    /// Sleep at once
    Never,
}

/// `--io`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum IoMode {
    /// By io_uring, or by epoll where that is refused
    Auto,
    /// By epoll and a pool of threads
    Epoll,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bad_unit_is_reported_with_its_reason() {
        let error =
            Cli::try_parse_from(["lunette", "serve", "--lu", "disk:/a,block=1"]).unwrap_err().to_string();
        assert!(error.contains("blocks have 512 or 4096 bytes"), "{error}");
    }
}
