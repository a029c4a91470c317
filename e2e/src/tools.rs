//! Small helpers: find a program, run it with a time limit, collect what it says.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

/// The limit for one host command or one guest script. It only has to be longer than any sane run.
pub const LIMIT: Duration = Duration::from_secs(900);

/// How often a state that nobody announces is looked at.
const POLL: Duration = Duration::from_millis(20);

/// What a program said, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit status as a shell reports it: 128 + N after signal N.
    pub status: i32,
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
}

impl Output {
    /// Gives the output back, or an error that shows it when the status is not 0.
    pub fn ok(self) -> Result<Output> {
        if self.status != 0 {
            bail!("{self}");
        }
        Ok(self)
    }

    /// Gives the output back, or an error that shows it when the status is 0.
    pub fn fails(self) -> Result<Output> {
        if self.status == 0 {
            bail!("a failure was expected: {self}");
        }
        Ok(self)
    }

    /// Both streams, one after the other.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}\n--- stdout\n{}\n--- stderr\n{}", self.status, self.stdout, self.stderr)
    }
}

/// The number a shell would give for `status`.
pub fn status_number(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The Debian package that holds a program.
fn package_of(program: &str) -> &'static str {
    match program {
        "linux.uml" => "user-mode-linux",
        "qemu-system-x86_64" => "qemu-system-x86",
        "qemu-img" | "qemu-io" => "qemu-utils qemu-block-extra",
        "iscsi-ls" | "iscsi-inq" | "iscsi-readcapacity16" | "iscsi-test-cu" => "libiscsi-bin",
        "iscsid" | "iscsiadm" => "open-iscsi",
        "mkfs.ext4" | "fsck.ext4" => "e2fsprogs",
        "busybox" => "busybox-static",
        "depmod" | "modprobe" => "kmod",
        "readelf" => "binutils",
        "xz" => "xz-utils",
        "ip" | "tc" => "iproute2",
        "mcopy" | "mformat" => "mtools",
        "multipath" | "multipathd" => "multipath-tools",
        "systemd-udevd" | "udevadm" => "udev",
        "cc" => "gcc libc6-dev",
        "blkdiscard" | "blockdev" | "fstrim" | "losetup" | "nsenter" | "setpriv" | "unshare" => "util-linux",
        "apt-cache" | "apt-get" => "apt",
        "dpkg" => "dpkg",
        "virsh" | "virt-xml-validate" => "libvirt-clients libvirt-daemon-driver-qemu",
        "tgt-admin" | "tgtadm" | "tgtd" => "tgt",
        "targetctl" => "python3-rtslib-fb",
        "xmllint" => "libxml2-utils",
        "journalctl" | "systemctl" | "systemd-analyze" | "systemd-socket-activate" => "systemd",
        sg if sg.starts_with("sg_") => "sg3-utils",
        _ => "of the same name",
    }
}

/// Finds `name` in `PATH` or in the system's `sbin` folders. When it is missing, the error names
/// the Debian package.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), "/usr/bin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .with_context(|| {
            let package = package_of(name);
            format!("{name} is not installed: it is in Debian's package {package}")
        })
}

/// Fails unless every program is there. A guest sees the programs of the host.
pub fn need<const N: usize>(programs: [&str; N]) -> Result<()> {
    programs.iter().try_for_each(|name| program(name).map(drop))
}

/// A command for the program `name`.
pub fn command(name: &str) -> Result<Command> {
    Ok(Command::new(program(name)?))
}

/// Runs `name` with `args` to its end, within [`LIMIT`].
pub fn output<I, S>(name: &str, args: I) -> Result<Output>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    run(command(name)?.args(args), LIMIT)
}

/// Runs `command` to its end. It is killed, and an error given, when `limit` passes first.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    let deadline = Instant::now() + limit;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let stdout = Capture::of(child.stdout.take().context("stdout is piped")?);
    let stderr = Capture::of(child.stderr.take().context("stderr is piped")?);
    let status = wait(&mut child, deadline)?;
    if status.is_none() {
        child.kill()?;
        child.wait()?;
    }
    let settle = Instant::now() + Duration::from_secs(10);
    stdout.wait_for_end(settle);
    stderr.wait_for_end(settle);
    let output =
        Output { status: status.map_or(124, status_number), stdout: stdout.text(), stderr: stderr.text() };
    if status.is_none() {
        bail!("{command:?} was killed after {limit:?}: {output}");
    }
    Ok(output)
}

