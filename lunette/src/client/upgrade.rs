//! `lunette upgrade`: this program asks a daemon for all that it serves, stands in for a service manager until that has ended, and
//! becomes the daemon.

use super::connect;
use crate::cli::{Call, UpgradeCall};
use crate::config::origin::Origin;
use crate::control::{HandOver, MANAGED};
use crate::custodian::{StandIn, tell};
use crate::handover::Invocation;
use crate::inherited::{self, Inherited};
use crate::serve::allow_descriptors;
use crate::state::StateDir;
use anyhow::{Context, Result, anyhow, bail, ensure};
use lunette_control::{Connection, Credentials, Error};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the daemon may take to end when it has handed everything over. Then it is killed.
const END: Duration = Duration::from_secs(30);
/// After how long people are told that one that was killed is still there, again and again.
const KILLED: Duration = Duration::from_secs(15);
/// How long the daemon may take to say that it hands everything over: longer than it looks whether it can.
const ANSWER: Duration = Duration::from_secs(30);

/// Descriptors that are needed beside those that are handed over.
const OTHERS: u64 = 64;

/// Carries out `lunette upgrade`. Returns only if there is no new daemon.
pub(super) fn run(call: &UpgradeCall) -> Result<()> {
    let program = Program::own()?;
    let mut connection = connect(&call.control)?;
    let invocation: Invocation = connection.call("daemon.invocation", &serde_json::json!({}))?;
    // The daemon refuses this itself, but what comes before that fails with less to say.
    ensure!(!invocation.managed, "{MANAGED}");
    let peer = connection.peer()?;
    is_itself(&peer, invocation.pid)?;
    let words = match call.words.is_empty() {
        true => {
            is_trusted(&peer, &Credentials::own())?;
            std::env::set_current_dir(&invocation.directory)
                .context("the directory in which the daemon was started")?;
            // SAFETY: this process has one thread.
            unsafe { go_by(&invocation) };
            words(&invocation)
        }
        // In this environment.
        false => std::iter::once("lunette".into()).chain(call.words.iter().cloned()).collect(),
    };
    check(&words, &sockets(&invocation), invocation.state_directory.as_deref())
        .context("this program would not start as the daemon was, which goes on")?;
    has_room(invocation.descriptors, allow_descriptors())?;
    let pid = i32::try_from(invocation.pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("the daemon has no process number")?;
    let old = pidfd_open(pid, PidfdFlags::empty()).context("the daemon's process is not seen from here")?;
    let stand_in = StandIn::listen(pid, peer.uid)?;
    let asked = HandOver { socket: stand_in.path().to_owned(), discard: call.discard };
    // From here on there is no way back: whoever ends this ends everything.
    set_signals(&ENDING, libc::SIG_IGN);
    connection.set_patience(Some(ANSWER))?;
    ask(&mut connection, &asked, &old, END)?;
    let kept = stand_in.collect(&old)?;
    await_end(&old, [END, KILLED], || pidfd_send_signal(&old, Signal::KILL), || remind(pid))?;
    drop((connection, old, stand_in));
    if kept.is_none() {
        tell("the daemon has handed nothing over: starting anew");
    }
    let (names, fds): (Vec<_>, Vec<_>) = kept.unwrap_or_default().into_iter().unzip();
    // SAFETY: from now on this process opens and closes nothing, and becomes another program.
    unsafe { inherited::pass_on(fds) }.context("cannot pass descriptors on")?;
    Err(program.become_daemon(&words, &names)).context("cannot become the daemon")
}

/// Asks the daemon to hand everything over. One that ends before it has answered is beyond answering: what it has served goes on
/// as after a crash. When its connection has gone, it may take that long to end.
fn ask(connection: &mut Connection, asked: &HandOver, process: &OwnedFd, patience: Duration) -> Result<()> {
    match connection.call("daemon.hand_over", &serde_json::to_value(asked)?) {
        Err(Error::Socket(error))
            if error.kind() != ErrorKind::WouldBlock && has_ended(process, patience)? =>
        {
            tell("the daemon has ended before it has answered");
            Ok(())
        }
        answered => answered.map_err(silence),
    }
}

/// An error that says so if the daemon has said nothing. Whom it would hand anything over to later is not there any more.
fn silence(error: Error) -> anyhow::Error {
    match error {
        Error::Socket(error) if error.kind() == ErrorKind::WouldBlock => {
            anyhow!("the daemon has not answered within {ANSWER:?}, and goes on if it can")
        }
        other => other.into(),
    }
}

/// This program.
struct Program {
    path: PathBuf,
    file: (u64, u64),
}

impl Program {
    /// What is being executed, also if its file was removed or replaced since.
    const IMAGE: &str = "/proc/self/exe";

    /// It can be executed once more, whatever becomes of its file.
    fn own() -> Result<Self> {
        access(Self::IMAGE, Access::EXEC_OK).context("this program cannot be executed once more")?;
        Ok(Self { path: std::env::current_exe()?, file: Self::inode(Self::IMAGE)? })
    }

    fn inode(path: impl AsRef<Path>) -> std::io::Result<(u64, u64)> {
        let file = std::fs::metadata(path)?;
        Ok((file.dev(), file.ino()))
    }

    /// Where it is executed: by its name, for people, if it still is what has this name.
    fn place(&self) -> &Path {
        match Self::inode(&self.path) {
            Ok(file) if file == self.file => &self.path,
            _ => Path::new(Self::IMAGE),
        }
    }

    /// Returns only if that fails.
    fn become_daemon(&self, words: &[OsString], names: &[String]) -> std::io::Error {
        let mut command = Command::new(self.place());
        for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE", "LISTEN_PIDFDID"] {
            command.env_remove(variable);
        }
        let (program, arguments) =
            words.split_first().map_or((None, words), |(first, rest)| (Some(first), rest));
        if let Some(program) = program {
            command.arg0(program);
        }
        command.args(arguments);
        if !names.is_empty() {
            command.env("LISTEN_PID", std::process::id().to_string());
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        command.exec()
    }
}

/// What is otherwise in the environment of a daemon than in one with these variables, as far as it goes by it: values, or none.
fn otherwise(
    invocation: &Invocation,
    own: impl Iterator<Item = OsString>,
) -> BTreeMap<String, Option<OsString>> {
    // One that does not say where its state is says nothing of the variables by which it has found it either: these stay.
    let says = |name: &str| Invocation::goes_by(name, invocation.state_directory.is_some());
    let own = own.filter_map(|name| name.into_string().ok().filter(|name| says(name)));
    let told = invocation.variables.iter().map(|(name, value)| (name.clone(), Some(value.into())));
    let state =
        invocation.state_directory.iter().map(|path| (StateDir::VARIABLE.to_owned(), Some(path.into())));
    // What cannot be in an environment is not what there was.
    let is_one = |(name, value): &(String, Option<OsString>)| {
        let value = value.iter().flat_map(|value| value.as_bytes());
        says(name) && !name.contains(['=', '\0']) && !value.into_iter().any(|byte| *byte == 0)
    };
    own.map(|name| (name, None)).chain(told.chain(state).filter(is_one)).collect()
}

/// Has this process go by what the daemon has gone by: so it finds the same state, and the same secrets.
///
/// # Safety
/// No other thread looks at the environment.
unsafe fn go_by(invocation: &Invocation) {
    for (name, value) in otherwise(invocation, std::env::vars_os().map(|(name, _)| name)) {
        match value {
            // SAFETY: the caller's promise.
            Some(value) => unsafe { std::env::set_var(name, value) },
            // SAFETY: as above.
            None => unsafe { std::env::remove_var(name) },
        }
    }
}

/// Whether everything that a daemon with so many descriptors has can be handed over here, where there may be `most`.
fn has_room(open: Option<usize>, most: Option<u64>) -> Result<()> {
    // Each has two numbers while it is put where the new program finds it.
    let wanted = open.map_or(0, |open| (open as u64).saturating_mul(2).saturating_add(OTHERS));
    match most {
        Some(most) if most < wanted => bail!(
            "only {most} descriptors may be open here, and the daemon has {}: say `ulimit -n {wanted}` before",
            open.unwrap_or_default()
        ),
        _ => Ok(()),
    }
}

/// Signals by which people end or stop a program. Nobody does so by mistake with what is about to become the daemon, which hears
/// those that it knows when it serves.
const ENDING: [libc::c_int; 5] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGTSTP];
/// Those by which people end it knowingly.
const GIVING_UP: [libc::c_int; 2] = [libc::SIGINT, libc::SIGTERM];

