//! Which block devices are handed over, where the tests may make loop devices.

use lunette_confine::filter::Mode;
use lunette_confine::opener::Opener;
use rustix::fs::OFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device.
struct Loop(PathBuf);

impl Loop {
    /// None, said aloud, where there are none to be had.
    fn on(image: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(image).output();
        match output {
            Ok(output) if output.status.success() => {
                Some(Self(String::from_utf8(output.stdout).unwrap().trim().into()))
            }
            failed => {
                eprintln!("skipped: no loop device: {failed:?}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// A device is handed over to whom it is to belong, and so never while it is mounted.
#[test]
fn a_device_is_handed_over_only_to_who_claims_it() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let Some(Loop(device)) = &Loop::on(&image) else { return };
    let used = || {
        // SAFETY: this is another thread than the only one that matters: the child uses nothing that others may hold.
        let opener = unsafe { Opener::start(std::slice::from_ref(device), Some(Mode::Refuse)) }.unwrap();
        let errno = |flags| opener.open(device, flags).map_err(|error| error.raw_os_error()).map(drop);
        assert_eq!(errno(OFlags::RDWR), Err(Some(libc::EPERM)));
        assert_eq!(errno(OFlags::RDONLY), Err(Some(libc::EPERM)));
        let ours = opener.open(device, OFlags::RDWR | OFlags::EXCL).unwrap();
        assert_eq!(errno(OFlags::RDWR | OFlags::EXCL), Err(Some(libc::EBUSY)));
        assert_eq!(errno(OFlags::RDONLY), Err(Some(libc::EPERM)), "nobody has locked it");
        // As stores are.
        let lock = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        // SAFETY: the kernel reads the lock.
        assert_eq!(unsafe { libc::fcntl(ours.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) }, 0);
        assert_eq!(errno(OFlags::RDONLY), Ok(()));
        assert_eq!(errno(OFlags::RDWR), Err(Some(libc::EPERM)));
        // There is no room for another descriptor.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
        let full = errno(OFlags::RDONLY);
        setrlimit(Resource::Nofile, limit).unwrap();
        assert_eq!(full, Err(Some(libc::EMFILE)));
        assert_eq!(errno(OFlags::RDONLY), Ok(()), "it goes on");
    };
    std::thread::scope(|scope| scope.spawn(used).join().unwrap());
}
