//! A TCP connection that costs few system calls and copies little.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, ensure};

use crate::load::PATIENCE;

/// A connection with a buffer for input.
pub(super) struct Stream {
    socket: TcpStream,
    buffer: Box<[u8]>,
    /// What is in the buffer and not yet taken.
    filled: Range<usize>,
}

impl Stream {
    /// `ahead`: bytes that are received beyond what is asked for.
    pub(super) fn connect(portal: SocketAddr, ahead: usize) -> Result<Self> {
        let socket = TcpStream::connect(portal).with_context(|| format!("cannot connect to {portal}"))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, buffer: vec![0; ahead].into(), filled: 0..0 })
    }

    /// What is there already.
    pub(super) fn buffered(&self) -> &[u8] {
        &self.buffer[self.filled.clone()]
    }

    /// Fills `to`: from the buffer, and straight with what has not come yet.
    pub(super) fn read(&mut self, mut to: &mut [u8]) -> Result<()> {
        loop {
            let ready = to.len().min(self.filled.len());
            to[..ready].copy_from_slice(&self.buffered()[..ready]);
            self.filled.start += ready;
            to = &mut to[ready..];
            if to.is_empty() {
                return Ok(());
            }
            let runs = &mut [IoSliceMut::new(to), IoSliceMut::new(&mut self.buffer)];
            let count = match self.socket.read_vectored(runs) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.context("no answer from the target")?,
            };
            ensure!(count > 0, "the target has closed the connection");
            let straight = count.min(to.len());
            to = &mut to[straight..];
            self.filled = 0..count - straight;
        }
    }

    /// Sends all of them, in order.
    pub(super) fn write(&mut self, mut runs: &mut [IoSlice<'_>]) -> Result<()> {
        /// More runs than this are too many for one call.
        const RUNS: usize = 1024;
        while !runs.is_empty() {
            match self.socket.write_vectored(&runs[..runs.len().min(RUNS)]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                sent => IoSlice::advance_slices(&mut runs, sent.context("the target takes nothing more")?),
            }
        }
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
