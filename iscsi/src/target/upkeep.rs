//! What an owner asks now and then, to find peers that are too slow or occupy too much.

use super::{Connection, Login, Session, TaskId};

impl Login {
    /// Bytes of memory that its buffers occupy.
    pub fn footprint(&self) -> usize {
        self.text.capacity()
    }
}

impl Connection {
    /// The number, among all, of the PDU of which a part has come, but not the whole. Modulo 2³².
    pub fn unfinished(&self) -> Option<u32> {
        self.framer.unfinished()
    }

    /// Bytes of memory that its buffers occupy, beside a few hundred.
    pub fn footprint(&self) -> usize {
        self.segment.capacity() + self.text.footprint()
    }

    /// For a connection that has been idle for long: gives back what the next requests need not find, the rest of an answer
    /// to a text request included. It is rejected when the initiator asks for that after all.
    pub fn shrink(&mut self) {
        if self.unfinished().is_none() {
            self.segment = Vec::new();
        }
        self.text.reset();
    }

    /// For a connection that is over: gives back everything. It must not receive any more.
    pub fn drop_buffers(&mut self) {
        self.segment = Vec::new();
        self.text.reset();
    }
}

impl Session {
    /// Bytes of data-out that are still to come for a command: those that come without R2T, and all that it needs once
    /// [`Connection::request_data`] has said how many that are.
    pub fn data_left(&self, task: TaskId) -> u32 {
        self.tasks.get(task).map_or(0, |task| task.write.left())
    }
}
