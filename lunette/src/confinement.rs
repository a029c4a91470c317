//! What the daemon gives up before it serves anybody.
//!
//! In this order: another user, while nothing is open but what was passed; then, when the stores of the start are open, files,
//! capabilities and system calls. Threads give up more when they begin.

mod allowed;
mod places;
mod root;
mod user;

pub(crate) use allowed::{check, lock_wait, look, opener};
pub(crate) use root::refusal;

use crate::cli::Serve;
use crate::config::origin::Origin;
use crate::config::values::{FilePath, Principal};
use crate::config::{self, Confine, Model, group_number};
use crate::state::StateDir;
use anyhow::{Context, Result};
use clap::Args;
use lunette_confine::Kinds;
use lunette_confine::files::{self, Places};
use lunette_confine::filter::{self, Mode};
use lunette_confine::privileges::{self, Capabilities};
use lunette_reactor::{ThreadKind, confine_threads};
use std::path::{Path, PathBuf};

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

/// Takes note of where stores may be, and becomes another user if one is named, who owns `state` if that is not there yet. `files`
/// are those of the configuration.
///
/// # Safety
/// The program has one thread.
pub(crate) unsafe fn become_user(
    options: &Serve,
    files: &[PathBuf],
    model: &Model,
    state: &Path,
) -> Result<()> {
    let daemon = &model.daemon;
    let user = user::wanted(daemon)?;
    user.iter().try_for_each(|user| root::check_files(options, files, user))?;
    user::prepare_state(state, user.as_ref())?;
    // SAFETY: the caller's promise.
    unsafe { allowed::settle(daemon, state, user.is_some().then_some(mode(daemon))) }?;
    let Some(user) = user else { return Ok(()) };
    let groups: Vec<u32> = user.groups.iter().copied().chain([user.group]).collect();
    let needed = needed(model, &groups) | for_control(&model.daemon, &groups);
    privileges::drop_to(Some(&user), needed)
        .with_context(|| format!("cannot become the user {}", user.user))?;
    tracing::info!(user = user.user, group = user.group, "root's rights are given up");
    Ok(())
}

/// The capabilities without which a part of the model is not possible, for a user with these groups.
fn needed(model: &Model, groups: &[u32]) -> Capabilities {
    let mut needed = Capabilities::empty();
    let is_privileged = |port: u16| (1..1024).contains(&port);
    needed.set(
        Capabilities::NET_BIND_SERVICE,
        model.portals.values().any(|portal| is_privileged(portal.listen.0.port())),
    );
    let exports = || model.exports.values().filter(|export| !export.client);
    let gives_away = exports().any(|export| export.owner.is_some());
    // The mode is set after the owner.
    needed.set(Capabilities::FOWNER, gives_away);
    let is_for_others =
        exports().filter_map(|export| export.group.as_ref()).any(|group| is_other(group, groups));
    needed.set(Capabilities::CHOWN, gives_away || is_for_others);
    needed.set(Capabilities::IPC_LOCK, model.daemon.pin_memory);
    needed
}

/// What it takes to make the control socket, besides.
fn for_control(daemon: &config::Daemon, groups: &[u32]) -> Capabilities {
    let mut all = daemon.control_admin_groups.iter().chain(&daemon.control_read_groups);
    let is_for_others = all.any(|group| is_other(group, groups));
    if is_for_others { Capabilities::CHOWN } else { Capabilities::empty() }
}

/// Whether it takes a right to give this group a file.
fn is_other(group: &Principal, groups: &[u32]) -> bool {
    group_number(group).is_ok_and(|group| !groups.contains(&group))
}

/// The groups of this process.
fn own_groups() -> Vec<u32> {
    let mut groups = rustix::process::getgroups().unwrap_or_default();
    groups.push(rustix::process::getegid());
    groups.into_iter().map(|group| group.as_raw()).collect()
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
pub(crate) fn begin(options: &Serve, origin: &Origin, model: &Model, state: &StateDir) -> Result<()> {
    let Some(mode) = mode(&model.daemon) else {
        tracing::warn!("the daemon keeps all its rights: confine is off");
        return Ok(());
    };
    if privileges::is_root() && model.daemon.allowed_paths.is_empty() {
        tracing::warn!(
            "the daemon is root and may open all files: whoever takes it over has the machine; see `user` and `allowed-paths` of [daemon]"
        );
    }
    if mode == Mode::Refuse {
        confine_files(&places::of(options, origin.directory(), model, state));
    }
    let keep =
        needed(model, &own_groups()) | if privileges::is_root() { of_root() } else { Capabilities::empty() };
    privileges::drop_to(None, keep).context("cannot give up capabilities")?;
    if let Err(error) = filter::begin(mode, Kinds::START) {
        tracing::warn!("system calls are not filtered: {error}");
    }
    // Also without filters: reactors give up capabilities.
    confine_threads(enter).context("cannot start the thread that starts others")
}

/// Where the kernel cannot do it, the daemon looks itself at the paths of stores, as it does anyway.
fn confine_files(places: &Places) {
    match files::confine(places) {
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
        ThreadKind::Nursery => Kinds::NURSERY,
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
        let of = |text: &str| needed(&model(text), &[7]);
        assert_eq!(of("[[portal]]\nlisten = \"127.0.0.1:3260\"\n"), Capabilities::empty());
        assert_eq!(of("[[portal]]\nlisten = \"127.0.0.1:860\"\n"), Capabilities::NET_BIND_SERVICE);
        let away = Capabilities::CHOWN | Capabilities::FOWNER;
        assert_eq!(of("[[vhost-user]]\nname = \"a\"\nsocket = \"/a\"\n"), Capabilities::empty());
        let export = |key: &str| of(&format!("[[vhost-user]]\nname = \"a\"\nsocket = \"/a\"\n{key}\n"));
        assert_eq!(export("owner = \"0\""), away);
        assert_eq!(export("group = \"0\""), Capabilities::CHOWN);
        assert_eq!(export("group = \"7\""), Capabilities::empty(), "one of its own");
        let control = "[daemon]\ncontrol-read-groups = [\"0\"]\n";
        assert_eq!(of(control), Capabilities::empty(), "the socket is made before");
        assert_eq!(for_control(&model(control).daemon, &[7]), Capabilities::CHOWN);
        assert_eq!(for_control(&model(control).daemon, &[0]), Capabilities::empty());
        assert_eq!(of("[daemon]\npin-memory = true\n"), Capabilities::IPC_LOCK);
    }
}