/// Has this process ignore signals (`SIG_IGN`), or do what they do otherwise (`SIG_DFL`).
fn set_signals(signals: &[libc::c_int], disposition: libc::sighandler_t) {
    for signal in signals {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(*signal, disposition) };
    }
}

/// Whether the daemon may say what this program is to do: it has no fewer rights already. Otherwise whoever has taken it over
/// could have them by this.
fn is_trusted(peer: &Credentials, own: &Credentials) -> Result<()> {
    ensure!(
        peer.uid == own.uid,
        "the daemon is another user than this: say how to start, `lunette upgrade -- serve …`"
    );
    Ok(())
}

/// Whether the daemon is the process that it says, as it is known here: that one is waited for, and killed if it does not end.
fn is_itself(peer: &Credentials, pid: u32) -> Result<()> {
    ensure!(
        u32::try_from(peer.pid) == Ok(pid),
        "the daemon says that it is process {pid}, and the system that {} listens: it cannot be replaced from here, if it is in \
         another container",
        peer.pid
    );
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

/// What the configuration depends on beside the words: of these sockets, that some were named by `--fd`. (Older daemons say so only by
/// their own words.)
fn sockets(invocation: &Invocation) -> Inherited {
    let by_words = words(invocation).len() < invocation.arguments.len();
    Inherited { by_option: invocation.by_option || by_words, ..Inherited::default() }
}

/// Whether this program understands what the daemon was started with, and the configuration as it is by now, and would keep its
/// state where the daemon does.
fn check(words: &[OsString], sockets: &Inherited, state: Option<&Path>) -> Result<()> {
    let model = match Call::parse(words) {
        Ok(Call::Serve(options)) => Origin::new(&options, sockets)?.read()?.0,
        Ok(_) => bail!("it does not serve"),
        Err(error) => bail!("{error}"),
    };
    let own = StateDir::place(model.daemon.state_dir.as_ref().map(|path| path.as_path()));
    match state {
        Some(state) if !is_same(state, &own) => bail!(
            "the daemon keeps its state in {}, and it would in {}: say `state-dir` as it was",
            state.display(),
            own.display()
        ),
        _ => Ok(()),
    }
}

/// Whether two paths lead to the same directory, as far as that can be seen.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).ok();
    real(one) == real(other)
}

