//! CPU time of other processes, and where threads run.

use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// User and system time of a process so far: all its threads, those that have ended and the kernel's workers for its
/// io_uring included.
pub(crate) fn used_by(pid: u32) -> Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is valid for writes.
    let failed = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) };
    ensure!(failed == 0, "the daemon has ended: {}", std::io::Error::from_raw_os_error(failed));
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes.
    let failed = unsafe { libc::clock_gettime(clock, &mut time) };
    ensure!(failed == 0, "the daemon has ended: {}", std::io::Error::last_os_error());
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Which CPUs the load generator and the daemons get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    generator: CpuSet,
    daemon: CpuSet,
}

impl Split {
    /// The last CPU for the generator, the others for the daemon; `None` if there is one only.
    pub(crate) fn new() -> Result<Option<Self>> {
        let all = sched_getaffinity(None)?;
        let Some(last) = (0..CpuSet::MAX_CPU).rev().find(|&cpu| all.is_set(cpu)) else { return Ok(None) };
        let mut generator = CpuSet::new();
        generator.set(last);
        let mut daemon = all;
        daemon.unset(last);
        Ok((daemon.count() > 0).then_some(Self { generator, daemon }))
    }

    /// Runs `start`, so that what it starts runs on the daemon's CPUs.
    pub(crate) fn for_daemon<T>(&self, start: impl FnOnce() -> T) -> Result<T> {
        sched_setaffinity(None, &self.daemon)?;
        let started = start();
        sched_setaffinity(None, &self.generator)?;
        Ok(started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_grows_with_its_work() {
        let own = std::process::id();
        let before = used_by(own).unwrap();
        let mut word = 1u64;
        while used_by(own).unwrap() - before < Duration::from_millis(1) {
            word = std::hint::black_box(word.wrapping_mul(3));
        }
    }

    #[test]
    fn a_process_that_is_gone_has_no_time() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(used_by(child.id()).is_err());
    }
}
