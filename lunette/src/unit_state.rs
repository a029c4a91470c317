//! The state file of a logical unit: what it saves for itself, its reservations for one.
//!
//! It lies under `units/` in the state directory, named by the unit's kept world-wide name, and begins with a line that says
//! its version, its length and its checksum. What is not exactly what was saved is refused. While a unit is served its file
//! is locked: daemons may share a state directory, but not a unit.

use crate::state::{self, StateDir};
use anyhow::{Context, Result, bail};
use lunette_engine::{StateError, StateKeeper};
use lunette_scsi::Naa;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A unit's state file, which nobody else has.
#[derive(Debug)]
pub(crate) struct UnitState {
    directory: PathBuf,
    file: String,
    _lock: File,
}

const VERSION: u32 = 1;
const FIRST_WORDS: &str = "lunette unit state, version ";
/// Longest file, in bytes: more than a thousand registrations.
const MAX_LENGTH: u64 = 16 << 20;

/// A daemon that has just been killed may still be ending.
const LOCK_TRIES: u32 = 100;
const LOCK_STEP: Duration = Duration::from_millis(10);

impl UnitState {
    /// The state of the unit whose kept world-wide name is `naa`.
    pub(crate) fn open(state: &StateDir, naa: Naa) -> Result<Self> {
        let directory = state.path().join("units");
        state::create_durably(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let lock = directory.join(format!("{naa}.lock"));
        Ok(Self { file: format!("{naa}.state"), _lock: take_lock(&lock)?, directory })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(&self.file)
    }
}

fn take_lock(path: &Path) -> Result<File> {
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_STEP),
            Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
    bail!("another lunette serves the same logical unit: it has locked {}", path.display())
}

impl StateKeeper for UnitState {
    fn load(&self) -> Result<Option<Vec<u8>>, StateError> {
        let failed = |error| StateError(format!("cannot read {}: {error}", self.path().display()));
        let file = match File::open(self.path()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_LENGTH + 1).read_to_end(&mut bytes).map_err(failed)?;
        match decode(&bytes) {
            Ok(state) => Ok(Some(state.to_vec())),
            Err(why) => Err(StateError(format!("{} {why}", self.path().display()))),
        }
    }

    fn save(&self, state: &[u8]) -> Result<(), StateError> {
        let bytes = encode(state);
        if bytes.len() as u64 > MAX_LENGTH {
            return Err(StateError(format!("the state of a unit is longer than {MAX_LENGTH} bytes")));
        }
        state::write_durably(&self.directory, &self.file, &bytes).map_err(|error| {
            let error = format!("cannot save {}: {error}", self.path().display());
            tracing::error!("{error}");
            StateError(error)
        })
    }
}

fn encode(state: &[u8]) -> Vec<u8> {
    let checksum = crc_fast::crc32_iscsi(state);
    let head = format!("{FIRST_WORDS}{VERSION}, {} bytes, CRC-32C {checksum:08x}\n", state.len());
    [head.as_bytes(), state].concat()
}

/// The state in a file, or what is wrong with the file.
fn decode(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    let (head, state) = bytes.split_at(end);
    // There is only one way to write a state, so whatever differs is damage.
    if bytes.len() as u64 <= MAX_LENGTH && encode(state) == bytes {
        return Ok(state);
    }
    let version = head.strip_prefix(FIRST_WORDS.as_bytes()).and_then(|rest| {
        let digits = rest.split(|byte| *byte == b',').next()?;
        str::from_utf8(digits).ok()?.parse::<u32>().ok()
    });
    match version {
        Some(version) if version > VERSION => Err("was saved by a newer lunette"),
        _ => Err("is damaged"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const STATE: &[u8] = b"{\n  \"reservations\": {\"registrations\": []}\n}";

    fn open() -> (tempfile::TempDir, StateDir, UnitState) {
        let temporary = tempfile::tempdir().unwrap();
        let state = StateDir::open(temporary.path()).unwrap();
        let unit = UnitState::open(&state, Naa::locally_assigned(5)).unwrap();
        (temporary, state, unit)
    }

    #[test]
    fn what_was_saved_last_is_loaded() {
        let (_temporary, state, unit) = open();
        assert_eq!(unit.load(), Ok(None));
        unit.save(b"first, and longer").unwrap();
        for text in [STATE, b"", b"\n\n"] {
            unit.save(text).unwrap();
            assert_eq!(unit.load(), Ok(Some(text.to_vec())));
        }
        let other = UnitState::open(&state, Naa::locally_assigned(6)).unwrap();
        assert_eq!(other.load(), Ok(None), "each unit has its own");
    }

    #[test]
    fn a_file_with_any_byte_damaged_is_refused() {
        let (_temporary, _, unit) = open();
        unit.save(STATE).unwrap();
        let good = fs::read(unit.path()).unwrap();
        for at in 0..good.len() {
            for flip in (0..8).map(|bit| 1 << bit).chain([0xff, good[at], good[at] ^ b'\n']) {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                fs::write(unit.path(), &bytes).unwrap();
                assert_eq!(unit.load().is_err(), bytes != good, "byte {at} ^ {flip:#x}");
            }
        }
    }

    #[test]
    fn a_file_of_any_other_length_is_refused() {
        let (_temporary, _, unit) = open();
        unit.save(STATE).unwrap();
        let good = fs::read(unit.path()).unwrap();
        for length in 0..good.len() {
            fs::write(unit.path(), &good[..length]).unwrap();
            let error = unit.load().unwrap_err().0;
            assert!(error.ends_with("naa.3000000000000005.state is damaged"), "{error}");
        }
        fs::write(unit.path(), [&good[..], b" "].concat()).unwrap();
        assert!(unit.load().is_err());
        fs::write(unit.path(), vec![b' '; MAX_LENGTH as usize + 2]).unwrap();
        assert!(unit.load().is_err());
        fs::write(unit.path(), good).unwrap();
        assert_eq!(unit.load(), Ok(Some(STATE.to_vec())));
    }

    #[test]
    fn a_newer_version_is_named() {
        let (_temporary, _, unit) = open();
        fs::write(unit.path(), "lunette unit state, version 2, whatever\n{}").unwrap();
        assert!(unit.load().unwrap_err().0.ends_with("was saved by a newer lunette"));
    }

    #[test]
    fn what_cannot_be_saved_leaves_what_was_saved_before() {
        let (_temporary, _, unit) = open();
        unit.save(STATE).unwrap();
        let new = unit.directory.join(format!("{}.new", unit.file));
        std::os::unix::fs::symlink("/dev/full", &new).unwrap();
        let error = unit.save(b"new").unwrap_err().0;
        assert!(error.contains("No space left"), "{error}");
        assert_eq!(unit.load(), Ok(Some(STATE.to_vec())));
        fs::remove_file(new).unwrap();
        unit.save(b"new").unwrap();
        assert_eq!(unit.load(), Ok(Some(b"new".to_vec())));
    }

    #[test]
    fn a_unit_is_served_once() {
        let (_temporary, state, unit) = open();
        let error = UnitState::open(&state, Naa::locally_assigned(5)).unwrap_err();
        assert!(error.to_string().contains("another lunette serves the same logical unit"), "{error}");
        drop(unit);
        UnitState::open(&state, Naa::locally_assigned(5)).unwrap();
    }
}