/// Waits until the daemon has ended, as its locks go with it. There is nothing left for it to do, so it is killed if it does not end
/// in the first time. What it has handed over is kept here however long it takes then; `remind` is called again and again.
fn await_end(
    process: &OwnedFd,
    [first, again]: [Duration; 2],
    kill: impl FnOnce() -> Result<(), Errno>,
    mut remind: impl FnMut(),
) -> Result<()> {
    if has_ended(process, first)? {
        return Ok(());
    }
    tell("the daemon has nothing left to do, and does not end: killing it");
    if let Err(error) = kill() {
        tell(&format!("cannot kill it: {error}"));
    }
    while !has_ended(process, again)? {
        remind();
    }
    Ok(())
}

/// The daemon does not end, though it was killed.
fn remind(pid: Pid) {
    set_signals(&GIVING_UP, libc::SIG_DFL);
    tell(&format!(
        "process {} does not end, most likely as its storage does not answer. What it has served goes on when it has ended; \
         whoever ends this program ends all of that",
        pid.as_raw_nonzero()
    ));
}

/// Waits that long for a process to end, and says whether it has.
fn has_ended(process: &OwnedFd, patience: Duration) -> Result<bool> {
    let until = Instant::now() + patience;
    loop {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
        match poll(&mut [PollFd::new(process, PollFlags::IN)], left.as_ref()) {
            Err(Errno::INTR) => {}
            polled => return Ok(polled? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ClientCall;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;

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
        let by_option = |by_option, arguments: &[&str]| {
            let arguments = arguments.iter().map(ToString::to_string).collect();
            sockets(&Invocation { arguments, by_option, ..Invocation::own() }).by_option
        };
        assert!(by_option(true, &["lunette", "serve"]), "by what another process has left");
        assert!(
            by_option(false, &["lunette", "serve", "--fd=9"]) && !by_option(false, &["lunette", "serve"])
        );
    }

    #[test]
    fn a_daemon_with_other_rights_does_not_say_what_is_done() {
        let own = Credentials { pid: 7, uid: 0, groups: Vec::new() };
        let daemon = |pid, uid| Credentials { pid, uid, groups: Vec::new() };
        assert!(is_trusted(&daemon(8, 0), &own).is_ok());
        assert!(is_trusted(&daemon(8, 1000), &own).is_err());
    }

    #[test]
    fn a_daemon_that_says_it_is_another_process_is_not_replaced_whatever_words_there_are() {
        let daemon = |pid| Credentials { pid, uid: 0, groups: Vec::new() };
        assert!(is_itself(&daemon(8), 8).is_ok());
        assert!(is_itself(&daemon(8), 1).is_err());
        assert!(is_itself(&daemon(0), 0xffff_ffff).is_err());

        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut said = serde_json::to_value(Invocation::own()).unwrap();
        (said["managed"], said["pid"]) = (false.into(), 1.into());
        let liar = std::thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                let mut lines = BufReader::new(stream.unwrap());
                let mut asked = String::new();
                while lines.read_line(&mut asked).unwrap() > 0 {
                    let id = &serde_json::from_str::<serde_json::Value>(&asked).unwrap()["id"];
                    let answer = serde_json::json!({ "jsonrpc": "2.0", "id": id, "result": said });
                    lines.get_mut().write_all(format!("{answer}\n").as_bytes()).unwrap();
                    asked.clear();
                }
            }
        });
        for words in [&[][..], &["serve", "--lu", "disk:ram:1M"]] {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            let before =
                ["lunette", "upgrade", "--control", socket.to_str().unwrap(), "--"].map(OsString::from);
            let Ok(Call::Client(ClientCall::Upgrade(call))) = Call::parse(&[&before[..], &words].concat())
            else {
                panic!("{words:?}");
            };
            let error = run(&call).unwrap_err().to_string();
            assert!(error.contains("the daemon says that it is process 1,"), "{words:?}: {error}");
        }
        liar.join().unwrap();
    }

    #[test]
    fn what_this_program_does_not_understand_is_refused_before_anything_happens() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let check = |said: &[&str]| check(&words(said), &Inherited::default(), None);
        assert!(check(&["lunette", "serve", "--lu", "disk:ram:1M"]).is_ok());
        assert!(check(&["lunette", "serve", "--nonsense"]).unwrap_err().to_string().contains("--nonsense"));
        assert!(check(&["lunette", "serve", "--config", "/no/such.toml"]).is_err());
        assert!(check(&["lunette", "status"]).is_err());
    }

    #[test]
    fn the_daemon_says_by_which_environment_to_go() {
        let variables = [("HOME", "/h"), ("LUNETTE_X", "1"), ("LD_PRELOAD", "evil"), ("LUNETTE_Y", "\0")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let invocation = Invocation { variables, directory: "/d".into(), ..Invocation::own() };
        let invocation = invocation.by_now(Path::new("state"));
        assert!(invocation.descriptors.is_some_and(|open| open > 2));
        let own = ["HOME", "XDG_STATE_HOME", "LUNETTE_CONTROL", "LUNETTE_Y", "PATH"].map(OsString::from);
        let changes: Vec<_> = otherwise(&invocation, own.clone().into_iter()).into_iter().collect();
        let expected = [
            ("HOME", Some("/h")),
            ("LUNETTE_CONTROL", None),
            ("LUNETTE_STATE_DIR", Some("/d/state")),
            ("LUNETTE_X", Some("1")),
            ("LUNETTE_Y", None),
            ("XDG_STATE_HOME", None),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.map(OsString::from)));
        assert_eq!(changes, expected);
        // An older one tells less, and what it does not tell stays.
        let older = Invocation { state_directory: None, ..invocation };
        let changes: Vec<_> = otherwise(&older, own.into_iter()).into_keys().collect();
        assert_eq!(changes, ["LUNETTE_CONTROL", "LUNETTE_X", "LUNETTE_Y"]);
    }

    #[test]
    fn the_state_stays_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (here, link) = (folder.path().join("here"), folder.path().join("link"));
        std::fs::create_dir(&here).unwrap();
        std::os::unix::fs::symlink(&here, &link).unwrap();
        let words = ["lunette", "serve", "--lu", "disk:ram:1M", "--state-dir"].map(OsString::from);
        let words = [&words[..], &[link.into()]].concat();
        let check = |state| check(&words, &Inherited::default(), state);
        assert!(check(Some(&here)).is_ok() && check(None).is_ok());
        let error = check(Some(folder.path())).unwrap_err().to_string();
        assert!(error.contains("keeps its state in"), "{error}");
    }

    #[test]
    fn what_finds_no_room_is_not_asked_for() {
        assert!(has_room(Some(100), Some(264)).is_ok() && has_room(Some(100), None).is_ok());
        assert!(has_room(Some(101), Some(264)).unwrap_err().to_string().contains("ulimit -n 266"));
        assert!(has_room(None, Some(20)).is_ok(), "an older daemon does not say");
    }

    #[test]
    fn one_that_ends_before_it_answers_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = HandOver { socket: folder.path().join("heir.sock"), discard: false };
        for ends in [true, false] {
            let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
            let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
            let mut connection = Connection::open(&socket).unwrap();
            let (stream, _) = listener.accept().unwrap();
            let gone = std::thread::spawn(move || {
                BufReader::new(&stream).read_line(&mut String::new()).unwrap();
                drop(stream);
                if ends {
                    child.kill().unwrap();
                }
                child
            });
            let patience = if ends { Duration::from_secs(3600) } else { Duration::ZERO };
            assert_eq!(ask(&mut connection, &asked, &process, patience).is_ok(), ends);
            let mut child = gone.join().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_daemon_that_does_not_end_is_killed() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let kill = || pidfd_send_signal(&process, Signal::KILL);
        let at_once = [Duration::ZERO, Duration::ZERO];
        // It is not beside one that cannot be killed for now that another daemon begins.
        let mut reminders = 0;
        let remind = || {
            reminders += 1;
            if reminders == 3 {
                kill().unwrap();
            }
        };
        await_end(&process, at_once, || Err(Errno::PERM), remind).unwrap();
        assert!(child.try_wait().unwrap().is_some_and(|status| !status.success()) && reminders >= 3);
        await_end(&process, at_once, || panic!("it has ended"), || ()).unwrap();

        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let kill = || pidfd_send_signal(&process, Signal::KILL);
        await_end(&process, at_once, kill, || ()).unwrap();
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn a_program_whose_file_is_another_by_now_is_still_executed() {
        let mut program = Program::own().unwrap();
        assert_eq!(program.place(), std::env::current_exe().unwrap());
        program.path.set_extension("removed");
        assert_eq!(program.place(), Path::new(Program::IMAGE));
        program.path = "/bin/sh".into();
        assert_eq!(program.place(), Path::new(Program::IMAGE));
    }
}
