//! Which agreement with the front end is in force, in memory that outlives this process: whoever goes on with a connection after
//! a kill must know the last of it, and nothing may have been on its way.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// A number in a file of its own. It is odd while messages are read: one may have been read, and not be answered yet.
#[derive(Debug)]
pub(super) struct Ledger {
    file: File,
    number: u64,
    /// Something has changed since the number was even.
    has_changed: bool,
}

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

impl Ledger {
    /// That of a connection on which nothing was said.
    pub(super) fn new() -> io::Result<Self> {
        let file =
            File::from(memfd_create("lunette-ledger", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        file.write_all_at(&0u64.to_ne_bytes(), 0)?;
        fcntl_add_seals(&file, SEALS | SealFlags::SEAL)?;
        Ok(Self { file, number: 0, has_changed: false })
    }

    /// That of another process, if `number` is still the last.
    pub(super) fn adopt(file: OwnedFd, number: Option<u64>) -> Result<Self, String> {
        let file = File::from(file);
        let mut bytes = [0; 8];
        // Only such files have seals, and reading from them does not wait.
        if !fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALS)) {
            return Err("the number of the agreement is not where it should be".to_owned());
        }
        file.read_exact_at(&mut bytes, 0).map_err(|error| error.to_string())?;
        match u64::from_ne_bytes(bytes) {
            last if Some(last) == number => Ok(Self { file, number: last, has_changed: false }),
            _ => Err("something was changed in the moment of the death".to_owned()),
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether nothing is on its way.
    pub(super) fn is_settled(&self) -> bool {
        self.number.is_multiple_of(2)
    }

    /// Messages are read from now on.
    pub(super) fn begin(&mut self) {
        if self.is_settled() {
            self.set(self.number.wrapping_add(1));
        }
    }

    /// Whatever was recorded so far is out of date.
    pub(super) fn change(&mut self) {
        if !self.has_changed {
            self.has_changed = true;
            // Also where what was recorded is in the midst of a message.
            self.set((self.number | 1).wrapping_add(2));
        }
    }

    /// Nothing is on its way any more.
    pub(super) fn settle(&mut self) {
        if !self.is_settled() {
            let changed = std::mem::take(&mut self.has_changed);
            self.set(if changed { self.number.wrapping_add(1) } else { self.number.wrapping_sub(1) });
        }
    }

    fn set(&mut self, number: u64) {
        self.number = number;
        // The memory is there already, so nothing goes wrong.
        let _ = self.file.write_all_at(&number.to_ne_bytes(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(ledger: &Ledger, number: u64) -> bool {
        Ledger::adopt(ledger.file.try_clone().unwrap().into(), Some(number)).is_ok()
    }

    #[test]
    fn what_was_recorded_counts_until_something_changes() {
        let mut ledger = Ledger::new().unwrap();
        let number = ledger.number();
        ledger.begin();
        assert!(!says(&ledger, number), "a message may have been read");
        ledger.settle();
        assert!(says(&ledger, number));
        ledger.begin();
        ledger.change();
        assert!(!says(&ledger, number));
        ledger.settle();
        assert!(!says(&ledger, number) && says(&ledger, ledger.number()) && ledger.is_settled());
        // Recorded in the midst of a message, by who comes to rest.
        ledger.begin();
        let number = ledger.number();
        let mut next = Ledger::adopt(ledger.file.try_clone().unwrap().into(), Some(number)).unwrap();
        next.change();
        assert!(!says(&ledger, number));
        next.settle();
        assert!(!says(&ledger, number) && says(&next, next.number()));
    }

    #[test]
    fn what_is_no_ledger_is_refused() {
        for file in [File::open("/dev/zero").unwrap().into(), crate::testing::memfd(8)] {
            assert!(Ledger::adopt(file, Some(0)).is_err());
        }
        assert!(Ledger::adopt(Ledger::new().unwrap().file.into(), None).is_err());
    }
}
