//! A guest's virtio-scsi driver (VIRTIO 1.2, 5.6).

mod control;

use std::collections::VecDeque;
use std::path::Path;

use lunette_vhost_user::Features;

use crate::error::{Error, Violation};
use crate::memory::{GuestMemory, Piece, View};
use crate::monitor::{Monitor, Waiting};
use crate::ring::{DESCRIPTOR, Element, Form, Used};
use crate::session::Wanted;
use crate::wire::{Command, Response, Sizes};

use control::{Control, Events};

/// How a driver is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Features; RING_PACKED among them makes all rings packed.
    pub wanted: Wanted,
    /// Request queues.
    pub request_queues: u16,
    /// Descriptors of each ring.
    pub queue_size: u16,
    /// Commands that each request queue holds at a time.
    pub slots: u16,
    /// Bytes of data that each command has a buffer of its own for.
    pub room: usize,
    /// How requests are described, if INDIRECT_DESC was negotiated; they are chained otherwise.
    pub form: Form,
    /// Most elements of a request with an indirect table.
    pub elements: usize,
    /// How the driver learns of used buffers.
    pub waiting: Waiting,
    /// Buffers for events that the driver begins with.
    pub events: u16,
    /// Sizes to choose through the configuration space, unless they are the usual ones.
    pub sizes: Sizes,
    /// Whether responses are judged as well as rings. If not, what a device has not written is what was there before.
    pub strict: bool,
    /// Bytes of guest memory beyond what the driver needs itself.
    pub spare: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            wanted: Wanted::default(),
            request_queues: 1,
            queue_size: 128,
            slots: 32,
            room: 64 << 10,
            form: Form::Indirect,
            elements: 8,
            waiting: Waiting::Interrupt,
            events: 8,
            sizes: Sizes::default(),
            strict: true,
            spare: 0,
        }
    }
}

impl Options {
    /// Guest memory that the driver takes.
    pub fn memory(&self) -> usize {
        let ring = usize::from(self.queue_size) * (26 + self.elements * DESCRIPTOR) + (16 << 10);
        let slots = usize::from(self.slots) * (Layout::new(self.sizes).stride + self.room) + (8 << 10);
        let queues = usize::from(self.request_queues);
        ((queues + 2) * ring + queues * slots + (64 << 10) + self.spare).next_multiple_of(4096)
    }
}

/// Where a slot has its request and its response.
#[derive(Clone, Copy)]
struct Layout {
    response: usize,
    stride: usize,
}

impl Layout {
    fn new(sizes: Sizes) -> Self {
        let response = sizes.request().next_multiple_of(64);
        Self { response, stride: response + sizes.response().next_multiple_of(64) }
    }
}

/// The data of a command, in pieces of guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Data<'a> {
    /// What the device reads.
    pub data_out: &'a [Piece],
    /// What the device writes.
    pub data_in: &'a [Piece],
}

/// A command that has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Its slot.
    pub slot: u16,
    /// Response code.
    pub response: u8,
    /// SCSI status.
    pub status: u8,
    /// Status qualifier.
    pub qualifier: u16,
    /// Bytes of data that were not transferred.
    pub residual: u32,
    /// Bytes of sense data.
    pub sense_length: u32,
    /// Bytes that the device says it has written, response included.
    pub used: u32,
}

/// A command that has come back, with all it brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Response code.
    pub response: u8,
    /// SCSI status.
    pub status: u8,
    /// Bytes of data that were not transferred.
    pub residual: u32,
    /// Bytes that the device says it has written, response included.
    pub used: u32,
    /// Sense data.
    pub sense: Vec<u8>,
    /// The whole of the data-in buffer; [`CANARY`] where the device has written nothing.
    pub data: Vec<u8>,
}

/// What data-in buffers hold before.
pub const CANARY: u8 = 0xa5;

/// A request queue's slots.
struct Requests {
    headers: View,
    data: View,
    /// Bytes of data-out and data-in of the command in each slot.
    sent: Box<[Option<(u64, u64)>]>,
    /// Came back while another one was waited for.
    early: VecDeque<Completion>,
}

