//! All threads of the program that may block.

use crate::crew::{Company, Crew};
use lunette_store::{FileOp, Lane};
use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Threads for one wide lane, and for one descriptor where the kernel has no asynchronous I/O.
const WIDTH: usize = 4;

/// What waits for nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) enum Queue {
    /// An ordered lane, by number.
    Lane(u32),
    /// A wide lane, by number.
    Wide(u32),
    /// A descriptor, where there is no io_uring.
    Descriptor(RawFd),
}

impl Queue {
    pub(crate) fn of(lane: &Lane) -> Self {
        if lane.is_wide() { Self::Wide(lane.number()) } else { Self::Lane(lane.number()) }
    }

    pub(crate) fn of_file(op: &FileOp<'_>) -> Self {
        match *op {
            FileOp::Read { fd, .. }
            | FileOp::Write { fd, .. }
            | FileOp::Sync { fd }
            | FileOp::Allocate { fd, .. } => Self::Descriptor(fd),
        }
    }

    fn threads(self) -> usize {
        match self {
            Self::Lane(_) => 1,
            Self::Wide(_) | Self::Descriptor(_) => WIDTH,
        }
    }

    /// For its threads. The kernel keeps 15 bytes.
    fn name(self) -> String {
        match self {
            Self::Lane(number) => format!("lun-lane-{number}"),
            Self::Wide(number) => format!("lun-wide-{number}"),
            Self::Descriptor(fd) => format!("lun-file-{fd}"),
        }
    }
}

/// Crews by what must not wait for each other. A crew without threads costs a few hundred bytes, and the numbers of lanes and
/// descriptors are used again, so crews are kept.
pub(crate) struct Lanes {
    company: Arc<Company>,
    calls: Arc<Crew>,
    crews: Mutex<HashMap<Queue, Arc<Crew>>>,
}

impl Lanes {
    /// No thread is started yet. `calls` is the number of threads for blocking calls.
    pub(crate) fn new(calls: usize, company: Company) -> Self {
        let company = Arc::new(company);
        let calls = Arc::new(Crew::new("lunette-calls".into(), calls, company.clone()));
        Self { company, calls, crews: Mutex::default() }
    }

    /// The threads for blocking calls.
    pub(crate) fn calls(&self) -> &Arc<Crew> {
        &self.calls
    }

    /// The threads of a queue, and of no other.
    pub(crate) fn crew(&self, queue: Queue) -> Arc<Crew> {
        let mut crews = self.crews.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Crew::new(queue.name(), queue.threads(), self.company.clone()));
        crews.entry(queue).or_insert_with(new).clone()
    }

    /// Ends all threads, and waits for them.
    pub(crate) fn close(&self) {
        let mut crews = self.crews.lock().unwrap_or_else(PoisonError::into_inner);
        crews.drain().for_each(|(_, crew)| crew.close());
        self.calls.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crew::tests::company;
    use std::time::Duration;

    #[test]
    fn no_two_queues_share_their_threads() {
        let company = Arc::into_inner(company(Duration::MAX)).unwrap();
        let lanes = Lanes::new(1, company);
        let queues = (0..1000).flat_map(|n| [Queue::Lane(n), Queue::Wide(n), Queue::Descriptor(n as RawFd)]);
        let crews: Vec<_> = queues.map(|queue| lanes.crew(queue)).collect();
        let different: std::collections::HashSet<_> = crews.iter().map(Arc::as_ptr).collect();
        assert_eq!(different.len(), crews.len());
        assert!(Arc::ptr_eq(&crews[0], &lanes.crew(Queue::Lane(0))));
    }

    #[test]
    fn a_thread_says_whose_it_is_in_what_the_kernel_keeps() {
        let queues = [
            Queue::Lane(0),
            Queue::Lane(10),
            Queue::Lane(109_999),
            Queue::Wide(109_999),
            Queue::Descriptor(109_999),
        ];
        let mut names: Vec<String> = queues.map(Queue::name).to_vec();
        assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
        names.dedup();
        assert_eq!(names.len(), queues.len());
    }
}
