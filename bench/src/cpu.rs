//! CPU time of other processes, and where threads run.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::param::clock_ticks_per_second;
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

/// User and system time of all children that have ended and were waited for.
fn used_by_children() -> Result<Duration> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is valid for writes.
    let failed = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
    ensure!(failed == 0, "getrusage: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel has written it, and zeroes were valid before.
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}

/// CPU time used so far, by whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    at: Instant,
    daemon: Duration,
    own: Duration,
    machine: Duration,
}

impl Usage {
    /// With the children that have ended as the daemon.
    pub(crate) fn of_children() -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            daemon: used_by_children()?,
            own: used_by(std::process::id())?,
            machine: used_by_all()?,
        })
    }

    /// With `pid` as the daemon.
    pub(crate) fn now(pid: u32) -> Result<Self> {
        let daemon = used_by(pid)?;
        Ok(Self { at: Instant::now(), daemon, own: used_by(std::process::id())?, machine: used_by_all()? })
    }

    /// CPU time of the daemon since `earlier`.
    pub(crate) fn daemon_since(&self, earlier: &Self) -> Duration {
        self.daemon.saturating_sub(earlier.daemon)
    }

    /// CPU time of this process since `earlier`.
    pub(crate) fn own_since(&self, earlier: &Self) -> Duration {
        self.own.saturating_sub(earlier.own)
    }

    /// CPU time since `earlier` of everything but the daemon and this process, in CPUs.
    pub(crate) fn others_since(&self, earlier: &Self) -> f64 {
        let ours = self.daemon_since(earlier) + self.own_since(earlier);
        let others = self.machine.saturating_sub(earlier.machine).saturating_sub(ours);
        others.as_secs_f64() / (self.at - earlier.at).as_secs_f64()
    }
}

/// What all CPUs together have been busy for, or were not there for, to the clock tick.
fn used_by_all() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("/proc/stat is odd")?;
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq, steal
    let [user, nice, system, _, _, irq, softirq, steal] =
        *ticks.first_chunk().context("/proc/stat is odd")?;
    let busy = user + nice + system + irq + softirq + steal;
    Ok(Duration::from_secs(busy) / clock_ticks_per_second() as u32)
}

/// Which CPUs the load generator and the daemons get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    all: CpuSet,
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
        Ok((daemon.count() > 0).then_some(Self { all, generator, daemon }))
    }

    /// Runs `start`, so that what it starts runs on the daemon's CPUs and this thread on the generator's; or both on any.
    pub(crate) fn place<T>(&self, pinned: bool, start: impl FnOnce() -> T) -> Result<T> {
        let (daemon, generator) =
            if pinned { (&self.daemon, &self.generator) } else { (&self.all, &self.all) };
        sched_setaffinity(None, daemon)?;
        let started = start();
        sched_setaffinity(None, generator)?;
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
    fn a_busy_process_shows_among_the_others() {
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let own = std::process::id();
        let before = Usage::now(own).unwrap();
        while used_by(child.id()).unwrap() < Duration::from_millis(300) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let others = Usage::now(own).unwrap().others_since(&before);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(others > 0.0);
    }

    #[test]
    fn a_process_that_is_gone_has_no_time() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(used_by(child.id()).is_err());
    }
}
