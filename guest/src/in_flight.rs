//! What a monitor keeps of a device: the memory in which that notes what it has in flight, for the next one.

use std::os::fd::OwnedFd;
use std::path::Path;

use lunette_vhost_user::{FrontendRequest, InflightArea, Reply};
use rustix::io::dup;

use crate::error::Error;
use crate::monitor::Monitor;
use crate::session::{Session, Wanted};

/// Memory for notes, as a front end knows it.
#[derive(Debug)]
pub struct InFlight {
    /// Where it is in its file, and for what queues.
    pub area: InflightArea,
    /// The file.
    pub fd: OwnedFd,
}

impl Session {
    /// Asks for memory for notes, and for its use; `None` if the daemon has none.
    pub fn begin_notes(&mut self, queues: u16, queue_size: u16) -> Result<Option<InFlight>, Error> {
        match self.ask(|frontend| frontend.get_inflight_fd(queues, queue_size))? {
            Some(Reply::Inflight(InflightArea { mmap_size: 0, .. }, None)) => Ok(None),
            Some(Reply::Inflight(area, Some(fd))) => {
                let notes = InFlight { area, fd };
                self.give_notes(&notes)?;
                Ok(Some(notes))
            }
            _ => Err(Error::Reply(FrontendRequest::GET_INFLIGHT_FD)),
        }
    }

    /// Hands notes over.
    pub fn give_notes(&mut self, notes: &InFlight) -> Result<(), Error> {
        let fd = dup(&notes.fd).map_err(Error::system("copy a descriptor"))?;
        self.done(|frontend| frontend.set_inflight_fd(notes.area, fd))
    }
}

impl Monitor {
    /// The daemon is gone: has another one, at `socket`, go on with memory and notes. Queues are to be started again.
    pub fn reconnect(
        &mut self,
        socket: &Path,
        wanted: &Wanted,
        notes: Option<&InFlight>,
    ) -> Result<(), Error> {
        let mut session = Session::connect(socket)?;
        session.negotiate(wanted)?;
        session.share(&self.memory)?;
        if let Some(notes) = notes {
            session.give_notes(notes)?;
        }
        self.session = session;
        Ok(())
    }
}
