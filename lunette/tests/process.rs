//! The program as a process: how it ends, and what it survives.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
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
        let state = tempfile::tempdir().unwrap();
        let child = command
            .args(["serve", "--reactors", "1", "--iscsi", "127.0.0.1:0"])
            .args(units.iter().flat_map(|unit| ["--lu", unit]))
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
