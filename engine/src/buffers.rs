//! The buffers that READ BUFFER and WRITE BUFFER reach (SPC-4 6.18, 6.49): memory of a logical unit for nothing but tests.

use crate::NexusId;
use lunette_scsi::{AdditionalSense, Sense};
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of the data buffer.
pub(crate) const DATA: usize = 64 << 10;
/// Bytes of the echo buffer; no more than its descriptor can say.
pub(crate) const ECHO: usize = 4096;

/// The buffers of one unit.
#[derive(Default, Debug)]
pub(crate) struct Buffers(Mutex<State>);

#[derive(Default, Debug)]
struct State {
    /// Empty until it is written; reads as zero.
    data: Vec<u8>,
    echo: Vec<u8>,
    /// Who has written the echo buffer last.
    echo_of: Option<NexusId>,
    /// Whose echo has been overwritten by another.
    overwritten: HashSet<NexusId>,
}

/// How many nexuses are told that another has overwritten their echo.
const LOSERS: usize = 256;

impl Buffers {
    /// Writes to the data buffer, where `bytes` fits.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let mut state = self.lock();
        state.data.resize(DATA, 0);
        if let Some(to) = state.data.get_mut(offset..offset + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }

    /// At most `length` bytes of the data buffer from `offset`, which lies inside, on.
    pub(crate) fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let length = length.min(DATA - offset);
        let state = self.lock();
        state.data.get(offset..offset + length).map_or_else(|| vec![0; length], <[u8]>::to_vec)
    }

    /// Writes the echo buffer.
    pub(crate) fn write_echo(&self, by: NexusId, bytes: Vec<u8>) {
        let mut state = self.lock();
        if let Some(before) = state.echo_of.replace(by)
            && before != by
            && state.overwritten.len() < LOSERS
        {
            state.overwritten.insert(before);
        }
        state.overwritten.remove(&by);
        state.echo = bytes;
    }

    /// What `by` has written to the echo buffer.
    ///
    /// # Errors
    /// COMMAND SEQUENCE ERROR if it has not, ECHO BUFFER OVERWRITTEN if another nexus has since.
    pub(crate) fn echo(&self, by: NexusId) -> Result<Vec<u8>, Sense> {
        let state = self.lock();
        match state.echo_of {
            Some(owner) if owner == by => Ok(state.echo.clone()),
            _ if state.overwritten.contains(&by) => {
                Err(Sense::aborted_command(AdditionalSense::ECHO_BUFFER_OVERWRITTEN))
            }
            _ => Err(Sense::illegal_request(AdditionalSense::COMMAND_SEQUENCE_ERROR)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
