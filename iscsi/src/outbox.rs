//! What is to be sent: encoded bytes, and places of payload that stays where it is.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use crate::digest::{Crc32c, Digests, crc32c};
use crate::frame::padding;
use crate::pdu::{BHS, Header, U24};

/// Bytes of the caller that a machine sends in data segments without copying them.
///
/// The slices are read only while the call lasts, and only when data digests are on. The outbox keeps the token;
/// the bytes must neither change nor go away before the outbox gives the token back.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    token: u64,
    chunks: &'a [IoSlice<'a>],
    length: u32,
}

impl<'a> Payload<'a> {
    /// Payload under the caller's own name for it. Bytes past 4 GiB - 1 are left out.
    pub fn new(token: u64, chunks: &'a [IoSlice<'a>]) -> Self {
        let length: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        Self { token, chunks, length: u32::try_from(length).unwrap_or(u32::MAX) }
    }

    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    /// Total length, in bytes.
    pub fn len(&self) -> u32 {
        self.length
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn digest(&self, range: &Range<u32>) -> [u8; 4] {
        let mut sum = Crc32c::default();
        let (mut skip, mut left) = (range.start as usize, range.len());
        for chunk in self.chunks {
            let start = skip.min(chunk.len());
            let taken = left.min(chunk.len() - start);
            sum.update(&chunk[start..start + taken]);
            skip -= start;
            left -= taken;
            if left == 0 {
                break;
            }
        }
        sum.update(&[0; 3][..padding(range.len() as u32)]);
        sum.take()
    }
}

/// The next thing to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Encoded bytes.
    Bytes(&'a [u8]),
    /// Part of a caller's payload.
    Payload {
        /// The name given to [`Payload::new`].
        token: u64,
        /// Byte range in the payload.
        range: Range<u32>,
    },
}

/// What is left of a piece.
#[derive(Debug)]
enum Span {
    /// Place among all encoded bytes since the outbox was empty.
    Bytes(Range<usize>),
    Payload {
        token: u64,
        range: Range<u32>,
        last: bool,
    },
}

impl Span {
    /// Takes `count` bytes from the front, as many as there are; returns how many.
    fn consume(&mut self, count: usize) -> usize {
        match self {
            Self::Bytes(range) => {
                let taken = count.min(range.len());
                range.start += taken;
                taken
            }
            Self::Payload { range, .. } => {
                let taken = count.min(range.len());
                range.start += taken as u32;
                taken
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Bytes(range) => range.is_empty(),
            Self::Payload { range, .. } => range.is_empty(),
        }
    }
}

/// So few bytes that are sent are not worth moving the rest.
const FEW_BYTES: usize = 64 << 10;

/// Output of the machines: a queue of [`Piece`]s, each an `iovec` for whoever owns the socket.
///
/// Its buffers are kept, so a busy connection allocates nothing, and what is sent makes room, also in an outbox that
/// never runs empty. While the kernel reads the pieces, put another outbox in its place: encoding and
/// [`advance`](Self::advance) may move the bytes. Nothing bounds an outbox but its user: stop calling `receive` while
/// [`len`](Self::len) is above what the peer deserves.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Encoded bytes, from place `start` on.
    bytes: Vec<u8>,
    start: usize,
    spans: VecDeque<Span>,
    left: usize,
}

impl Outbox {
    /// Bytes still to be sent, payloads included.
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether all is sent.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes of memory that it occupies, payloads not counted.
    pub fn footprint(&self) -> usize {
        self.bytes.capacity() + self.spans.capacity() * size_of::<Span>()
    }

