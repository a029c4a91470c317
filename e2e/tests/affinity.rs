//! A logical unit that lives on the reactor of one request queue.

use anyhow::{Context, Result, ensure};
use lunette_e2e::daemon::Lunette;
use lunette_e2e::tools;
use lunette_guest::{Command, Options, ScsiDriver, address, function};
use std::collections::BTreeSet;

/// READ(10) or WRITE(10) of a block.
fn transfer(opcode: u8, block: u8) -> [u8; 10] {
    [opcode, 0, 0, 0, 0, block, 0, 0, 1, 0]
}

/// Queues 0 and 1 are on reactors 0 and 1. All reads of the file are made by the reactor that the unit lives on, whichever
/// queue asks.
#[test]
fn all_queues_reach_a_unit_on_its_own_reactor() -> Result<()> {
    tools::need(["strace"])?;
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 1 << 20)?;
    let trace = lunette.path("trace");
    let trace_path = trace.to_str().context("UTF-8")?.to_owned();
    let lunette = lunette
        .lu(format!("disk:{},w,queues=1", file.display()))
        .lu("disk:ram:1M,w,queues=0+1")
        .arg("--reactors")
        .arg("2")
        .vhost_user("vm.sock")
        .wrapped(["strace", "-D", "-f", "--decode-pids=comm", "-e", "trace=preadv2", "-o", &trace_path]);
    let daemon = lunette.start()?;
    let options = Options { request_queues: 2, ..Options::default() };
    let mut driver = ScsiDriver::connect(&lunette.path("vm.sock"), &options)?;
    for lun in 0..2 {
        let at = address(0, lun);
        while driver.execute(0, &Command::new(&[0; 6]).to(at), &[], 0)?.status != 0 {}
        for block in 0..40 {
            let (queue, other) = (u16::from(block % 2), u16::from(1 - block % 2));
            let write =
                driver.execute(queue, &Command::new(&transfer(0x2a, block)).to(at), &[block; 512], 0)?;
            let read = driver.execute(other, &Command::new(&transfer(0x28, block)).to(at), &[], 512)?;
            ensure!((write.status, read.status, read.residual) == (0, 0, 0), "{write:?} {read:?}");
            ensure!(read.data == [block; 512], "block {block} of LUN {lun}");
        }
        // Sense data comes back as well, and task management finds the unit.
        let beyond =
            driver.execute(0, &Command::new(&[0x28, 0, 0xff, 0, 0, 0, 0, 0, 1, 0]).to(at), &[], 512)?;
        ensure!(beyond.status == 2 && beyond.sense.get(12) == Some(&0x21), "{beyond:?}");
        ensure!(driver.manage(function::LOGICAL_UNIT_RESET, at, 0)? == 0, "a reset of LUN {lun}");
    }
    drop(driver);
    daemon.stop()?;
    let trace = std::fs::read_to_string(trace)?;
    let reads = trace.lines().filter(|line| line.contains("preadv2(") && line.contains(", 1, "));
    let threads = reads.filter_map(|line| line.split(['<', '>']).nth(1));
    // The main thread tries what the file can do.
    let readers: BTreeSet<&str> = threads.filter(|name| name.starts_with("lunette-")).collect();
    ensure!(readers == BTreeSet::from(["lunette-1"]), "{readers:?}\n{trace}");
    Ok(())
}
