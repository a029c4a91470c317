//! Several connections that one thread keeps busy.

use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::load::{Command, Completion, Initiator, PATIENCE};

/// One connection with a number of slots.
pub(super) trait Channel: AsFd {
    /// Takes a command for a free slot; it leaves with the next [`send`](Self::send).
    fn submit(&mut self, slot: usize, command: &Command) -> Result<()>;
    /// Sends what there is, as far as the peer allows.
    fn send(&mut self) -> Result<()>;
    /// Waits for input and takes what has come in whole.
    fn receive(&mut self, done: &mut Vec<Completion>) -> Result<()>;
    /// The data of a slot.
    fn data(&self, slot: usize) -> &[u8];
    /// The same to be changed.
    fn data_mut(&mut self, slot: usize) -> &mut [u8];
}

/// Connections as one initiator: their slots are dealt out in turn.
pub(super) struct Bundle<C> {
    channels: Vec<C>,
    /// What one of them has brought.
    part: Vec<Completion>,
}

impl<C: Channel> Bundle<C> {
    pub(super) fn new(channel: C) -> Self {
        Self { channels: vec![channel], part: Vec::new() }
    }

    /// Adds the connections of another bundle.
    pub(super) fn join(&mut self, other: Self) {
        self.channels.extend(other.channels);
    }

    /// The connection of a slot, and the slot there.
    fn place(&self, slot: usize) -> (usize, usize) {
        (slot % self.channels.len(), slot / self.channels.len())
    }

    /// Takes what one connection has.
    fn receive(&mut self, index: usize, done: &mut Vec<Completion>) -> Result<()> {
        self.channels[index].receive(&mut self.part)?;
        let count = self.channels.len();
        let slot = |completion: &Completion| completion.slot * count + index;
        done.extend(
            self.part.drain(..).map(|completion| Completion { slot: slot(&completion), ..completion }),
        );
        Ok(())
    }

    /// Waits for input on any connection.
    fn readable(&self) -> Result<Vec<usize>> {
        let mut fds: Vec<_> =
            self.channels.iter().map(|channel| PollFd::new(channel, PollFlags::IN)).collect();
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        ensure!(poll(&mut fds, Some(&patience))? > 0, "no answer from the target");
        Ok((0..fds.len()).filter(|&index| !fds[index].revents().is_empty()).collect())
    }
}

impl<C: Channel> Initiator for Bundle<C> {
    fn submit(&mut self, slot: usize, command: &Command) -> Result<()> {
        let (channel, slot) = self.place(slot);
        self.channels[channel].submit(slot, command)
    }

    fn wait(&mut self, done: &mut Vec<Completion>) -> Result<()> {
        while done.is_empty() {
            for channel in &mut self.channels {
                channel.send()?;
            }
            match self.channels.len() {
                1 => self.receive(0, done)?,
                _ => {
                    for index in self.readable()? {
                        self.receive(index, done)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn word(&self, slot: usize, index: usize) -> u64 {
        let (channel, slot) = self.place(slot);
        let bytes = &self.channels[channel].data(slot)[8 * index..];
        bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn set_word(&mut self, slot: usize, index: usize, value: u64) {
        let (channel, slot) = self.place(slot);
        self.channels[channel].data_mut(slot)[8 * index..][..8].copy_from_slice(&value.to_le_bytes());
    }
}
