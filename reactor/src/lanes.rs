//! All threads of the program that may block.

use crate::crew::{Company, Crew};
use lunette_store::Lane;
use std::os::fd::RawFd;
use std::sync::Arc;

/// More lanes, or descriptors, than this share threads.
const LANES: usize = 256;
/// Threads for one descriptor, where the kernel has no asynchronous I/O.
const WIDTH: usize = 4;

/// Crews by what must not wait for each other.
pub(crate) struct Lanes {
    calls: Arc<Crew>,
    lanes: Box<[Arc<Crew>]>,
    descriptors: Box<[Arc<Crew>]>,
}

impl Lanes {
    /// No thread is started yet. `calls` is the number of threads for blocking calls.
    pub(crate) fn new(calls: usize, company: Company) -> Self {
        let company = Arc::new(company);
        let crew = |name: String, threads| Arc::new(Crew::new(name, threads, company.clone()));
        Self {
            calls: crew("lunette-calls".into(), calls),
            lanes: (0..LANES).map(|number| crew(format!("lunette-lane-{number}"), 1)).collect(),
            descriptors: (0..LANES).map(|number| crew(format!("lunette-file-{number}"), WIDTH)).collect(),
        }
    }

    /// The threads for blocking calls.
    pub(crate) fn calls(&self) -> &Arc<Crew> {
        &self.calls
    }

    /// The thread of a lane.
    pub(crate) fn lane(&self, lane: &Lane) -> &Arc<Crew> {
        &self.lanes[lane.number() as usize % LANES]
    }

    /// The threads for file operations on `fd`.
    pub(crate) fn descriptor(&self, fd: RawFd) -> &Arc<Crew> {
        &self.descriptors[fd as u32 as usize % LANES]
    }

    /// Ends all threads, and waits for them.
    pub(crate) fn close(&self) {
        let crews = self.lanes.iter().chain(&self.descriptors);
        crews.chain([&self.calls]).for_each(|crew| crew.close());
    }
}
