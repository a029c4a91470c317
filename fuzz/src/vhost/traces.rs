//! What is left in the process of descriptors that the daemon was given.

use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

/// Open files that must be gone at the end, as `/proc` names them.
#[derive(Default)]
pub(super) struct Traces(HashSet<String>);

impl Traces {
    /// Remembers the open file of a descriptor, unless others may have it too.
    pub(super) fn note(&mut self, fd: &OwnedFd) {
        self.0.extend(identity(&fd.as_raw_fd().to_string()));
    }

    /// None of the files is open or mapped any more.
    pub(super) fn check(&self) {
        let open = fs::read_dir("/proc/self/fd").expect("a folder of /proc");
        let names = open.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
        let left: Vec<_> =
            names.filter_map(|name| identity(&name)).filter(|id| self.0.contains(id)).collect();
        assert!(left.is_empty(), "still open: {left:?}");
        let maps = fs::read_to_string("/proc/self/maps").expect("a file of /proc");
        let memory = self.0.iter().filter_map(|id| id.strip_prefix("memory ")).collect::<HashSet<_>>();
        // Address, access, offset, device, inode, name.
        let mapped = maps.lines().filter(|line| line.contains("memfd:lunette-fuzz"));
        let inode =
            |line: &&str| line.split_ascii_whitespace().nth(4).is_some_and(|inode| memory.contains(inode));
        assert!(!mapped.clone().any(|line| inode(&line)), "guest memory is still mapped");
    }
}

/// What tells the open file of a descriptor from all others; `None` for files that are not made by the fuzzer.
fn identity(number: &str) -> Option<String> {
    let name = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
    let name = name.to_string_lossy();
    if name.starts_with("socket:[") || name.starts_with("pipe:[") {
        return Some(name.into_owned());
    }
    let info = || fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok();
    let field = |name: &str| {
        let info = info()?;
        let line = info.lines().find(|line| line.starts_with(name))?;
        Some(line.split_ascii_whitespace().nth(1)?.to_owned())
    };
    if name.starts_with("/memfd:lunette-fuzz") {
        return Some(format!("memory {}", field("ino:")?));
    }
    if name == "anon_inode:[eventfd]" {
        return Some(format!("event {}", field("eventfd-id:")?));
    }
    None
}
