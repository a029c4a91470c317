//! What a virtual machine relies on beside its memory and rings, and takes along to another process.

use crate::events::HandedEvents;
use lunette_engine::NexusState;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

/// The state of an export's device that the front end does not know: what there is between the driver and the logical units,
/// and what it has subscribed to. Plain data, read from wherever the virtual machine came from: what is wrong with it is
/// refused. It says nothing of the units themselves, whose state others rely on too.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceState {
    /// The nexuses, by target number.
    pub(crate) nexuses: BTreeMap<u8, NexusState>,
    pub(crate) events: HandedEvents,
    /// Of sense data and of CDBs, in bytes, if the driver may have changed them.
    pub(crate) sizes: Option<(u16, u16)>,
    /// In which terms of its units it was left ([`Lease::terms`](crate::Lease::terms)).
    pub(crate) terms: BTreeMap<String, u64>,
    /// It was loaded from a state that was left in these terms, and no ring has run since: that is still good.
    pub(crate) unused_since: BTreeMap<String, u64>,
}

impl DeviceState {
    /// Whether nobody has had the units since it was left, which are in these terms now; otherwise which was served elsewhere.
    pub(crate) fn is_last_of(&self, terms: &BTreeMap<String, u64>) -> Result<(), String> {
        let both = self.terms.iter().filter_map(|(unit, left)| Some((unit, left, terms.get(unit)?)));
        let mut others = both.filter(|(_, left, now)| left.checked_add(1) != Some(**now));
        match others.next() {
            None => Ok(()),
            Some((unit, left, now)) => Err(format!(
                "it was left in term {left} of {unit}, and this is term {now}: the unit was served elsewhere since"
            )),
        }
    }
}

/// The version of what is written.
const VERSION: u32 = 1;
/// Most bytes that are read.
const MOST: usize = 16 << 20;
/// Bytes that are read at a time.
const PIECE: usize = 1 << 16;

/// A state as it goes through a descriptor: JSON, up to the end.
#[derive(Serialize, Deserialize)]
pub(crate) struct Document {
    version: u32,
    #[serde(rename = "vhost-user-scsi")]
    state: DeviceState,
}

/// The part that every version has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Document {
    pub(crate) fn new(state: DeviceState) -> Self {
        Self { version: VERSION, state }
    }

    /// Writes it to a pipe or a socket, and closes that. It may take until `stop` becomes readable.
    pub(crate) fn write(&self, fd: OwnedFd, stop: &OwnedFd) -> Result<(), String> {
        rustix::io::ioctl_fionbio(&fd, true).map_err(|error| error.to_string())?;
        let bytes = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        let mut left = &bytes[..];
        while !left.is_empty() {
            let written = whole(&fd, PollFlags::OUT, stop, || rustix::io::write(&fd, left));
            let written = written.map_err(|error| format!("it cannot be written: {error}"))?;
            left = &left[written..];
        }
        Ok(())
    }

    /// Reads it from a pipe or a socket. It may take until `stop` becomes readable.
    pub(crate) fn read(fd: OwnedFd, stop: &OwnedFd) -> Result<DeviceState, String> {
        rustix::io::ioctl_fionbio(&fd, true).map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        loop {
            let old = bytes.len();
            bytes.resize(old + PIECE, 0);
            let read = whole(&fd, PollFlags::IN, stop, || rustix::io::read(&fd, &mut bytes[old..]));
            let read = read.map_err(|error| format!("it cannot be read: {error}"))?;
            bytes.truncate(old + read);
            match read {
                0 => return Self::parse(&bytes),
                _ if bytes.len() > MOST => return Err(format!("it is longer than {MOST} bytes")),
                _ => {}
            }
        }
    }

    fn parse(bytes: &[u8]) -> Result<DeviceState, String> {
        let wrong = |error: serde_json::Error| format!("it is not what was written: {error}");
        let Version { version } = serde_json::from_slice(bytes).map_err(wrong)?;
        if version != VERSION {
            return Err(format!("it has version {version}, and only {VERSION} is known"));
        }
        let document: Self = serde_json::from_slice(bytes).map_err(wrong)?;
        Ok(document.state)
    }
}

/// Calls until there is a result, or nobody waits for one any more.
fn whole(
    fd: &OwnedFd,
    event: PollFlags,
    stop: &OwnedFd,
    mut call: impl FnMut() -> rustix::io::Result<usize>,
) -> rustix::io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::new(fd, event), PollFd::new(stop, PollFlags::IN)];
                let _ = poll(&mut fds, None);
                if fds[1].revents().contains(PollFlags::IN) {
                    return Err(Errno::CANCELED);
                }
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write, pipe};

    fn never() -> OwnedFd {
        rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<DeviceState, String> {
        let (reader, mut writer) = pipe().unwrap();
        let bytes = bytes.to_vec();
        let writing = std::thread::spawn(move || {
            // Nobody reads on where it is known that it is wrong.
            let _ = writer.write_all(&bytes);
        });
        let read = Document::read(reader.into(), &never());
        writing.join().unwrap();
        read
    }

    #[test]
    fn a_state_goes_through_a_pipe() {
        let state = DeviceState { sizes: Some((252, 16)), ..DeviceState::default() };
        let (mut reader, writer) = pipe().unwrap();
        Document::new(state.clone()).write(writer.into(), &never()).unwrap();
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(read(&bytes), Ok(state));
        // It may be padded, and more may be known than we know.
        bytes.extend([b' '; PIECE]);
        assert!(read(&bytes).is_ok());
        assert_eq!(
            read(br#"{"version":1,"more":{},"vhost-user-scsi":{"more":1}}"#),
            Ok(DeviceState::default())
        );
    }

    #[test]
    fn a_pipe_that_does_not_block_is_waited_for() {
        let (mut reader, writer) = pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let subscriptions = (0..20_000).map(|n| ((n % 256) as u8, n / 256)).collect();
        let state = DeviceState { events: HandedEvents::subscribed(subscriptions), ..DeviceState::default() };
        let copy = state.clone();
        let writing = std::thread::spawn(move || Document::new(copy).write(writer.into(), &never()));
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        writing.join().unwrap().unwrap();
        assert_eq!(read(&bytes), Ok(state));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for wrong in [
            &b""[..],
            b"{}",
            b"[]",
            b"\0",
            br#"{"version":1}"#,
            br#"{"version":2,"vhost-user-scsi":{}}"#,
            br#"{"version":-1,"vhost-user-scsi":{}}"#,
            br#"{"version":1,"vhost-user-scsi":{"nexuses":{"256":{}}}}"#,
            br#"{"version":1,"vhost-user-scsi":{}}x"#,
        ] {
            assert!(read(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
        assert!(read(&vec![b'['; 1 << 20]).is_err(), "nested too deep");
        assert!(read(&vec![b' '; MOST + 2 * PIECE]).unwrap_err().contains("longer"));
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        assert!(Document::new(DeviceState::default()).write(writer.into(), &never()).is_err());
    }
}