    /// Gives its memory back if there is nothing to send.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// What is to be sent, in order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        self.spans.iter().filter(|span| !span.is_empty()).map(|span| match span {
            Span::Bytes(range) => Piece::Bytes(&self.bytes[range.start - self.start..range.end - self.start]),
            Span::Payload { token, range, .. } => Piece::Payload { token: *token, range: range.clone() },
        })
    }

    /// Takes note that the first `count` bytes are sent. `released` gets the token of every payload that is not
    /// needed any more.
    ///
    /// # Panics
    /// If `count` is more than [`len`](Self::len).
    pub fn advance(&mut self, mut count: usize, mut released: impl FnMut(u64)) {
        self.left = self.left.checked_sub(count).expect("no more is sent than was to be sent");
        while let Some(span) = self.spans.front_mut() {
            count -= span.consume(count);
            if !span.is_empty() {
                break;
            }
            if let Some(Span::Payload { token, last: true, .. }) = self.spans.pop_front() {
                released(token);
            }
        }
        self.reclaim();
    }

    /// Takes back the room of bytes that are sent.
    fn reclaim(&mut self) {
        let first = self.spans.iter().find_map(|span| match span {
            Span::Bytes(range) => Some(range.start),
            Span::Payload { .. } => None,
        });
        match first {
            None => {
                self.bytes.clear();
                self.start = 0;
            }
            Some(first) if first - self.start >= FEW_BYTES.max(self.bytes.len() / 2) => {
                self.bytes.drain(..first - self.start);
                self.start = first;
            }
            Some(_) => {}
        }
    }

    /// Forgets everything; `released` gets the tokens of the payloads.
    pub fn clear(&mut self, released: impl FnMut(u64)) {
        self.advance(self.left, released);
    }

    /// Appends a PDU whose data segment is copied. Fills in the lengths of `header`.
    pub(crate) fn pdu(
        &mut self,
        digests: Digests,
        header: impl Into<[u8; BHS]>,
        additional: &[u8],
        data: &[u8],
    ) {
        self.header(digests, header.into(), additional, data.len() as u32);
        if data.is_empty() {
            return;
        }
        let from = self.bytes.len();
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len() + padding(data.len() as u32), 0);
        if digests.data {
            let digest = crc32c(&self.bytes[from..]);
            self.bytes.extend_from_slice(&digest);
        }
        self.close_bytes(from);
    }

    /// Appends a PDU whose data segment is a part of `payload`; `last`: the payload is not needed after it.
    pub(crate) fn pdu_with_payload(
        &mut self,
        digests: Digests,
        header: impl Into<[u8; BHS]>,
        additional: &[u8],
        (payload, range, last): (&Payload<'_>, Range<u32>, bool),
    ) {
        let length = range.len() as u32;
        self.header(digests, header.into(), additional, length);
        let from = self.bytes.len();
        self.bytes.resize(from + padding(length), 0);
        if digests.data && length > 0 {
            let digest = payload.digest(&range);
            self.bytes.extend_from_slice(&digest);
        }
        self.left += range.len();
        self.spans.push_back(Span::Payload { token: payload.token, range, last });
        self.close_bytes(from);
    }

    /// Gives a payload back once everything before is sent.
    pub(crate) fn release(&mut self, token: u64) {
        self.spans.push_back(Span::Payload { token, range: 0..0, last: true });
    }

    fn header(&mut self, digests: Digests, mut header: [u8; BHS], additional: &[u8], length: u32) {
        debug_assert_eq!(additional.len() % 4, 0);
        let common: &mut Header = zerocopy::transmute_mut!(&mut header);
        common.total_ahs_length = (additional.len() / 4) as u8;
        common.data_segment_length = U24::from(length);
        let from = self.bytes.len();
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(additional);
        if digests.header {
            let digest = crc32c(&self.bytes[from..]);
            self.bytes.extend_from_slice(&digest);
        }
        self.close_bytes(from);
    }

    /// Makes a span of the bytes from index `from` on.
    fn close_bytes(&mut self, from: usize) {
        let (start, end) = (self.start + from, self.start + self.bytes.len());
        self.left += end - start;
        match self.spans.back_mut() {
            Some(Span::Bytes(last)) if last.end == start => last.end = end,
            _ if start < end => self.spans.push_back(Span::Bytes(start..end)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::NopOut;

    const BOTH: Digests = Digests { header: true, data: true };

    fn flatten(out: &Outbox, payload: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        for piece in out.pieces() {
            match piece {
                Piece::Bytes(bytes) => wire.extend(bytes),
                Piece::Payload { range, .. } => {
                    wire.extend(&payload[range.start as usize..range.end as usize])
                }
            }
        }
        assert_eq!(wire.len(), out.len());
        wire
    }

    #[test]
    fn payload_in_slices_gives_the_same_wire_bytes() {
        let data: Vec<u8> = (0..100).collect();
        for cut in [0, 1, 40, 99, 100] {
            let chunks = [IoSlice::new(&data[..cut]), IoSlice::new(&[]), IoSlice::new(&data[cut..])];
            for range in [0..100, 3..42, 41..98, 7..7] {
                let mut copied = Outbox::default();
                let bytes = &data[range.start as usize..range.end as usize];
                copied.pdu(BOTH, NopOut::default(), &[1, 2, 3, 4], bytes);
                let mut placed = Outbox::default();
                let segment = (&Payload::new(5, &chunks), range, true);
                placed.pdu_with_payload(BOTH, NopOut::default(), &[1, 2, 3, 4], segment);
                assert_eq!(flatten(&copied, &[]), flatten(&placed, &data));
            }
        }
    }

    #[test]
    fn what_is_sent_makes_room_in_an_outbox_that_is_never_empty() {
        let data = [7; 10];
        let chunks = [IoSlice::new(&data)];
        let payload = Payload::new(5, &chunks);
        let mut out = Outbox::default();
        out.pdu(Digests::default(), NopOut::default(), &[], &[9; 4096]);
        for round in 0..10_000u32 {
            let header = NopOut { task_tag: round.into(), ..NopOut::default() };
            out.pdu(Digests::default(), header, &[], &[9; 4096]);
            if round % 3 == 0 {
                out.pdu_with_payload(Digests::default(), NopOut::default(), &[], (&payload, 0..10, true));
            }
            out.advance(out.len() - 1000, |_| ());
            assert_eq!(out.len(), 1000);
            assert_eq!(out.pieces().map(|piece| piece_len(&piece)).sum::<usize>(), 1000);
        }
        assert!(out.bytes.capacity() < 1 << 20 && out.spans.capacity() < 1000, "{}", out.bytes.capacity());
    }

    #[test]
    fn memory_is_given_back_when_there_is_nothing_to_send() {
        let mut out = Outbox::default();
        out.pdu(Digests::default(), NopOut::default(), &[], &[9; 4096]);
        out.advance(1000, |_| ());
        out.shrink();
        assert!(out.len() == 4096 + 48 - 1000 && out.footprint() >= 4096 + 48);
        out.advance(out.len(), |_| ());
        out.shrink();
        assert_eq!(out.footprint(), 0);
    }

    fn piece_len(piece: &Piece<'_>) -> usize {
        match piece {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Payload { range, .. } => range.len(),
        }
    }

    #[test]
    fn tokens_come_back_when_their_bytes_are_sent() {
        let data = [7; 10];
        let chunks = [IoSlice::new(&data)];
        let payload = Payload::new(5, &chunks);
        for step in 1..200 {
            let mut out = Outbox::default();
            out.release(4);
            out.pdu_with_payload(Digests::default(), NopOut::default(), &[], (&payload, 0..5, false));
            out.pdu_with_payload(Digests::default(), NopOut::default(), &[], (&payload, 5..10, true));
            out.pdu(Digests::default(), NopOut::default(), &[], b"ping");
            let whole = flatten(&out, &data);
            let mut released = Vec::new();
            let mut sent = 0;
            while !out.is_empty() {
                let count = step.min(out.len());
                sent += count;
                out.advance(count, |token| released.push(token));
                assert_eq!(flatten(&out, &data), whole[sent..]);
                assert_eq!(released.contains(&5), sent >= 48 + 8 + 48 + 5);
            }
            assert_eq!(released, [4, 5]);
        }
    }
}
