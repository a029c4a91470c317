//! What may be opened: by the kernel's means, by the process that opens for others, and without capabilities. All of that is for
//! single threads and their children, so each test has one of its own.

use lunette_confine::beneath::Roots;
use lunette_confine::files::{self, Error, Places, Use};
use lunette_confine::filter::Mode;
use lunette_confine::opener::Opener;
use lunette_confine::privileges::{self, Capabilities};
use rustix::fs::OFlags;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

fn kind(result: std::io::Result<impl Sized>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

fn folder() -> (tempfile::TempDir, [PathBuf; 3]) {
    let folder = tempfile::tempdir().unwrap();
    let places = ["stores", "settings", "outside"].map(|name| folder.path().join(name));
    for place in &places {
        fs::create_dir(place).unwrap();
        fs::write(place.join("a"), "a").unwrap();
    }
    (folder, places)
}

#[test]
fn a_thread_opens_only_what_it_may() {
    let (folder, [stores, settings, outside]) = folder();
    let saved = folder.path().join("saved");
    fs::create_dir(&saved).unwrap();
    let files = vec![
        (stores.clone(), Use::Stores),
        (settings.clone(), Use::Read),
        (saved.clone(), Use::Replace),
        (stores.join("not/there"), Use::Stores),
    ];
    let confined = move || {
        match files::confine(&Places { files, abstract_sockets: false }) {
            Err(Error::Missing) => return eprintln!("the kernel has no landlock"),
            done => drop(done.unwrap()),
        }
        let write = |path: PathBuf| kind(File::options().write(true).create(true).truncate(false).open(path));
        let denied = Some(ErrorKind::PermissionDenied);
        assert_eq!(write(stores.join("a")), None);
        assert_eq!(write(stores.join("new")), None);
        assert_eq!(kind(fs::remove_file(stores.join("new"))), None);
        assert_eq!(kind(UnixListener::bind(stores.join("socket"))), denied);
        assert_eq!(kind(symlink("a", stores.join("link"))), denied);
        assert_eq!(kind(File::open(settings.join("a"))), None);
        assert_eq!(write(settings.join("a")), denied);
        assert_eq!((write(saved.join("b")), write(saved.join("c"))), (None, None));
        assert_eq!(kind(fs::rename(saved.join("b"), saved.join("c"))), None);
        assert_eq!(kind(fs::create_dir(saved.join("d"))), denied);
        assert_eq!(kind(File::open(outside.join("a"))), denied);
        assert_eq!(kind(std::process::Command::new("/bin/true").status()), denied);
    };
    std::thread::spawn(confined).join().unwrap();
}

#[test]
fn the_opener_hands_over_what_is_below_its_roots_and_ends_with_the_daemon() {
    let (_folder, [stores, _, outside]) = folder();
    symlink(outside.join("a"), stores.join("out")).unwrap();
    let used = || {
        // SAFETY: this is another thread than the only one that matters: the child uses nothing that others may hold.
        let opener = unsafe { Opener::start(std::slice::from_ref(&stores), Some(Mode::Refuse)) }.unwrap();
        if privileges::is_root() {
            fs::set_permissions(stores.join("a"), Permissions::from_mode(0o000)).unwrap();
            privileges::keep_only(Capabilities::empty()).unwrap();
            assert_eq!(kind(File::open(stores.join("a"))), Some(ErrorKind::PermissionDenied));
        }
        let mut text = String::new();
        let opened = opener.open(&stores.join("a"), OFlags::RDWR | OFlags::CLOEXEC).unwrap();
        File::from(opened).read_to_string(&mut text).unwrap();
        assert_eq!(text, "a");
        let looked = opener.open(&stores.join("a"), OFlags::PATH).unwrap();
        assert!(rustix::fs::fcntl_getfl(&looked).unwrap().contains(OFlags::PATH));
        let refused = |path: &Path| kind(opener.open(path, OFlags::RDONLY));
        assert_eq!(refused(&outside.join("a")), Some(ErrorKind::PermissionDenied));
        assert_eq!(refused(&stores.join("out")), Some(ErrorKind::PermissionDenied));
        assert_eq!(refused(&stores.join("no")), Some(ErrorKind::NotFound));
        assert!(refused(&stores).is_some());
        assert!(refused(Path::new(&"x".repeat(5000))).is_some());
        drop(opener);
        // The only child of this process.
        let mut status = 0;
        // SAFETY: the kernel writes a number there.
        let child = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        assert!(child > 0 && status == 0, "it has ended by itself: {status}");
    };
    std::thread::scope(|scope| scope.spawn(used).join().unwrap());
}

/// Has the kernel not know a system call, as far as the calling thread goes.
fn forget(call: libc::c_long) {
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let processor = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let rules = [(call, Vec::new())].into();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, processor).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

/// Where the kernel cannot open below a directory only, nothing could be held to the directories.
#[test]
fn there_are_no_roots_without_the_call_that_keeps_to_them() {
    let (_folder, [stores, ..]) = folder();
    let confined = move || {
        assert!(Roots::open([stores.as_path()]).is_ok());
        forget(libc::SYS_openat2);
        let (path, error) = Roots::open([stores.as_path()]).unwrap_err();
        assert_eq!(path, stores);
        assert!(error.to_string().contains("openat2"), "{error}");
    };
    std::thread::spawn(confined).join().unwrap();
}

#[test]
fn a_kernel_without_landlock_is_told() {
    let confined = || {
        forget(libc::SYS_landlock_create_ruleset);
        let done =
            files::confine(&Places { files: vec![("/proc".into(), Use::Read)], abstract_sockets: false });
        assert!(matches!(done, Err(Error::Missing)), "{done:?}");
        assert!(File::open("/dev/null").is_ok());
    };
    std::thread::spawn(confined).join().unwrap();
}
