//! What the daemon gives up before it serves anybody.
//!
//! In this order: another user, while nothing is open but what was passed; then, when the stores of the start are open, files,
//! capabilities and system calls. Threads give up more when they begin.

mod allowed;
mod places;
mod user;

pub(crate) use allowed::{check, lock_wait, look, opener};

use crate::cli::Serve;
use crate::config::values::{FilePath, Principal};
use crate::config::{self, Confine, Model};
use crate::state::StateDir;
use anyhow::{Context, Result};
use clap::Args;
use lunette_confine::filter::{self, Mode};
use lunette_confine::privileges::{self, Capabilities};
use lunette_confine::{Kinds, files};
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
    #[arg(long, value_name = "GROUP", requires = "user")]
    pub(crate) group: Option<Principal>,
}

/// How system calls are filtered, if they are.
fn mode(daemon: &config::Daemon) -> Option<Mode> {
    match daemon.confine.unwrap_or_default() {
        Confine::On => Some(Mode::Refuse),
        Confine::Log => Some(Mode::Log),
        Confine::Off => None,
    }
}

/// Takes note of where stores may be, and becomes another user if one is named, who owns `state` if that is not there yet.
///
/// # Safety
/// The program has one thread.
pub(crate) unsafe fn become_user(model: &Model, state: &std::path::Path) -> Result<()> {
    let daemon = &model.daemon;
    let user = user::wanted(daemon)?;
    user::prepare_state(state, user.as_ref())?;
    // SAFETY: the caller's promise.
    unsafe { allowed::settle(daemon, state, user.is_some().then_some(mode(daemon))) }?;
    let Some(user) = user else { return Ok(()) };
    privileges::drop_to(Some(&user), needed(model))
        .with_context(|| format!("cannot become the user {}", user.user))?;
    tracing::info!(user = user.user, group = user.group, "root's rights are given up");
    Ok(())
}

/// The capabilities without which a part of the model is not possible.
fn needed(model: &Model) -> Capabilities {
    let mut needed = Capabilities::empty();
    let is_privileged = |port: u16| (1..1024).contains(&port);
    needed.set(
        Capabilities::NET_BIND_SERVICE,
        model.portals.values().any(|portal| is_privileged(portal.listen.0.port())),
    );
    let daemon = &model.daemon;
    let has_groups = !(daemon.control_admin_groups.is_empty() && daemon.control_read_groups.is_empty());
    let gives_away = model.exports.values().any(|export| export.owner.is_some() || export.group.is_some());
    needed.set(Capabilities::CHOWN | Capabilities::FOWNER, has_groups || gives_away);
    needed.set(Capabilities::IPC_LOCK, daemon.pin_memory);
    needed
}

/// What root keeps that is to stay root: to use files and sockets of all users.
fn of_root() -> Capabilities {
    Capabilities::CHOWN
        | Capabilities::FOWNER
        | Capabilities::DAC_OVERRIDE
        | Capabilities::IPC_LOCK
        | Capabilities::NET_BIND_SERVICE
}

/// Gives up what nobody needs who serves. Threads that are started from now on give up more.
pub(crate) fn begin(options: &Serve, model: &Model, state: &StateDir) -> Result<()> {
    let Some(mode) = mode(&model.daemon) else {
        tracing::warn!("the daemon keeps all its rights: confine is off");
        return Ok(());
    };
    if mode == Mode::Refuse {
        confine_files(options, model, state);
    }
    let keep = needed(model) | if privileges::is_root() { of_root() } else { Capabilities::empty() };
    privileges::drop_to(None, keep).context("cannot give up capabilities")?;
    if let Err(error) = filter::begin(mode, Kinds::START) {
        tracing::warn!("system calls are not filtered: {error}");
        return Ok(());
    }
    confine_threads(enter).context("cannot start the thread that starts others")
}

/// Where the kernel cannot do it, the daemon looks itself at the paths of stores, as it does anyway.
fn confine_files(options: &Serve, model: &Model, state: &StateDir) {
    match files::confine(&places::of(options, model, state)) {
        Ok(None) => allowed::confined(),
        Ok(Some(gaps)) => {
            allowed::confined();
            tracing::info!("this kernel does not confine {gaps}");
        }
        Err(error) => tracing::warn!(
            "files are not confined by the kernel, only paths of stores are looked at: {error}"
        ),
    }
}

/// The main thread has nothing more to open.
pub(crate) fn settle() {
    confine(Kinds::MAIN);
}

fn enter(kind: ThreadKind) {
    confine(match kind {
        ThreadKind::Reactor => {
            if let Err(error) = privileges::keep_only(Capabilities::empty()) {
                tracing::warn!(%error, "a reactor keeps capabilities");
            }
            Kinds::REACTOR
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn model(text: &str) -> Model {
        let setting = crate::config::Setting {
            iscsi_sockets: None,
            vhost_user_sockets: None,
            looks_at_system: false,
            is_whole: false,
        };
        crate::config::from_text(std::path::Path::new("test.toml"), text.to_owned(), setting).unwrap().0
    }

    #[test]
    fn capabilities_are_kept_for_what_needs_them() {
        let of = |text: &str| needed(&model(text));
        assert_eq!(of("[[portal]]\nlisten = \"127.0.0.1:3260\"\n"), Capabilities::empty());
        assert_eq!(of("[[portal]]\nlisten = \"127.0.0.1:860\"\n"), Capabilities::NET_BIND_SERVICE);
        let away = Capabilities::CHOWN | Capabilities::FOWNER;
        assert_eq!(of("[[vhost-user]]\nname = \"a\"\nsocket = \"/a\"\n"), Capabilities::empty());
        assert_eq!(of("[[vhost-user]]\nname = \"a\"\nsocket = \"/a\"\ngroup = \"0\"\n"), away);
        assert_eq!(of("[daemon]\ncontrol-read-groups = [\"0\"]\n"), away);
        assert_eq!(of("[daemon]\npin-memory = true\n"), Capabilities::IPC_LOCK);
    }
}