/// A driver: control queue, event queue, request queues.
///
/// Request queues are counted from 0. Each has slots; a slot holds a command and has a data buffer of its own. Commands
/// and their completions take no allocation: [`submit`](Self::submit), [`flush`](Self::flush), [`poll`](Self::poll),
/// [`wait`](Self::wait). For tests, [`execute`](Self::execute) does all of it.
pub struct ScsiDriver {
    /// Session, memory and queues.
    pub monitor: Monitor,
    options: Options,
    layout: Layout,
    control: Control,
    events: Events,
    requests: Vec<Requests>,
    elements: Vec<Element>,
}

/// Queues before the request queues.
const FIRST: u16 = 2;

impl ScsiDriver {
    /// Connects with memory of its own, and starts all queues.
    pub fn connect(socket: &Path, options: &Options) -> Result<Self, Error> {
        Self::connect_with(socket, GuestMemory::with_size(options.memory())?, options)
    }

    /// The same with memory that is there already.
    pub fn connect_with(socket: &Path, memory: GuestMemory, options: &Options) -> Result<Self, Error> {
        let mut driver = Self::new(Monitor::connect(socket, memory, &options.wanted)?, options)?;
        driver.start()?;
        Ok(driver)
    }

    /// Sets a driver up whose queues are not started.
    pub fn new(mut monitor: Monitor, options: &Options) -> Result<Self, Error> {
        if options.sizes != Sizes::default() {
            let Sizes { cdb, sense } = options.sizes;
            monitor.session.set_config(Sizes::SENSE_SIZE, &u32::from(sense).to_le_bytes())?;
            monitor.session.set_config(Sizes::CDB_SIZE, &u32::from(cdb).to_le_bytes())?;
        }
        let indirect = monitor.session.features().contains(Features::INDIRECT_DESC);
        let form = if indirect { options.form } else { Form::Chained };
        let options = Options { form, ..*options };
        for _ in 0..FIRST + options.request_queues {
            monitor.add_queue(options.queue_size, options.elements)?;
        }
        let layout = Layout::new(options.sizes);
        let slots = usize::from(options.slots);
        let mut requests = Vec::new();
        for _ in 0..options.request_queues {
            requests.push(Requests {
                headers: monitor.memory.allocate(slots * layout.stride, 64)?,
                data: monitor.memory.allocate(slots * options.room, 4096)?,
                sent: vec![None; slots].into(),
                early: VecDeque::new(),
            });
        }
        let control = Control::new(&mut monitor.memory)?;
        let events = Events::new(&mut monitor.memory)?;
        Ok(Self { monitor, options, layout, control, events, requests, elements: Vec::new() })
    }

    /// Starts all queues and gives the device buffers for events.
    pub fn start(&mut self) -> Result<(), Error> {
        for index in 0..self.monitor.queue_count() {
            if self.options.waiting == Waiting::Poll {
                self.monitor.queue_mut(index).ring_mut().want_no_calls();
            }
            self.monitor.start(index)?;
        }
        (0..self.options.events).try_for_each(|_| self.post_event_buffer())
    }

    /// The options, as far as the device allowed.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The number of a request queue among all queues.
    pub fn index(&self, queue: u16) -> u16 {
        FIRST + queue
    }

    /// The guest address of a slot's data buffer.
    pub fn data(&self, queue: u16, slot: u16) -> View {
        let room = self.options.room;
        self.requests[usize::from(queue)].data.part(usize::from(slot) * room, room)
    }

    /// All data buffers of a request queue, one after the other.
    pub fn all_data(&self, queue: u16) -> &View {
        &self.requests[usize::from(queue)].data
    }

    /// A slot that holds no command.
    pub fn free_slot(&self, queue: u16) -> Option<u16> {
        let free = self.requests[usize::from(queue)].sent.iter().position(Option::is_none);
        free.map(|slot| slot as u16)
    }

    /// Commands that the device has.
    pub fn outstanding(&self, queue: u16) -> usize {
        self.requests[usize::from(queue)].sent.iter().flatten().count()
    }

