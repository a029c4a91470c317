//! The control queue and the event queue.

use crate::error::{Error, Violation};
use crate::memory::{GuestMemory, View};
use crate::ring::{Element, Form, Used};
use crate::wire::{Event, Notifications, notification_request, task_management};

use super::ScsiDriver;

const CONTROL: u16 = 0;
const EVENTS: u16 = 1;

/// Requests or events that the device can have at a time.
const SLOTS: u16 = 32;
/// Bytes of each, and where in a control request's slot the response is.
const STRIDE: usize = 128;
const RESPONSE: usize = 64;

/// Requests on the control queue.
pub(super) struct Control {
    memory: View,
    slots: [State; SLOTS as usize],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Sent(usize),
    Answered(usize),
}

impl Control {
    pub(super) fn new(memory: &mut GuestMemory) -> Result<Self, Error> {
        let memory = memory.allocate(usize::from(SLOTS) * STRIDE, 64)?;
        Ok(Self { memory, slots: [State::Free; _] })
    }
}

/// Buffers for events.
pub(super) struct Events {
    memory: View,
    posted: [bool; SLOTS as usize],
}

impl Events {
    pub(super) fn new(memory: &mut GuestMemory) -> Result<Self, Error> {
        let memory = memory.allocate(usize::from(SLOTS) * STRIDE, 64)?;
        Ok(Self { memory, posted: [false; _] })
    }
}

impl ScsiDriver {
    /// Sends a request on the control queue, with room for a response; by the number returned,
    /// [`control_response`](Self::control_response) knows it.
    pub fn send_control(&mut self, request: &[u8], response: usize) -> Result<u16, Error> {
        assert!(request.len() <= RESPONSE && response <= STRIDE - RESPONSE, "control requests are short");
        let Control { memory, slots } = &mut self.control;
        let slot = slots.iter().position(|state| *state == State::Free);
        let slot = slot.ok_or(Error::Full { free: 0, needed: 1 })?;
        let at = slot * STRIDE;
        memory.write(at, request);
        memory.write(at + RESPONSE, &[0xff; STRIDE - RESPONSE]);
        let element = |offset: usize, length: usize, writable| Element {
            address: memory.address() + offset as u64,
            length: length as u32,
            writable,
        };
        let elements = [element(at, request.len(), false), element(at + RESPONSE, response, true)];
        let queue = self.monitor.queue_mut(CONTROL);
        queue.push(slot as u16, &elements, self.options.form)?;
        slots[slot] = State::Sent(response);
        queue.flush()?;
        Ok(slot as u16)
    }

    /// The response to a control request, once it has come.
    pub fn poll_control(&mut self, slot: u16) -> Result<Option<Vec<u8>>, Error> {
        while let Some(Used { token, length }) = self.monitor.queue_mut(CONTROL).pop()? {
            let state = &mut self.control.slots[usize::from(token)];
            let State::Sent(room) = *state else { unreachable!("rings give back what was sent") };
            *state = State::Answered(room);
            if self.options.strict && length as usize != room {
                let violation = Violation::Residual { used: length, expected: room as u64 };
                return Err(self.monitor.queue(CONTROL).violation(violation));
            }
        }
        let state = &mut self.control.slots[usize::from(slot)];
        let State::Answered(length) = *state else { return Ok(None) };
        *state = State::Free;
        Ok(Some(self.control.memory.bytes(usize::from(slot) * STRIDE + RESPONSE, length)))
    }

    /// Waits for the response to a control request.
    pub fn control_response(&mut self, slot: u16) -> Result<Vec<u8>, Error> {
        loop {
            if let Some(response) = self.poll_control(slot)? {
                return Ok(response);
            }
            self.monitor.wait(CONTROL..CONTROL + 1, self.options.waiting)?;
        }
    }

    /// Sends a task management function.
    pub fn send_task_management(&mut self, function: u32, lun: [u8; 8], tag: u64) -> Result<u16, Error> {
        self.send_control(&task_management(function, lun, tag), 1)
    }

    /// Sends a task management function and waits for its response code.
    pub fn manage(&mut self, function: u32, lun: [u8; 8], tag: u64) -> Result<u8, Error> {
        let slot = self.send_task_management(function, lun, tag)?;
        Ok(self.control_response(slot)?[0])
    }

    /// Asks for asynchronous notifications: which events there are, and the response code.
    pub fn notifications(
        &mut self,
        kind: Notifications,
        lun: [u8; 8],
        events: u32,
    ) -> Result<(u32, u8), Error> {
        let slot = self.send_control(&notification_request(kind, lun, events), 5)?;
        let response = self.control_response(slot)?;
        Ok((u32::from_le_bytes(response[..4].try_into().expect("of five bytes")), response[4]))
    }

    /// Gives the device one more buffer for an event.
    pub fn post_event_buffer(&mut self) -> Result<(), Error> {
        let Events { memory, posted } = &mut self.events;
        let slot = posted.iter().position(|posted| !posted);
        let slot = slot.ok_or(Error::Full { free: 0, needed: 1 })?;
        memory.write(slot * STRIDE, &[0xff; Event::SIZE]);
        let address = memory.address() + (slot * STRIDE) as u64;
        let element = Element { address, length: Event::SIZE as u32, writable: true };
        let queue = self.monitor.queue_mut(EVENTS);
        queue.push(slot as u16, &[element], Form::Chained)?;
        posted[slot] = true;
        queue.flush()
    }

    /// Takes an event, if one has come. Its buffer does not go back by itself.
    pub fn poll_event(&mut self) -> Result<Option<Event>, Error> {
        let Some(Used { token, length }) = self.monitor.queue_mut(EVENTS).pop()? else { return Ok(None) };
        self.events.posted[usize::from(token)] = false;
        if length as usize != Event::SIZE {
            let violation = Violation::Residual { used: length, expected: Event::SIZE as u64 };
            return Err(self.monitor.queue(EVENTS).violation(violation));
        }
        Ok(Some(Event::load(&self.events.memory, usize::from(token) * STRIDE)))
    }

    /// Waits for an event, and gives its buffer back to the device.
    pub fn wait_event(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.poll_event()? {
                self.post_event_buffer()?;
                return Ok(event);
            }
            self.monitor.wait(EVENTS..EVENTS + 1, self.options.waiting)?;
        }
    }
}
