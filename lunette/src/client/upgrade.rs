//! `lunette upgrade`: this program asks a daemon for all that it serves, stands in for a service manager until that has ended, and
//! becomes the daemon.

use super::connect;
use crate::cli::{Call, UpgradeCall};
use crate::config::origin::Origin;
use crate::control::{HandOver, MANAGED};
use crate::custodian::StandIn;
use crate::handover::Invocation;
use crate::inherited::{self, Inherited};
use crate::serve::allow_descriptors;
use anyhow::{Context, Result, bail, ensure};
use lunette_control::Credentials;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Carries out `lunette upgrade`. Returns only if there is no new daemon.
pub(super) fn run(call: &UpgradeCall) -> Result<()> {
    let mut connection = connect(&call.control)?;
    let invocation: Invocation = connection.call("daemon.invocation", &serde_json::json!({}))?;
    // The daemon refuses this itself, but what comes before that fails with less to say.
    ensure!(!invocation.managed, "{MANAGED}");
    let invocation = match call.words.is_empty() {
        true => {
            is_trusted(&connection.peer()?, &Credentials::own(), invocation.pid)?;
            std::env::set_current_dir(&invocation.directory)
                .context("the directory in which the daemon was started")?;
            invocation
        }
        // In this environment.
        false => Invocation { variables: BTreeMap::new(), ..invocation },
    };
    let words = match call.words.is_empty() {
        true => words(&invocation),
        false => std::iter::once("lunette".into()).chain(call.words.iter().cloned()).collect(),
    };
    check(&words).context("this program would not start as the daemon was, which goes on")?;
    let pid = i32::try_from(invocation.pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("the daemon has no process number")?;
    let old = pidfd_open(pid, PidfdFlags::empty()).context("the daemon's process is not seen from here")?;
    allow_descriptors();
    let stand_in = StandIn::listen(pid, connection.peer()?.uid)?;
    let asked = HandOver { socket: stand_in.path().to_owned(), discard: call.discard };
    connection.call::<()>("daemon.hand_over", &serde_json::to_value(asked)?)?;
    let kept = stand_in.collect(&old)?;
    // Its locks go with it.
    wait(&old)?;
    drop((connection, old, stand_in));
    if kept.is_none() {
        eprintln!("lunette: the daemon has handed nothing over: starting anew");
    }
    let (names, fds): (Vec<_>, Vec<_>) = kept.unwrap_or_default().into_iter().unzip();
    // SAFETY: from now on this process opens and closes nothing, and becomes another program.
    unsafe { inherited::pass_on(fds) }.context("cannot pass descriptors on")?;
    let mut command = Command::new(std::env::current_exe()?);
    for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE", "LISTEN_PIDFDID"] {
        command.env_remove(variable);
    }
    let (program, arguments) = words.split_first().context("the daemon has no arguments")?;
    command.arg0(program).args(arguments).envs(&invocation.variables);
    if !names.is_empty() {
        command.env("LISTEN_PID", std::process::id().to_string());
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    }
    Err(command.exec()).context("cannot become the daemon")
}

/// Whether the daemon may say what this program is to do: it has no fewer rights already. Otherwise whoever has taken it over
/// could have them by this.
fn is_trusted(peer: &Credentials, own: &Credentials, pid: u32) -> Result<()> {
    if peer.uid != own.uid || u32::try_from(peer.pid) != Ok(pid) {
        bail!(
            "the daemon is another user than this, or not the process that it says: say how to start, `lunette upgrade -- serve …`"
        );
    }
    Ok(())
}

/// The words of the command line with which to go on. What came by `--fd` is handed over.
fn words(invocation: &Invocation) -> Vec<OsString> {
    let mut words = invocation.arguments.iter();
    let mut left = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--fd" => drop(words.next()),
            word if word.starts_with("--fd=") => {}
            word => left.push(word.into()),
        }
    }
    left
}

/// Whether this program understands what the daemon was started with, and the configuration as it is by now.
fn check(words: &[OsString]) -> Result<()> {
    match Call::parse(words) {
        Ok(Call::Serve(options)) => Origin::new(&options, &Inherited::default())?.read().map(drop),
        Ok(_) => bail!("it does not serve"),
        Err(error) => bail!("{error}"),
    }
}

/// Waits until a process has ended.
fn wait(process: &OwnedFd) -> Result<()> {
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], None) {
            Err(Errno::INTR) => {}
            polled => return Ok(polled.map(drop)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_the_command_line_are_handed_over_otherwise() {
        let words = |arguments: &[&str]| {
            let arguments = arguments.iter().map(ToString::to_string).collect();
            words(&Invocation { arguments, ..Invocation::own() })
        };
        assert_eq!(
            words(&["lunette", "serve", "--fd", "7", "--lu", "a", "--fd=9"]),
            ["lunette", "serve", "--lu", "a"]
        );
        assert_eq!(words(&["x", "--fd"]), ["x"]);
    }

    #[test]
    fn a_daemon_with_other_rights_does_not_say_what_is_done() {
        let own = Credentials { pid: 7, uid: 0, groups: Vec::new() };
        let daemon = |pid, uid| Credentials { pid, uid, groups: Vec::new() };
        assert!(is_trusted(&daemon(8, 0), &own, 8).is_ok());
        assert!(is_trusted(&daemon(8, 1000), &own, 8).is_err());
        assert!(is_trusted(&daemon(8, 0), &own, 1).is_err(), "another process");
        assert!(is_trusted(&daemon(0, 0), &own, 0xffff_ffff).is_err());
    }

    #[test]
    fn what_this_program_does_not_understand_is_refused_before_anything_happens() {
        let check = |words: &[&str]| check(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(check(&["lunette", "serve", "--lu", "disk:ram:1M"]).is_ok());
        assert!(check(&["lunette", "serve", "--nonsense"]).unwrap_err().to_string().contains("--nonsense"));
        assert!(check(&["lunette", "serve", "--config", "/no/such.toml"]).is_err());
        assert!(check(&["lunette", "status"]).is_err());
    }
}
