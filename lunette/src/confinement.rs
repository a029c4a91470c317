//! What the daemon gives up before it serves anybody.

use crate::config::values::{FilePath, Principal};
use crate::config::{self, Confine};
use anyhow::{Context, Result};
use clap::Args;
use lunette_confine::Kinds;
use lunette_confine::filter::{self, Mode};
use lunette_reactor::{ThreadKind, confine_threads};

/// What is given up, as the command line says it.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConfineOptions {
    /// What becomes of what the daemon does not need [default: on]
    #[arg(long = "confine", value_enum, value_name = "MODE")]
    pub(crate) mode: Option<Confine>,

    /// A directory below which stores may be; otherwise anywhere (may be repeated)
    #[arg(long = "allow-path", value_name = "DIRECTORY")]
    pub(crate) allowed_paths: Vec<FilePath>,

    /// User to become when root has started the daemon, by name or number
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<Principal>,

    /// Group to have then [default: the user's own]
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<Principal>,
}

/// Gives up what nobody needs who serves. Threads that are started from now on give up more.
pub(crate) fn begin(daemon: &config::Daemon) -> Result<()> {
    let mode = match daemon.confine.unwrap_or_default() {
        Confine::On => Mode::Refuse,
        Confine::Log => Mode::Log,
        Confine::Off => {
            tracing::warn!("the daemon keeps all its rights: confine is off");
            return Ok(());
        }
    };
    if let Err(error) = filter::begin(mode, Kinds::START) {
        tracing::warn!("system calls are not filtered: {error}");
        return Ok(());
    }
    confine_threads(enter).context("cannot start the thread that starts others")
}

/// The main thread has nothing more to open.
pub(crate) fn settle() {
    confine(Kinds::MAIN);
}

fn enter(kind: ThreadKind) {
    confine(match kind {
        ThreadKind::Reactor => Kinds::REACTOR,
        ThreadKind::Blocking => Kinds::BLOCKING,
        ThreadKind::Worker => Kinds::WORKER,
    });
}

/// A thread that cannot be confined further has no more rights than the one that started it.
fn confine(kind: Kinds) {
    if let Err(error) = filter::enter(kind) {
        tracing::warn!(?kind, "a thread keeps rights that it does not need: {error}");
    }
}
