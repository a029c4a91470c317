//! What the daemon holds of what an operating system gives.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use crate::daemon::Daemon;

/// What a process holds.
#[derive(Clone, Debug)]
pub struct Usage {
    /// What each kind of descriptor is, and how many there are.
    pub descriptors: BTreeMap<String, usize>,
    /// Mappings of memory that others may have as well, as that of guests.
    pub shared: usize,
    /// Anonymous memory in KiB.
    pub memory: u64,
}

impl Usage {
    /// Of the daemon, now.
    pub fn of(daemon: &mut Daemon) -> Result<Self> {
        let proc = format!("/proc/{}", daemon.pid());
        let status = fs::read_to_string(format!("{proc}/status"))?;
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("RssAnon")?;
        let memory = memory.trim().trim_end_matches(" kB").parse()?;
        let maps = fs::read_to_string(format!("{proc}/maps"))?;
        let access = maps.lines().filter_map(|line| line.split_whitespace().nth(1));
        let shared = access.filter(|access| access.ends_with('s')).count();
        let mut descriptors = BTreeMap::new();
        for entry in fs::read_dir(format!("{proc}/fd"))? {
            // One that is closed meanwhile is none.
            let Ok(target) = fs::read_link(entry?.path()) else { continue };
            // Sockets and pipes have numbers.
            let kind = target.to_string_lossy().trim_end_matches(|c| "[]0123456789".contains(c)).to_owned();
            *descriptors.entry(kind).or_default() += 1;
        }
        Ok(Self { descriptors, shared, memory })
    }

    /// Descriptors that connections have: all but the one that each reactor opens for its first notification.
    pub fn connections(mut self) -> BTreeMap<String, usize> {
        self.descriptors.remove("/dev/null");
        self.descriptors
    }
}
