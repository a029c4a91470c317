//! What the process logs.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Sends on each line.
struct Log(Sender<String>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines from now on.
pub(crate) fn listen() -> Receiver<String> {
    let (tell, lines) = channel();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || Log(tell.clone())).init();
    lines
}
