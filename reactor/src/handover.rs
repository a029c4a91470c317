//! File operations of one reactor that threads carry out.

use crate::crew::{Crew, Work};
use crate::lanes::{Lanes, Queue};
use crate::transfer::Transfer;
use lunette_store::{FileOp, IoId, ReactorId, Submit};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most transfers that are kept for later.
const MOST_SPARE: usize = 256;

/// Gives operations to crews, within bounds, and takes them back.
pub(crate) struct Handover {
    reactor: ReactorId,
    most: u32,
    under_way: u32,
    /// Few, and looked up for each operation.
    queues: BTreeMap<Queue, Used>,
    /// Transfers of no use now, with room for their lists.
    spare: Vec<Transfer>,
}

struct Used {
    crew: Arc<Crew>,
    under_way: u32,
}

impl Handover {
    /// At most `most` operations are under way at a time.
    pub(crate) fn new(reactor: ReactorId, most: u32) -> Self {
        Self { reactor, most, under_way: 0, queues: BTreeMap::new(), spare: Vec::new() }
    }

    /// Has a thread of `queue` carry out `op`. A queue may have as many under way as it leaves: half of all if it is the
    /// only one, and however many stall, there is room for another.
    pub(crate) fn submit(&mut self, lanes: &Lanes, queue: Queue, op: FileOp<'_>, id: IoId) -> Submit {
        let used = self.queues.entry(queue).or_insert_with(|| Used { crew: lanes.crew(queue), under_way: 0 });
        if used.under_way >= self.most - self.under_way {
            return Submit::Full;
        }
        let mut transfer = self.spare.pop().unwrap_or_else(Transfer::idle);
        transfer.start(op, id);
        transfer.queue = Some(queue);
        match used.crew.submit(self.reactor, Work::Transfer(transfer)) {
            Ok(()) => {
                used.under_way += 1;
                self.under_way += 1;
                Submit::Queued
            }
            // There is no thread for it. It was not tried, so it has not failed either.
            Err(_) => Submit::Full,
        }
    }

    /// A thread has carried it out; returns whose it was.
    pub(crate) fn take_back(&mut self, mut transfer: Transfer) -> IoId {
        self.under_way -= 1;
        if let Some(used) = transfer.queue.take().and_then(|queue| self.queues.get_mut(&queue)) {
            used.under_way -= 1;
        }
        let id = transfer.id;
        if self.spare.len() < MOST_SPARE {
            transfer.end();
            self.spare.push(transfer);
        }
        id
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crew::tests::company;
    use lunette_store::SinkId;
    use std::time::Duration;

    #[test]
    fn queues_that_stall_leave_room_for_another() {
        let lanes = Lanes::new(1, Arc::into_inner(company(Duration::MAX)).unwrap());
        let mut handover = Handover::new(ReactorId(0), 64);
        // Nothing is taken back.
        let id = IoId { sink: SinkId(1), token: 0 };
        let mut submit = |number| handover.submit(&lanes, Queue::Lane(number), FileOp::Sync { fd: -1 }, id);
        let queued = |number| (0..).take_while(|_| submit(number) == Submit::Queued).count();
        let counts: Vec<usize> = (0..7).map(queued).collect();
        assert_eq!(counts, [32, 16, 8, 4, 2, 1, 1]);
        lanes.close();
    }

    #[test]
    fn what_is_kept_for_later_is_bounded() {
        let mut handover = Handover::new(ReactorId(0), 2048);
        handover.under_way = 2048;
        for token in 0..2048 {
            let mut transfer = Transfer::idle();
            transfer.start(FileOp::Sync { fd: -1 }, IoId { sink: SinkId(1), token });
            assert_eq!(handover.take_back(transfer).token, token);
        }
        assert!(handover.is_idle());
        assert_eq!(handover.spare.len(), MOST_SPARE);
    }
}