/// Has what `command` starts, and nobody else who is started meanwhile, inherit descriptors with their numbers.
pub fn inherit(command: &mut Command, descriptors: &[Arc<OwnedFd>]) {
    if descriptors.is_empty() {
        return;
    }
    let descriptors = descriptors.to_vec();
    let keep = move || Ok(descriptors.iter().try_for_each(|one| fcntl_setfd(one, FdFlags::empty()))?);
    // SAFETY: in the child there is one system call for each descriptor, and nothing is allocated or locked.
    unsafe { command.pre_exec(keep) };
}

/// A long-running process in a process group of its own. The whole group is killed when the value
/// is dropped, and also when this process dies without dropping it.
pub struct Guarded {
    child: Child,
}

impl Guarded {
    /// Starts `command`, whose standard input becomes `/dev/null`. The process that `child` shows
    /// is the command's own.
    pub fn spawn(command: &Command) -> Result<Guarded> {
        Guarded::start(command, Stdio::piped(), &[])
    }

    /// Starts `command` with its standard output where the caller wants it.
    pub fn spawn_with(command: &Command, stdout: Stdio) -> Result<Guarded> {
        Guarded::start(command, stdout, &[])
    }

    /// Starts `command`, which [inherits](inherit) descriptors.
    pub fn spawn_inheriting(command: &Command, descriptors: &[Arc<OwnedFd>]) -> Result<Guarded> {
        Guarded::start(command, Stdio::piped(), descriptors)
    }

    fn start(command: &Command, stdout: Stdio, descriptors: &[Arc<OwnedFd>]) -> Result<Guarded> {
        // The guard reads from us: it meets the end of the file when we are gone.
        let guard = r#"exec 9<&0 </dev/null; (cat <&9; kill -KILL 0) >/dev/null 2>&1 &
                       exec "$@" 9<&-"#;
        let mut guarded = self::command("sh")?;
        guarded.args(["-c", guard, "guard"]);
        guarded.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            guarded.env(name, value.unwrap_or_default());
        }
        if let Some(folder) = command.get_current_dir() {
            guarded.current_dir(folder);
        }
        inherit(&mut guarded, descriptors);
        let child = guarded
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Guarded { child })
    }

    /// The process. Its streams may be taken; its standard input belongs to the guard.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal to the process, not to its group.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Kills the group.
    pub fn kill(&mut self) {
        // The guard is in the group, so the group is there and is ours, whatever became of the
        // process itself.
        if self.child.stdin.take().is_some() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for `child` until `deadline`; `None` when it still runs then.
pub fn wait(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// Waits until `condition` holds, or fails; the error says what was waited for.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !condition().with_context(|| format!("waited for {what}"))? {
        if Instant::now() >= deadline {
            bail!("waited {LIMIT:?} for {what}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// A TCP port of the loopback interface that nobody used a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Whether tests run with their full counts (`LUNETTE_TEST_FULL`).
pub fn full() -> bool {
    std::env::var_os("LUNETTE_TEST_FULL").is_some()
}

/// A directory that goes away with the value. Its path is short, as socket paths must be.
pub fn temp_dir() -> Result<TempDir> {
    tempfile::Builder::new().prefix("lunette-e2e-").tempdir().context("cannot make a temporary directory")
}

/// Lets everyone execute `file`.
pub fn make_executable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o755))?)
}

/// The build's target directory, found from the running test.
pub fn target_dir() -> Result<PathBuf> {
    Ok(profile_dir()?.parent().context("a target directory holds the profile directory")?.to_owned())
}

/// Where the binaries of the running test's profile are, such as `target/debug`.
pub fn profile_dir() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    test.ancestors()
        .find(|folder| folder.join("deps").is_dir())
        .map(Path::to_owned)
        .with_context(|| format!("{} is not in a cargo target directory", test.display()))
}

/// Compiles a C source of ours to a shared library for `LD_PRELOAD`, once per target directory.
pub fn preload_library(name: &str, source: &str) -> Result<PathBuf> {
    let folder = target_dir()?.join("e2e");
    fs::create_dir_all(&folder)?;
    let library = folder.join(format!("{name}.so"));
    let kept = folder.join(format!("{name}.c"));
    if library.is_file() && fs::read_to_string(&kept).is_ok_and(|text| text == source) {
        return Ok(library);
    }
    let temporary = tempfile::tempdir_in(&folder)?;
    let input = temporary.path().join("source.c");
    let built = temporary.path().join("library.so");
    fs::write(&input, source)?;
    let mut cc = command("cc")?;
    cc.args(["-Wall", "-Werror", "-O2", "-shared", "-fPIC", "-o"]);
    run(cc.arg(&built).arg(&input).arg("-ldl"), LIMIT)?.ok()?;
    fs::rename(built, &library)?;
    fs::rename(input, kept)?;
    Ok(library)
}

