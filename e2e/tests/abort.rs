//! What is aborted while its store takes its time: the answer comes when the store has let go of the guest's memory, and
//! nothing touches that memory afterwards.
//!
//! No time is measured. The store holds every operation back for as long, so one that came earlier also ends earlier: it is
//! the witness that an answer has waited.

use anyhow::{Context, Result, bail, ensure};
use lunette_e2e::checks;
use lunette_e2e::daemon::Lunette;
use lunette_e2e::tools;
use lunette_e2e::uml::{Uml, VIRTIO_SCSI};
use lunette_guest::{Command, Data, Options, Piece, ScsiDriver, Wanted, address, function, response};
use lunette_vhost_user::Features;
use std::fs;

const BLOCK: usize = 512;
/// Blocks of each command.
const BLOCKS: u8 = 128;
const LENGTH: usize = BLOCKS as usize * BLOCK;
const WRITE: u8 = 0x2a;
const READ: u8 = 0x28;

/// The commands' slots, whose numbers are also their tags.
const WITNESS: u16 = 1;
const VICTIM: u16 = 2;
const LATER: u16 = 3;

/// What is in the victim's buffer before and after the answer.
const BEFORE: u8 = 0x11;
const AFTER: u8 = 0x22;

#[test]
fn nothing_touches_memory_after_an_abort() -> Result<()> {
    let lunette = Lunette::new()?.lu("disk:ram:1M,w,fault=delay:300").vhost_user("vm.sock");
    let lunette = lunette.arg("--reactors").arg("2");
    let daemon = lunette.start()?;
    for packed in [false, true] {
        let mut wanted = Wanted::default();
        wanted.required.set(Features::RING_PACKED, packed);
        let options = Options { wanted, slots: 4, room: LENGTH, ..Options::default() };
        let mut driver = ScsiDriver::connect(&lunette.path("vm.sock"), &options)?;
        for function in [function::ABORT_TASK, function::ABORT_TASK_SET, function::LOGICAL_UNIT_RESET] {
            for opcode in [WRITE, READ] {
                let case = || format!("opcode {opcode:#x}, function {function}, packed: {packed}");
                // Once more if the function came too late.
                while !abort(&mut driver, opcode, function).with_context(case)? {}
            }
        }
    }
    daemon.stop()?;
    Ok(())
}

/// Has a command aborted that the store holds back, and uses its memory for something else as soon as the function is
/// answered. False if the command had ended before.
fn abort(driver: &mut ScsiDriver, opcode: u8, function: u32) -> Result<bool> {
    // The first command after a reset learns of it.
    while driver.execute(0, &Command::new(&[0; 6]), &[], 0)?.status != 0 {}
    let buffer = driver.data(0, VICTIM);
    buffer.fill(BEFORE);
    send(driver, WITNESS, READ)?;
    send(driver, VICTIM, opcode)?;
    driver.flush(0)?;
    let answer = driver.manage(function, address(0, 0), VICTIM.into())?;
    buffer.fill(AFTER);
    ensure!(answer == response::OK, "the function is answered {answer}");

    // Both are back by now: the driver looks once, and does not wait.
    let witness = driver.poll(0)?.context("the function was answered before an earlier command had ended")?;
    let victim = driver.poll(0)?.context("the function was answered before what it had aborted")?;
    ensure!((witness.slot, victim.slot) == (WITNESS, VICTIM), "{witness:?}, {victim:?}");
    let aborted = match victim.response {
        response::ABORTED | response::RESET => true,
        response::OK => false,
        _ => bail!("{victim:?}"),
    };
    if function == function::ABORT_TASK {
        ensure!((witness.response, witness.status) == (response::OK, 0), "{witness:?}");
    }

    while driver.execute(0, &Command::new(&[0; 6]), &[], 0)?.status != 0 {}
    // The store takes this when it is through with everything before it.
    send(driver, LATER, READ)?;
    driver.flush(0)?;
    let later = driver.wait(0)?;
    ensure!((later.slot, later.response, later.status) == (LATER, response::OK, 0), "{later:?}");
    let stored = driver.data(0, LATER).bytes(0, LENGTH);
    ensure!(!stored.contains(&AFTER), "memory was read after the answer");
    let kept = buffer.bytes(0, LENGTH);
    ensure!(kept.iter().all(|byte| *byte == AFTER), "memory was written after the answer");
    Ok(aborted)
}

/// Puts a READ(10) or WRITE(10) of the first blocks into a slot.
fn send(driver: &mut ScsiDriver, slot: u16, opcode: u8) -> Result<()> {
    let piece = [Piece { address: driver.data(0, slot).address(), length: LENGTH as u32 }];
    let data = match opcode {
        READ => Data { data_in: &piece, data_out: &[] },
        _ => Data { data_out: &piece, data_in: &[] },
    };
    let cdb = [opcode, 0, 0, 0, 0, 0, 0, 0, BLOCKS, 0];
    driver.submit(0, slot, &Command::new(&cdb).tagged(slot.into()), &data)?;
    Ok(())
}

/// A kernel gives up on commands that take too long, while another unit of the same host is busy.
#[test]
fn a_kernel_aborts_what_takes_too_long() -> Result<()> {
    checks::need_tools()?;
    tools::need(["readelf"])?;
    let lunette = Lunette::new()?;
    let slow = lunette.path("slow.img");
    // An empty partition table, of which the kernel reads the first block only.
    let mut content = vec![0; 1 << 20];
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&slow, content)?;
    let lunette = lunette
        .lu(format!("disk:{},w,fault=delay:5000", slow.display()))
        .lu("disk:ram:64M,w")
        .vhost_user("vm.sock");
    let daemon = lunette.start()?;
    // Its script brings the driver.
    let uml = Uml::new().vhost_user(VIRTIO_SCSI, lunette.path("vm.sock")).modules(["sd_mod", "sg"]);
    let mut guest = uml.boot()?;
    guest.check(include_str!("../scripts/impatient.sh"))?;
    guest.check(include_str!("../scripts/abort.sh"))?;
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}