    /// Puts a command into a free slot. It leaves with [`flush`](Self::flush).
    pub fn submit(
        &mut self,
        queue: u16,
        slot: u16,
        command: &Command<'_>,
        data: &Data<'_>,
    ) -> Result<(), Error> {
        let Self { options, layout, requests, elements, monitor, .. } = self;
        let requests = &mut requests[usize::from(queue)];
        let sent = &mut requests.sent[usize::from(slot)];
        assert!(sent.is_none(), "slot {slot} holds a command");
        let request = usize::from(slot) * layout.stride;
        let response = request + layout.response;
        command.store(&requests.headers, request, options.sizes);
        if options.strict {
            Response::clear(&requests.headers, response);
        }
        let header = |offset: usize, length: usize, writable| Element {
            address: requests.headers.address() + offset as u64,
            length: length as u32,
            writable,
        };
        let element =
            |piece: &Piece, writable| Element { address: piece.address, length: piece.length, writable };
        elements.clear();
        elements.push(header(request, options.sizes.request(), false));
        elements.extend(data.data_out.iter().map(|piece| element(piece, false)));
        elements.push(header(response, options.sizes.response(), true));
        elements.extend(data.data_in.iter().map(|piece| element(piece, true)));
        monitor.queue_mut(FIRST + queue).push(slot, elements, options.form)?;
        let length = |pieces: &[Piece]| pieces.iter().map(|piece| u64::from(piece.length)).sum();
        *sent = Some((length(data.data_out), length(data.data_in)));
        Ok(())
    }

    /// Shows the device what was submitted, and kicks it if it wants that.
    pub fn flush(&mut self, queue: u16) -> Result<(), Error> {
        self.monitor.queue_mut(FIRST + queue).flush()
    }

    /// Takes a command that has come back.
    pub fn poll(&mut self, queue: u16) -> Result<Option<Completion>, Error> {
        if let Some(completion) = self.requests[usize::from(queue)].early.pop_front() {
            return Ok(Some(completion));
        }
        self.pop(queue)
    }

    fn pop(&mut self, queue: u16) -> Result<Option<Completion>, Error> {
        let Some(Used { token, length }) = self.monitor.queue_mut(FIRST + queue).pop()? else {
            return Ok(None);
        };
        let requests = &mut self.requests[usize::from(queue)];
        let response = usize::from(token) * self.layout.stride + self.layout.response;
        let Response { sense_length, residual, qualifier, status, response } =
            Response::load(&requests.headers, response);
        let completion =
            Completion { slot: token, response, status, qualifier, residual, sense_length, used: length };
        let sent = requests.sent.get_mut(usize::from(token)).and_then(Option::take);
        let (data_out, data_in) = sent.unwrap_or_default();
        if self.options.strict {
            judge(&completion, self.options.sizes, data_out, data_in)
                .map_err(|violation| self.monitor.queue(FIRST + queue).violation(violation))?;
        }
        Ok(Some(completion))
    }

    /// Waits for a command of any request queue to come back.
    pub fn wait_any(&mut self) -> Result<(), Error> {
        if self.requests.iter().any(|requests| !requests.early.is_empty()) {
            return Ok(());
        }
        self.monitor.wait(FIRST..self.monitor.queue_count(), self.options.waiting)
    }

    /// Waits for a command to come back.
    pub fn wait(&mut self, queue: u16) -> Result<Completion, Error> {
        loop {
            if let Some(completion) = self.poll(queue)? {
                return Ok(completion);
            }
            self.monitor.wait(FIRST + queue..FIRST + queue + 1, self.options.waiting)?;
        }
    }

    /// Waits for the command in a slot to come back. Others that do are kept for later.
    pub fn wait_for(&mut self, queue: u16, slot: u16) -> Result<Completion, Error> {
        let early = &mut self.requests[usize::from(queue)].early;
        if let Some(found) = early.iter().position(|completion| completion.slot == slot) {
            return Ok(early.remove(found).expect("it was found there"));
        }
        loop {
            match self.pop(queue)? {
                Some(completion) if completion.slot == slot => return Ok(completion),
                Some(completion) => self.requests[usize::from(queue)].early.push_back(completion),
                None => self.monitor.wait(FIRST + queue..FIRST + queue + 1, self.options.waiting)?,
            }
        }
    }

    /// The sense data of a command that has come back. Its slot must not have been used since.
    pub fn sense(&self, queue: u16, completion: &Completion) -> Vec<u8> {
        let response = usize::from(completion.slot) * self.layout.stride + self.layout.response;
        let length = (completion.sense_length as usize).min(self.options.sizes.sense.into());
        self.requests[usize::from(queue)].headers.bytes(response + Response::sense_offset(), length)
    }