/// Bytes that a background thread reads from a pipe or socket until it ends.
#[derive(Clone)]
pub struct Capture(Arc<(Mutex<Captured>, Condvar)>);

#[derive(Default)]
struct Captured {
    bytes: Vec<u8>,
    ended: bool,
}

/// How [`Capture::wait_for`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// The needle begins at this offset.
    Found(usize),
    /// The stream ended without it.
    Ended,
    /// The deadline passed.
    TimedOut,
}

impl Capture {
    /// Starts to read `source`.
    pub fn of(mut source: impl Read + Send + 'static) -> Capture {
        let capture = Capture(Arc::default());
        let shared = capture.clone();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            loop {
                let count = match source.read(&mut chunk) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(_) | Ok(0) => break,
                    Ok(count) => count,
                };
                shared.lock().bytes.extend_from_slice(&chunk[..count]);
                shared.0.1.notify_all();
            }
            shared.lock().ended = true;
            shared.0.1.notify_all();
        });
        capture
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Captured> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `needle` stands at or after offset `from`.
    pub fn wait_for(&self, from: usize, needle: &[u8], deadline: Instant) -> Waited {
        let mut searched = from;
        let mut captured = self.lock();
        loop {
            let rest = captured.bytes.get(searched..).unwrap_or_default();
            if let Some(at) = rest.windows(needle.len()).position(|part| part == needle) {
                return Waited::Found(searched + at);
            }
            if captured.ended {
                return Waited::Ended;
            }
            searched = from.max(captured.bytes.len().saturating_sub(needle.len()));
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Waited::TimedOut;
            };
            captured = self.0.1.wait_timeout(captured, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the stream has ended; false when `deadline` passes first.
    pub fn wait_for_end(&self, deadline: Instant) -> bool {
        let mut captured = self.lock();
        while !captured.ended {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            captured = self.0.1.wait_timeout(captured, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// A copy of what came from offset `from` to offset `to` (or so far).
    pub fn slice(&self, from: usize, to: usize) -> Vec<u8> {
        let captured = self.lock();
        let to = to.min(captured.bytes.len());
        captured.bytes[from.min(to)..to].to_vec()
    }

    /// Everything so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_streams_are_kept_apart() {
        let said = output("sh", ["-c", "echo out; echo err >&2; exit 3"]).unwrap();
        assert_eq!((said.status, said.stdout.as_str()), (3, "out\n"));
        assert_eq!(said.stderr, "err\n");
        assert!(said.clone().ok().is_err());
        assert!(said.fails().is_ok());
    }

    #[test]
    fn death_by_signal_counts_like_in_a_shell() {
        let said = output("sh", ["-c", "kill -KILL $$"]).unwrap();
        assert_eq!(said.status, 137);
    }

    #[test]
    fn a_hang_ends_with_the_limit() {
        let error = run(command("sleep").unwrap().arg("10000"), Duration::from_millis(100));
        assert!(error.unwrap_err().to_string().contains("was killed after"));
    }

    #[test]
    fn a_guarded_group_ends_with_its_value() {
        let mut sleepers = command("sh").unwrap();
        sleepers.args(["-c", "sleep 10000 & echo $!; exec sleep 10000"]);
        let mut guarded = Guarded::spawn(&sleepers).unwrap();
        let stdout = Capture::of(guarded.child().stdout.take().unwrap());
        stdout.wait_for(0, b"\n", Instant::now() + LIMIT);
        let grandchild = PathBuf::from("/proc").join(stdout.text().trim());
        assert!(grandchild.exists());
        drop(guarded);
        wait_until("the grandchild to end", || Ok(!runs(&grandchild))).unwrap();
    }

    fn runs(process: &Path) -> bool {
        let state = fs::read_to_string(process.join("stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z")
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = program("sg_no_such_program").unwrap_err();
        assert!(error.to_string().contains("sg3-utils"), "{error}");
    }

    #[test]
    fn a_needle_across_two_reads_is_found() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let capture = Capture::of(ours);
        let deadline = Instant::now() + LIMIT;
        std::io::Write::write_all(&mut &theirs, b"abcneed").unwrap();
        assert_eq!(capture.wait_for(0, b"need", deadline), Waited::Found(3));
        std::io::Write::write_all(&mut &theirs, b"le").unwrap();
        assert_eq!(capture.wait_for(0, b"needle", deadline), Waited::Found(3));
        drop(theirs);
        assert_eq!(capture.wait_for(0, b"x", deadline), Waited::Ended);
        assert_eq!(capture.slice(3, 7), b"need");
    }
}
