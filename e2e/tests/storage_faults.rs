//! Every system call that moves data, makes it last or gives it up fails in turn, in a daemon that serves: its initiator is told
//! what is the matter, another unit on the same file system notices nothing, and when the cause has gone all is well again.

use anyhow::{Context, Result, bail, ensure};
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::loop_device::LoopDevice;
use lunette_e2e::strace::Injection;
use lunette_e2e::tools;
use lunette_guest::{Answer, Command, Options, ScsiDriver, address};
use std::path::PathBuf;

const BLOCK: usize = 512;
const SIZE: u64 = 4 << 20;

/// What an initiator sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sent {
    Read,
    Verify,
    Write,
    /// With FUA.
    WriteThrough,
    Flush,
    Zero,
    Unmap,
    CompareAndWrite,
    LbaStatus,
    /// From the first unit to the other.
    Copy,
}

/// What it is told: a sense key and what is said beside it. `None`: GOOD.
type Told = Option<(u8, u8, u8)>;

const READ_ERROR: Told = Some((3, 0x11, 0x00));
const WRITE_ERROR: Told = Some((3, 0x0c, 0x00));
const NO_SPACE: Told = Some((7, 0x27, 0x07));
const PROTECTED: Told = Some((7, 0x27, 0x00));
const TARGET_FAILURE: Told = Some((4, 0x44, 0x00));
const TIME_OUT: Told = Some((2, 0x08, 0x01));

/// How the daemon reads and writes, and what its unit says of its store.
type Way = (&'static str, &'static str);

/// By system calls alone, as where io_uring is refused.
const CALLS: Way = ("epoll", "");
/// The same past the page cache.
const DIRECT: Way = ("epoll", ",direct=on");
/// On the reactor's thread.
const INLINE: Way = ("epoll", ",inline=on");
/// With io_uring, which leaves to threads what it would have to.
const RING: Way = ("auto", "");

/// What fails, how, and what comes of it.
const FAULTS: &[(Way, &str, Sent, Told)] = &[
    // Reading.
    (CALLS, "preadv2:error=EIO", Sent::Read, READ_ERROR),
    (CALLS, "preadv2:error=EIO", Sent::Verify, READ_ERROR),
    (CALLS, "preadv2:error=EIO", Sent::CompareAndWrite, READ_ERROR),
    (CALLS, "preadv2:error=ENXIO", Sent::Read, TARGET_FAILURE),
    (CALLS, "preadv2:error=ENODEV", Sent::Read, TARGET_FAILURE),
    (CALLS, "preadv2:retval=0", Sent::Read, READ_ERROR),
    (CALLS, "preadv2:error=EINTR:when=1+2", Sent::Read, None),
    (DIRECT, "preadv2:error=EIO", Sent::Read, READ_ERROR),
    (INLINE, "preadv2:error=EIO", Sent::Read, READ_ERROR),
    (RING, "preadv2:error=EIO", Sent::Read, None),
    // Writing.
    (CALLS, "pwritev2:error=EIO", Sent::Write, WRITE_ERROR),
    (CALLS, "pwritev2:error=ENOSPC", Sent::Write, NO_SPACE),
    (CALLS, "pwritev2:error=EDQUOT", Sent::Write, NO_SPACE),
    (CALLS, "pwritev2:error=EROFS", Sent::Write, PROTECTED),
    (CALLS, "pwritev2:error=ENODEV", Sent::Write, TARGET_FAILURE),
    (CALLS, "pwritev2:error=EINTR:when=1+2", Sent::Write, None),
    (CALLS, "pwritev2:error=ENOSPC", Sent::WriteThrough, NO_SPACE),
    (CALLS, "pwritev2:error=ENOSPC", Sent::CompareAndWrite, NO_SPACE),
    (DIRECT, "pwritev2:error=EIO", Sent::Write, WRITE_ERROR),
    (DIRECT, "pwritev2:error=ENOSPC", Sent::Write, NO_SPACE),
    (INLINE, "pwritev2:error=ENOSPC", Sent::Write, NO_SPACE),
    (RING, "pwritev2:error=EIO", Sent::Write, WRITE_ERROR),
    (RING, "pwritev2:error=ENOSPC", Sent::Write, NO_SPACE),
    // Giving up and zeroing.
    (CALLS, "fallocate:error=EIO", Sent::Zero, WRITE_ERROR),
    (CALLS, "fallocate:error=ENOSPC", Sent::Zero, NO_SPACE),
    (CALLS, "fallocate:error=EOPNOTSUPP", Sent::Zero, None),
    (CALLS, "fallocate:error=EIO", Sent::Unmap, WRITE_ERROR),
    (RING, "fallocate:error=EIO", Sent::Unmap, WRITE_ERROR),
    // Copying, which reads and writes instead, and looking for holes, of which there need be none.
    (CALLS, "copy_file_range:error=EXDEV", Sent::Copy, None),
    (CALLS, "lseek:error=EINVAL", Sent::LbaStatus, None),
    // The ring itself.
    (RING, "io_uring_enter:error=EINTR:when=1+2", Sent::Write, None),
    (RING, "io_uring_enter:error=EAGAIN:when=1+2", Sent::Read, None),
    (RING, "io_uring_enter:error=EBUSY:when=1+2", Sent::Flush, None),
    (RING, "io_uring_enter:error=ENOMEM:when=1+2", Sent::Write, None),
];