    /// Sends a command with the data buffer of a free slot; the slot. The data-in buffer, which follows data-out, is filled
    /// with [`CANARY`].
    pub fn send(
        &mut self,
        queue: u16,
        command: &Command<'_>,
        data_out: &[u8],
        data_in: usize,
    ) -> Result<u16, Error> {
        let slot = self.free_slot(queue).ok_or(Error::Full { free: 0, needed: 1 })?;
        let buffer = self.data(queue, slot);
        buffer.write(0, data_out);
        buffer.part(data_out.len(), data_in).fill(CANARY);
        let piece = |offset: usize, length: usize| Piece {
            address: buffer.address() + offset as u64,
            length: length as u32,
        };
        let (out, input) = ([piece(0, data_out.len())], [piece(data_out.len(), data_in)]);
        let data = Data {
            data_out: if data_out.is_empty() { &[] } else { &out },
            data_in: if data_in == 0 { &[] } else { &input },
        };
        self.submit(queue, slot, command, &data)?;
        self.flush(queue)?;
        Ok(slot)
    }

    /// Sends a command and waits for it.
    pub fn execute(
        &mut self,
        queue: u16,
        command: &Command<'_>,
        data_out: &[u8],
        data_in: usize,
    ) -> Result<Answer, Error> {
        let slot = self.send(queue, command, data_out, data_in)?;
        let completion = self.wait_for(queue, slot)?;
        let Completion { response, status, residual, used, .. } = completion;
        Ok(Answer {
            response,
            status,
            residual,
            used,
            sense: self.sense(queue, &completion),
            data: self.data(queue, slot).bytes(data_out.len(), data_in),
        })
    }

    /// Stops a request queue and takes what came back; where it stood. Commands that the device has not looked at stay in
    /// the ring until the queue is started again.
    pub fn stop(&mut self, queue: u16) -> Result<u32, Error> {
        let base = self.monitor.stop(FIRST + queue)?;
        while let Some(completion) = self.pop(queue)? {
            self.requests[usize::from(queue)].early.push_back(completion);
        }
        let stopped = self.monitor.queue(FIRST + queue);
        stopped.ring().check_base(base).map_err(|violation| stopped.violation(violation))?;
        Ok(base)
    }

    /// Starts a request queue where it was stopped.
    pub fn resume(&mut self, queue: u16) -> Result<(), Error> {
        self.monitor.start(FIRST + queue)
    }

    /// Forgets what a stopped request queue holds, and starts it with an empty ring.
    pub fn restart(&mut self, queue: u16) -> Result<(), Error> {
        let requests = &mut self.requests[usize::from(queue)];
        requests.sent.fill(None);
        requests.early.clear();
        let ring = self.monitor.queue_mut(FIRST + queue).ring_mut();
        ring.reset(0);
        if self.options.waiting == Waiting::Poll {
            ring.want_no_calls();
        }
        self.monitor.start(FIRST + queue)
    }
}

/// What a response cannot say (5.6.6.1).
fn judge(completion: &Completion, sizes: Sizes, data_out: u64, data_in: u64) -> Result<(), Violation> {
    let Completion { response, status, residual, sense_length, used, .. } = *completion;
    let limit = |what, value: u64, most: u64| match value <= most {
        true => Ok(()),
        false => Err(Violation::Response { what, value, most }),
    };
    limit("the response code", response.into(), 9)?;
    limit("the sense length", sense_length.into(), sizes.sense.into())?;
    limit("the residual", residual.into(), data_out + data_in)?;
    if used < Response::LEAST + sense_length {
        return Err(Violation::Residual { used, expected: u64::from(Response::LEAST + sense_length) });
    }
    // What was written is the response and, behind all of its field, the data. Of a command with data both ways, the
    // residual does not tell which of them is missing.
    if response == crate::wire::response::OK && status == 0 && data_out == 0 && data_in > u64::from(residual)
    {
        let expected = sizes.response() as u64 + data_in - u64::from(residual);
        if u64::from(used) != expected {
            return Err(Violation::Residual { used, expected });
        }
    }
    Ok(())
}
