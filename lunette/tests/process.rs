//! The program as a process: how it ends, and what it survives.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use tempfile::TempDir;

struct Daemon {
    child: Child,
    _state: TempDir,
}

impl Daemon {
    /// Serves `unit` on a free port.
    fn start(unit: &str) -> Self {
        Self::start_by(&mut Command::new(env!("CARGO_BIN_EXE_lunette")), &[unit])
    }

    /// Adds the arguments to a command that becomes the daemon.
    fn start_by(command: &mut Command, units: &[&str]) -> Self {
        Self::start_with(command, units, &[])
    }

    fn start_with(command: &mut Command, units: &[&str], options: &[&str]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let child = command
            .args(["serve", "--reactors", "1", "--iscsi", "127.0.0.1:0"])
            .args(units.iter().flat_map(|unit| ["--lu", unit]))
            .args(options)
            .arg("--state-dir")
            .arg(state.path())
            .env_remove("LUNETTE_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, _state: state }
    }

    /// Another program, which ends with the value.
    fn of(command: &mut Command) -> Self {
        Self { child: command.spawn().unwrap(), _state: tempfile::tempdir().unwrap() }
    }

    fn stdout(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.child.stdout.take().unwrap())
    }

    fn stderr(&mut self) -> BufReader<ChildStderr> {
        BufReader::new(self.child.stderr.take().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first line that contains `text`.
fn line_with(lines: &mut impl BufRead, text: &str) -> String {
    let mut said = String::new();
    for line in lines.lines().map_while(Result::ok) {
        if line.contains(text) {
            return line;
        }
        said += &line;
    }
    panic!("{text:?} is not said: {said}");
}

#[test]
fn signals_stop_it_well_even_two_at_once() {
    for signals in [&[Signal::TERM][..], &[Signal::INT], &[Signal::TERM, Signal::INT]] {
        let mut daemon = Daemon::start("disk:ram:1M");
        line_with(&mut daemon.stdout(), "ready");
        // They are delivered together when it goes on.
        daemon.signal(Signal::STOP);
        signals.iter().for_each(|signal| daemon.signal(*signal));
        daemon.signal(Signal::CONT);
        assert_eq!(daemon.wait().code(), Some(0));
    }
}

#[test]
fn another_signal_ends_a_stop_that_takes_too_long() {
    let mut daemon = Daemon::start("disk:ram:1M,fault=delay:100000000");
    line_with(&mut daemon.stdout(), "ready");
    daemon.signal(Signal::TERM);
    line_with(&mut daemon.stderr(), "another one ends the program");
    daemon.signal(Signal::INT);
    assert_eq!(daemon.wait().signal(), Some(Signal::INT.as_raw()));
}

#[test]
fn it_can_be_ended_while_it_waits_for_a_lock() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    let unit = format!("disk:{},size=1M", path.display());
    let mut first = Daemon::start(&unit);
    line_with(&mut first.stdout(), "ready");
    let mut second = Daemon::start(&unit);
    line_with(&mut second.stderr(), "waiting for it");
    second.signal(Signal::TERM);
    assert_eq!(second.wait().signal(), Some(Signal::TERM.as_raw()));
}

#[test]
fn nobody_needs_to_read_what_it_says() {
    let mut daemon = Daemon::start("disk:ram:1M");
    drop(daemon.stderr());
    let address = line_with(&mut daemon.stdout(), "iSCSI on");
    let address = address.trim_start_matches("iSCSI on ");
    // Whatever happens to a connection is logged. The end of this one shows that it has happened.
    let mut connection = TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut connection, &[0xff; 48]).unwrap();
    let _ = connection.read_to_end(&mut Vec::new());
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_low_limit_of_descriptors_is_raised() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -S -n 20; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_lunette")]);
    let mut daemon = Daemon::start_by(&mut shell, &["disk:ram:1M"; 40]);
    line_with(&mut daemon.stdout(), "ready");
}

/// A daemon with a control socket that others can reach, and the directory of that.
fn controlled(options: &[&str]) -> (Daemon, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lunette"));
    let socket = directory.path().join("control.sock");
    let mut daemon = Daemon::start_with(
        &mut command,
        &["disk:ram:1M"],
        &[&["--control", socket.to_str().unwrap()], options].concat(),
    );
    line_with(&mut daemon.stdout(), "ready");
    (daemon, directory)
}

/// What a command ends with, and all that it says.
fn said(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn lunette(words: &[&str], directory: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lunette"));
    command.args(words).arg("--control").arg(directory.path().join("control.sock"));
    command
}

#[test]
fn commands_end_with_what_has_become_of_them() {
    let (daemon, directory) = controlled(&[]);
    let run = |words: &[&str]| said(&mut lunette(words, &directory));
    assert_eq!(run(&["session", "list", "--json"]), (Some(0), "[]\n".into()));
    let (code, text) = run(&["session", "end", "5"]);
    assert_eq!((code, text.contains("there is no session 5")), (Some(1), true), "{text}");
    assert_eq!(run(&["session", "end", "x"]).0, Some(2));
    drop(daemon);
    let (code, text) = run(&["session", "list"]);
    assert_eq!((code, text.contains("cannot reach the daemon")), (Some(3), true), "{text}");
}

#[test]
fn who_may_do_what_depends_on_the_group() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let options = ["--control-read-group", "12346", "--control-admin-group", "12347"];
    let (mut daemon, directory) = controlled(&options);
    let run = |gid, words: &[&str]| {
        let (code, text) = said(lunette(words, &directory).uid(12345).gid(gid));
        (code, text.split_once("lunette: ").map(|(_, why)| why.to_owned()).unwrap_or(text))
    };
    let list = ["session", "list", "--json"];
    assert_eq!(run(12346, &list), (Some(0), "[]\n".into()));
    assert_eq!(run(12347, &list), (Some(0), "[]\n".into()));
    let (code, text) = run(12346, &["session", "end", "5"]);
    assert_eq!((code, text.contains("may only call methods that read")), (Some(1), true), "{text}");
    assert!(run(12347, &["session", "end", "5"]).1.contains("there is no session 5"));
    let (code, text) = run(12348, &list);
    assert_eq!((code, text.contains("user 12345 has no access")), (Some(1), true), "{text}");
    let refusal = line_with(&mut daemon.stderr(), "control connection refused");
    assert!(refusal.contains("uid=12345"), "{refusal}");
}

#[test]
fn events_are_followed_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lunette"));
        let options = ["--control", &at("control.sock"), "--vhost-user", &at("vm.sock")];
        let mut daemon = Daemon::start_with(&mut command, &["disk:ram:1M"], &options);
        line_with(&mut daemon.stdout(), "ready");
        daemon
    };
    let daemon = start();
    let mut command =
        lunette(&["events", "--since", "0", "--kind", "export", "--kind", "daemon"], &directory);
    let mut events = Daemon::of(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut told = events.stdout();
    let connect_once = |told: &mut BufReader<ChildStdout>| {
        drop(UnixStream::connect(at("vm.sock")).unwrap());
        line_with(told, "export.connected");
        let line = line_with(told, "export.disconnected");
        assert!(line.contains(&at("vm.sock")), "{line}");
    };
    connect_once(&mut told);
    daemon.signal(Signal::TERM);
    assert!(line_with(&mut told, "daemon.stopping").contains("why=SIGTERM"));
    assert_eq!(daemon.wait().code(), Some(0));
    let _daemon = start();
    connect_once(&mut told);
    line_with(&mut events.stderr(), "the daemon was started again");
}

#[test]
fn commands_speak_of_what_they_are_asked() {
    let (_daemon, directory) = controlled(&[]);
    let run = |words: &[&str]| said(&mut lunette(words, &directory));
    let (code, text) = run(&["status"]);
    assert_eq!((code, text.contains("you are administrator")), (Some(0), true), "{text}");
    let (code, text) = run(&["job", "list"]);
    assert_eq!((code, text.starts_with("JOB")), (Some(0), true), "{text}");
    for words in [["job", "show", "7"], ["job", "wait", "7"], ["job", "cancel", "7"]] {
        let (code, text) = run(&words);
        assert_eq!((code, text.contains("there is no job 7")), (Some(1), true), "{text}");
    }
    let (code, text) = run(&["events", "--kind", "sesion"]);
    assert_eq!((code, text.contains("did you mean `session`")), (Some(1), true), "{text}");
}
