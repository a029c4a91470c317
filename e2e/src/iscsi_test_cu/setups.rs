//! Which disk a test gets: most an ordinary one, some one that they ask for or that they can cope with.

use anyhow::{Result, bail};

use super::Test;

/// A disk, and the tests that run on one like it.
#[derive(Debug)]
pub(super) struct Setup {
    /// What reports call it.
    pub(super) name: &'static str,
    /// The disk, as `--lu` takes it.
    pub(super) disk: &'static str,
    /// How the names of the tests begin.
    tests: &'static [&'static str],
}

/// The first one with a beginning that fits is a test's; they also begin in this order.
static SETUPS: [Setup; 10] = [
    // Half a minute of work: seconds after its beginning the test wants to find it at it.
    Setup { name: "slow", disk: "disk:ram:64M,w,pace=2M", tests: &["Sanitize.Reset"] },
    // The tests write it several times from one end to the other.
    Setup { name: "small", disk: "disk:ram:64M,w,pace=off", tests: &["Sanitize."] },
    Setup {
        name: "removable",
        disk: "disk:ram:512M,w,removable=on",
        tests: &["NoMedia.", "PreventAllow.", "StartStopUnit."],
    },
    Setup { name: "read-only", disk: "disk:ram:512M,r", tests: &["ReadOnly."] },
    // The test asks for the block behind an unmapped range at its beginning plus one, and expects the answer for the next
    // physical block: these have to be the same.
    Setup {
        name: "4096-byte blocks",
        disk: "disk:ram:512M,w,block=4096",
        tests: &["GetLBAStatus.UnmapSingle"],
    },
    // The test has room for CDBs of 16 bytes.
    Setup {
        name: "no long commands",
        disk: "disk:ram:512M,w,filter=deny:get-lba-status-32",
        tests: &["ReportSupportedOpcodes.OneCommand"],
    },
    // The tests also write what one command can, and more: that is 4 GiB.
    Setup {
        name: "large",
        disk: "disk:ram:5G,w",
        tests: &["WriteSame10.ZeroBlocks", "WriteSame16.ZeroBlocks"],
    },
    // Two of the test's checks are about bounds, which other disks do not have.
    Setup { name: "atomic bounds", disk: "disk:ram:512M,w,atomic=16K", tests: &["WriteAtomic16.VPD"] },
    // The test's last check is about a bit that SPC-4 has made obsolete.
    Setup { name: "SPC-3", disk: "disk:ram:512M,w,version=spc-3", tests: &["ExtendedCopy.ValidTgtDescr"] },
    Setup { name: "ordinary", disk: "disk:ram:512M,w", tests: &[""] },
];

/// All set-ups.
pub(super) fn all() -> &'static [Setup] {
    &SETUPS
}

/// The set-up of each test, as an index into [`all`]. Fails if there is one for tests that do not exist.
pub(super) fn assign(tests: &[Test]) -> Result<Vec<usize>> {
    let beginnings: Vec<(usize, &str)> = SETUPS
        .iter()
        .enumerate()
        .flat_map(|(setup, one)| one.tests.iter().map(move |beginning| (setup, *beginning)))
        .collect();
    let mut used = vec![false; beginnings.len()];
    let mut assigned = Vec::new();
    for test in tests {
        let fits = |(_, beginning): &(usize, &str)| test.name.starts_with(beginning);
        let Some(at) = beginnings.iter().position(fits) else {
            bail!("no set-up is for {}", test.name);
        };
        used[at] = true;
        assigned.push(beginnings[at].0);
    }
    if let Some(at) = used.iter().position(|used| !used) {
        bail!("there is a set-up for {}, but no such test", beginnings[at].1);
    }
    Ok(assigned)
}