/// What leaves doubt about what was written before: nothing makes that good but opening the store again.
const LOSSES: &[(Way, &str, Sent, Told)] = &[
    (CALLS, "fdatasync:error=EIO", Sent::Flush, WRITE_ERROR),
    (CALLS, "fdatasync:error=ENOSPC", Sent::Flush, NO_SPACE),
    (RING, "fdatasync:error=EIO", Sent::Flush, WRITE_ERROR),
    (DIRECT, "fdatasync:error=EIO", Sent::Flush, WRITE_ERROR),
    (CALLS, "pwritev2:error=EIO", Sent::WriteThrough, WRITE_ERROR),
];

/// A daemon with two units on one file system, and their initiator.
struct Site {
    home: Lunette<'static>,
    daemon: Daemon,
    guest: ScsiDriver,
    /// Of the first unit.
    file: PathBuf,
}

impl Site {
    fn open(way: Way, more: &str) -> Result<Self> {
        Self::on(None, way, more)
    }

    /// With this device as the first unit, if there is one.
    fn on(device: Option<&str>, (io, options): Way, more: &str) -> Result<Self> {
        let home = Lunette::new()?;
        let (file, other) = (home.file("first.img", SIZE)?, home.file("other.img", SIZE)?);
        let file = device.map_or(file, PathBuf::from);
        let home = home
            .lu(format!("disk:{},w,name=first,wwn=naa.3000000000000001{options}{more}", file.display()))
            .lu(format!("disk:{},w,name=other,wwn=naa.3000000000000002", other.display()))
            .vhost_user("vm.sock")
            // What strace does to a system call looks to a filter as if there were no such call.
            .arg("--confine=off")
            .arg(format!("--io={io}"))
            .arg("--reactors=1");
        let daemon = home.start()?;
        let guest = ScsiDriver::connect(&home.path("vm.sock"), &Options::default())?;
        let mut site = Self { home, daemon, guest, file };
        for lun in [0, 1] {
            // What there is to be told of at first.
            site.send(lun, Sent::Flush)?;
            site.expect(lun, Sent::Write, None)?;
            site.expect(lun, Sent::Flush, None)?;
        }
        Ok(site)
    }

    fn inject(&mut self, what: &str) -> Result<Injection> {
        let file = self.file.clone();
        let file = (!what.starts_with("io_uring")).then_some(&*file);
        Injection::begin(self.daemon.pid(), file, what)
    }

    fn send(&mut self, lun: u32, what: Sent) -> Result<Told> {
        let (cdb, data_out, data_in) = what.command();
        let command = Command::new(&cdb).to(address(0, lun as u16));
        told(&self.guest.execute(0, &command, &data_out, data_in)?)
    }

    fn expect(&mut self, lun: u32, what: Sent, expected: Told) -> Result<()> {
        let told = self.send(lun, what)?;
        ensure!(told == expected, "LUN {lun} answers {what:x?} with {told:x?}, not {expected:x?}");
        Ok(())
    }

    /// All is well with a unit.
    fn serves(&mut self, lun: u32) -> Result<()> {
        [Sent::Write, Sent::Read, Sent::Flush, Sent::Zero]
            .iter()
            .try_for_each(|what| self.expect(lun, *what, None))
    }
}

