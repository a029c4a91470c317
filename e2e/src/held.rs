//! A guest that holds its disk reserved and writes it all the time, and notices whatever goes wrong with it.

use crate::guest::Guest;
use crate::tools;
use anyhow::{Result, ensure};

/// What the guest's kernel says of a disk that has failed it.
const FAILURES: [&str; 4] = ["I/O error", "offline", "hung", "blocked for more than"];

/// A guest that has reserved LUN 0, and verifies what it writes there.
pub struct Held {
    guest: Guest,
}

impl Held {
    /// Has a guest begin.
    pub fn by(mut guest: Guest) -> Result<Self> {
        tools::need(["sg_persist", "fio"])?;
        guest.check(
            "disk=$(disk 0); sg=$(generic $disk)
             sg_persist --out --register-ignore --param-sark=0x1234 --param-aptpl $sg
             sg_persist --out --reserve --param-rk=0x1234 --prout-type=1 $sg
             rounds_begin $disk --size=16M --iodepth=16",
        )?;
        Ok(Self { guest })
    }

    /// Waits until it has done some more.
    pub fn goes_on(&mut self) -> Result<()> {
        self.guest.check("rounds_run").map(drop)
    }

    /// Nothing was lost.
    pub fn end(mut self) -> Result<()> {
        self.guest.check("rounds_wait 1; rounds_end")?;
        let kept = self.guest.check(
            "sg=$(generic $(disk 0)); sg_persist --read-keys $sg; sg_persist --read-reservation $sg",
        )?;
        ensure!(kept.matches("0x1234").count() == 2 && kept.contains("Write Exclusive"), "{kept}");
        let log = self.guest.kernel_log();
        let failure = log.lines().find(|line| FAILURES.iter().any(|failure| line.contains(failure)));
        ensure!(failure.is_none(), "{failure:?}");
        self.guest.power_off()
    }
}