impl Sent {
    /// The CDB, data-out, and the length of data-in. All of it is about the first block.
    fn command(self) -> (Vec<u8>, Vec<u8>, usize) {
        let block = vec![0x5a; BLOCK];
        match self {
            Self::Read => (vec![0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], vec![], BLOCK),
            Self::Verify => (vec![0x2f, 0, 0, 0, 0, 0, 0, 0, 1, 0], vec![], 0),
            Self::Write => (vec![0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], block, 0),
            Self::WriteThrough => (vec![0x2a, 8, 0, 0, 0, 0, 0, 0, 1, 0], block, 0),
            Self::Flush => (vec![0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], vec![], 0),
            Self::Zero => (vec![0x41, 0, 0, 0, 0x10, 0, 0, 0, 8, 0], vec![0; BLOCK], 0),
            Self::Unmap => {
                let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
                list.extend([0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
                (vec![0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], list, 0)
            }
            Self::CompareAndWrite => {
                let mut cdb = vec![0; 16];
                (cdb[0], cdb[13]) = (0x89, 1);
                (cdb, [block.clone(), block].concat(), 0)
            }
            Self::LbaStatus => {
                let mut cdb = vec![0; 16];
                (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x12, 64);
                (cdb, vec![], 64)
            }
            Self::Copy => {
                let list = copy_list();
                let mut cdb = vec![0; 16];
                (cdb[0], cdb[13]) = (0x83, list.len() as u8);
                (cdb, list, 0)
            }
        }
    }
}

/// The parameter list of EXTENDED COPY (SPC-4 6.4): eight blocks from the first unit to the other.
fn copy_list() -> Vec<u8> {
    const UNITS: [u8; 2] = [1, 2];
    let mut list = vec![0; 16];
    (list[3], list[11]) = (32 * UNITS.len() as u8, 28);
    for unit in UNITS {
        let mut descriptor = [0; 32];
        // By its world-wide name, which is binary.
        (descriptor[0], descriptor[4], descriptor[5], descriptor[7]) = (0xe4, 1, 3, 8);
        (descriptor[8], descriptor[15]) = (0x30, unit);
        descriptor[30] = (BLOCK >> 8) as u8;
        list.extend(descriptor);
    }
    let mut segment = [0; 28];
    (segment[0], segment[3], segment[7], segment[11]) = (2, 24, 1, 8);
    list.extend(segment);
    list
}

fn told(answer: &Answer) -> Result<Told> {
    ensure!(answer.response == 0, "{answer:?}");
    match (answer.status, &answer.sense[..]) {
        (0, _) => Ok(None),
        (2, [0x70 | 0xf0, _, key, _, _, _, _, _, _, _, _, _, additional, qualifier, ..]) => {
            Ok(Some((key & 0xf, *additional, *qualifier)))
        }
        (2, [0x72, key, additional, qualifier, ..]) => Ok(Some((key & 0xf, *additional, *qualifier))),
        _ => bail!("{answer:?}"),
    }
}

/// Those of `faults` that need the same daemon follow each other.
fn try_all(
    faults: &[(Way, &str, Sent, Told)],
    mut fault: impl FnMut(&mut Site, &str, Sent, Told) -> Result<()>,
) -> Result<()> {
    let mut open: Option<(Way, Site)> = None;
    for &(way, what, sent, expected) in faults {
        let site = match &mut open {
            Some((of, site)) if *of == way => site,
            _ => {
                if let Some((_, Site { daemon, .. })) = open.take() {
                    daemon.stop()?;
                }
                &mut open.insert((way, Site::open(way, "")?)).1
            }
        };
        fault(site, what, sent, expected).with_context(|| format!("{way:?}, {what}"))?;
    }
    if let Some((_, Site { daemon, .. })) = open {
        daemon.stop()?;
    }
    Ok(())
}

#[test]
fn an_initiator_is_told_what_has_failed_and_all_is_well_when_the_cause_has_gone() -> Result<()> {
    tools::need(["strace"])?;
    try_all(FAULTS, |site, what, sent, expected| {
        let injection = site.inject(what)?;
        site.expect(0, sent, expected)?;
        site.expect(0, sent, expected)?;
        site.serves(1)?;
        drop(injection);
        site.expect(0, sent, None)?;
        site.serves(0)
    })
}

#[test]
fn after_a_loss_nothing_is_called_safe_before_the_store_is_opened_again() -> Result<()> {
    tools::need(["strace"])?;
    for loss in LOSSES {
        try_all(std::slice::from_ref(loss), |site, what, sent, expected| {
            site.expect(0, Sent::Write, None)?;
            drop((site.inject(what)?, site.expect(0, sent, expected)?));
            for _ in 0..2 {
                site.expect(0, Sent::Flush, expected)?;
            }
            site.expect(0, Sent::Read, None)?;
            site.expect(0, Sent::Write, None)?;
            site.serves(1)?;
            // It comes again as another unit of the same bytes.
            let path = site.file.display().to_string();
            let socket = site.home.path("vm.sock").display().to_string();
            site.home.ask(["lu", "delete", "first", "--detach"])?.ok()?;
            site.home.ask(["lu", "create", &format!("disk:{path},w,name=first"), "--to", &socket])?.ok()?;
            while site.send(0, Sent::Flush)?.is_some() {}
            site.serves(0)
        })?;
    }
    Ok(())
}

/// A kill opens the store again, too, but nobody has seen to what was lost.
#[test]
fn after_a_loss_and_a_kill_nothing_is_called_safe_either() -> Result<()> {
    tools::need(["strace"])?;
    let mut site = Site::open(CALLS, "")?;
    site.expect(0, Sent::Write, None)?;
    drop((site.inject("fdatasync:error=EIO")?, site.expect(0, Sent::Flush, WRITE_ERROR)?));
    let Site { home, mut daemon, .. } = site;
    for _ in 0..2 {
        daemon.kill()?;
        daemon = home.start()?;
        daemon.wait_for_log("was lost under another process")?;
        let mut guest = ScsiDriver::connect(&home.path("vm.sock"), &Options::default())?;
        let mut flush = |lun| {
            let (cdb, data_out, data_in) = Sent::Flush.command();
            told(&guest.execute(0, &Command::new(&cdb).to(address(0, lun)), &data_out, data_in)?)
        };
        for (lun, expected) in [(0, WRITE_ERROR), (1, None)] {
            // What there is to be told of at first.
            flush(lun)?;
            for _ in 0..2 {
                ensure!(flush(lun)? == expected, "LUN {lun}");
            }
        }
    }
    // The operator has heard of it.
    let said = daemon.stop().err().context("what cannot be flushed is no good end")?;
    ensure!(format!("{said:#}").contains("cannot flush first"), "{said:#}");
    let daemon = home.start()?;
    ensure!(!daemon.log().contains("was lost under another process"), "{}", daemon.log());
    daemon.stop()?;
    Ok(())
}

/// Block devices have a call of their own for what is given up.
#[test]
fn a_device_that_gives_nothing_up_says_so() -> Result<()> {
    tools::need(["strace", "losetup"])?;
    let folder = tools::temp_dir()?;
    let image = folder.path().join("image");
    std::fs::File::create(&image)?.set_len(SIZE)?;
    let device = LoopDevice::on(&image)?;
    let mut site = Site::on(Some(device.path()), CALLS, "")?;
    for (what, expected) in [("ioctl:error=EIO", WRITE_ERROR), ("ioctl:error=ENODEV", TARGET_FAILURE)] {
        let injection = site.inject(what)?;
        site.expect(0, Sent::Unmap, expected).context(what)?;
        site.serves(1)?;
        drop(injection);
        site.expect(0, Sent::Unmap, None)?;
        site.serves(0)?;
    }
    site.daemon.stop()?;
    Ok(())
}

/// It is asked for at the control socket, and who asks is told.
#[test]
fn a_file_that_gets_no_other_size_keeps_its_own() -> Result<()> {
    tools::need(["strace"])?;
    let mut site = Site::open(CALLS, "")?;
    for size in ["8M", "2M"] {
        let injection = site.inject("ftruncate:error=EIO")?;
        let said = site.home.ask(["lu", "resize", "first", size, "--shrink"])?.fails()?;
        ensure!(said.stderr.contains("Input/output error"), "{said}");
        ensure!(site.file.metadata()?.len() == SIZE);
        drop(injection);
        while site.send(0, Sent::Flush)?.is_some() {}
        site.serves(0)?;
        site.serves(1)?;
    }
    site.home.tell(["lu", "resize", "first", "8M"])?;
    ensure!(site.file.metadata()?.len() == 2 * SIZE);
    while site.send(0, Sent::Flush)?.is_some() {}
    site.serves(0)?;
    site.daemon.stop()?;
    Ok(())
}

/// The kernel keeps what it was given until strace lets go.
#[test]
fn a_unit_whose_store_is_stuck_says_so_and_comes_back() -> Result<()> {
    tools::need(["strace"])?;
    const STUCK: [(Way, &str, Sent); 4] = [
        (DIRECT, "preadv2", Sent::Read),
        (CALLS, "pwritev2", Sent::Write),
        (RING, "fdatasync", Sent::Flush),
        (CALLS, "fallocate", Sent::Unmap),
    ];
    for (way, call, sent) in STUCK {
        let mut site = Site::open(way, ",stuck-after=1")?;
        let injection = site.inject(&format!("{call}:delay_enter=100000000"))?;
        let (cdb, data_out, data_in) = sent.command();
        let stuck = site.guest.send(0, &Command::new(&cdb), &data_out, data_in)?;
        tools::wait_until("the unit to be stuck", || {
            let list = site.home.ask(["lu", "list"])?.ok()?;
            Ok(list.stdout.contains("TIME-OUT"))
        })?;
        for sent in [Sent::Read, Sent::Write, Sent::Flush] {
            site.expect(0, sent, TIME_OUT)?;
        }
        site.serves(1)?;
        drop(injection);
        let completion = site.guest.wait_for(0, stuck)?;
        ensure!((completion.response, completion.status) == (0, 0), "{completion:?}");
        tools::wait_until("the unit to be ready", || Ok(site.send(0, Sent::Read)?.is_none()))?;
        site.serves(0)?;
        ensure!(site.daemon.log().contains("its store does not answer"), "{}", site.daemon.log());
        site.daemon.stop()?;
    }
    Ok(())
}
