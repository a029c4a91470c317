//! Cuts the byte stream into PDUs. Headers are gathered, data segments pass through untouched.

use crate::digest::{Crc32c, Digests, crc32c};
use crate::error::Error;
use crate::limits::MAX_AHS;
use crate::pdu::{BHS, Header};

const DIGEST: usize = 4;

/// What the next input bytes were.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// Nothing whole: more input is needed.
    More,
    /// The header is complete, see [`Framer::bhs`].
    Header,
    /// The next piece of the data segment.
    Data(&'a [u8]),
    /// The data segment is complete. Never comes for an empty one.
    End { digest_ok: bool },
}

#[derive(Clone, Copy, Debug)]
enum State {
    Header,
    Data { left: usize },
    Trailer,
}

#[derive(Debug)]
pub(crate) struct Framer {
    state: State,
    /// BHS, additional header segments, header digest.
    header: [u8; Self::LONGEST_HEADER],
    /// Bytes gathered in `header` or `trailer`.
    have: usize,
    /// Padding and data digest.
    trailer: [u8; 3 + DIGEST],
    digests: Digests,
    data_sum: Crc32c,
    max_data: u32,
    /// PDUs that have come whole, modulo 2³².
    whole: u32,
}

impl Framer {
    /// Most bytes of a header, with its digest.
    pub(crate) const LONGEST_HEADER: usize = BHS + MAX_AHS + DIGEST;

    pub(crate) fn new(max_data: u32) -> Self {
        Self {
            state: State::Header,
            header: [0; Self::LONGEST_HEADER],
            have: 0,
            trailer: [0; 3 + DIGEST],
            digests: Digests::default(),
            data_sum: Crc32c::default(),
            max_data,
            whole: 0,
        }
    }

    pub(crate) fn set_digests(&mut self, digests: Digests) {
        self.digests = digests;
    }

    /// The basic header segment of the PDU being received.
    pub(crate) fn bhs(&self) -> &[u8; BHS] {
        self.header.first_chunk().expect("the buffer is longer")
    }

    pub(crate) fn common(&self) -> &Header {
        self.bhs().as_ref()
    }

    pub(crate) fn additional(&self) -> &[u8] {
        &self.header[BHS..BHS + usize::from(self.common().total_ahs_length) * 4]
    }

    pub(crate) fn data_length(&self) -> u32 {
        self.common().data_segment_length.get()
    }

    /// Bytes of the data segment still to come; they are the next bytes of the stream.
    pub(crate) fn data_left(&self) -> usize {
        match self.state {
            State::Data { left } => left,
            State::Header | State::Trailer => 0,
        }
    }

    /// The number of the PDU of which a part has come, but not the whole.
    pub(crate) fn unfinished(&self) -> Option<u32> {
        (self.have > 0 || !matches!(self.state, State::Header)).then_some(self.whole)
    }

    /// What has come of a header; `None` if more than that has come of a PDU.
    pub(crate) fn begun(&self) -> Option<&[u8]> {
        matches!(self.state, State::Header).then(|| &self.header[..self.have])
    }

    /// Longest data segment that is taken.
    pub(crate) fn max_data(&self) -> u32 {
        self.max_data
    }

    /// Consumes the next part; returns how many bytes that took.
    pub(crate) fn step<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Part<'a>), Error> {
        match self.state {
            State::Header => self.gather_header(input),
            State::Data { left } => {
                let piece = &input[..left.min(input.len())];
                if piece.is_empty() {
                    return Ok((0, Part::More));
                }
                if self.digests.data {
                    self.data_sum.update(piece);
                }
                self.state = match left - piece.len() {
                    0 => State::Trailer,
                    left => State::Data { left },
                };
                Ok((piece.len(), Part::Data(piece)))
            }
            State::Trailer => self.gather_trailer(input),
        }
    }

    fn gather_header<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Part<'a>), Error> {
        let mut used = 0;
        if self.have < BHS {
            used = gather(&mut self.header[..BHS], &mut self.have, input);
        }
        if self.have < BHS {
            return Ok((used, Part::More));
        }
        let additional = usize::from(self.common().total_ahs_length) * 4;
        if additional > MAX_AHS {
            return Err(Error::HeaderTooLong { length: additional, limit: MAX_AHS });
        }
        let signed = BHS + additional;
        let total = signed + if self.digests.header { DIGEST } else { 0 };
        used += gather(&mut self.header[..total], &mut self.have, &input[used..]);
        if self.have < total {
            return Ok((used, Part::More));
        }
        if self.digests.header && self.header[signed..total] != crc32c(&self.header[..signed]) {
            return Err(Error::HeaderDigest);
        }
        let length = self.data_length();
        if length > self.max_data {
            return Err(Error::DataSegmentTooLong { length, limit: self.max_data });
        }
        self.have = 0;
        if length > 0 {
            self.state = State::Data { left: length as usize };
        } else {
            self.whole = self.whole.wrapping_add(1);
        }
        Ok((used, Part::Header))
    }

    fn gather_trailer<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Part<'a>), Error> {
        let padding = padding(self.data_length());
        let total = padding + if self.digests.data { DIGEST } else { 0 };
        let used = gather(&mut self.trailer[..total], &mut self.have, input);
        if self.have < total {
            return Ok((used, Part::More));
        }
        let mut digest_ok = true;
        if self.digests.data {
            self.data_sum.update(&self.trailer[..padding]);
            digest_ok = self.data_sum.take() == self.trailer[padding..total];
        }
        self.have = 0;
        self.state = State::Header;
        self.whole = self.whole.wrapping_add(1);
        Ok((used, Part::End { digest_ok }))
    }
}

/// Bytes that follow a data segment up to the next multiple of four.
pub(crate) fn padding(length: u32) -> usize {
    (length.wrapping_neg() & 3) as usize
}

/// Fills `buffer` from `have` on; returns how much of `input` that took.
fn gather(buffer: &mut [u8], have: &mut usize, input: &[u8]) -> usize {
    let wanted = &mut buffer[*have..];
    let taken = wanted.len().min(input.len());
    wanted[..taken].copy_from_slice(&input[..taken]);
    *have += taken;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::{Outbox, Piece};
    use crate::pdu::NopOut;

    fn wire(digests: Digests, data: &[u8]) -> Vec<u8> {
        let mut out = Outbox::default();
        out.pdu(digests, NopOut::default(), &[], data);
        let pieces = out.pieces().map(|piece| match piece {
            Piece::Bytes(bytes) => bytes,
            Piece::Payload { .. } => unreachable!(),
        });
        pieces.flatten().copied().collect()
    }

    /// Data and digest verdicts of every PDU, for any cut of the stream.
    fn receive(framer: &mut Framer, wire: &[u8], cut: usize) -> Result<Vec<(Vec<u8>, bool)>, Error> {
        let mut pdus = Vec::new();
        let mut data = Vec::new();
        for mut input in wire.chunks(cut) {
            loop {
                let (used, part) = framer.step(input)?;
                input = &input[used..];
                match part {
                    Part::More => break,
                    Part::Header if framer.data_length() == 0 => pdus.push((Vec::new(), true)),
                    Part::Header => {}
                    Part::Data(piece) => data.extend(piece),
                    Part::End { digest_ok } => pdus.push((std::mem::take(&mut data), digest_ok)),
                }
            }
        }
        Ok(pdus)
    }

    #[test]
    fn any_cut_gives_the_same_pdus() {
        for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
            let digests = Digests { header, data };
            let payloads: [&[u8]; 4] = [b"", b"abcd", b"abcde", &[9; 300]];
            let stream: Vec<u8> = payloads.iter().flat_map(|data| wire(digests, data)).collect();
            for cut in [1, 2, 3, 7, 48, 52, 61, 10_000] {
                let mut framer = Framer::new(8192);
                framer.set_digests(digests);
                let pdus = receive(&mut framer, &stream, cut).unwrap();
                assert_eq!(pdus.len(), payloads.len());
                for ((data, digest_ok), payload) in pdus.iter().zip(payloads) {
                    assert_eq!((data.as_slice(), *digest_ok), (payload, true));
                }
            }
        }
    }

    #[test]
    fn a_pdu_is_unfinished_from_its_first_byte_to_its_last() {
        for data in [&b""[..], b"abcde"] {
            let digests = Digests { header: true, data: true };
            let one = wire(digests, data);
            let stream = one.repeat(3);
            let mut framer = Framer::new(8192);
            framer.set_digests(digests);
            for (at, byte) in stream.iter().enumerate() {
                assert_eq!(framer.unfinished().is_some(), !at.is_multiple_of(one.len()));
                let mut input = std::slice::from_ref(byte);
                loop {
                    let (used, part) = framer.step(input).unwrap();
                    input = &input[used..];
                    if part == Part::More {
                        break;
                    }
                }
                let number = ((at + 1) / one.len()) as u32;
                assert_eq!(framer.unfinished().unwrap_or(number), number);
            }
        }
    }

    #[test]
    fn digests_notice_every_flipped_byte() {
        let digests = Digests { header: true, data: true };
        let good = wire(digests, b"abcde");
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 0x10;
            let mut framer = Framer::new(8192);
            framer.set_digests(digests);
            match receive(&mut framer, &bad, bad.len()) {
                Err(_) => assert!(position < 52),
                Ok(pdus) => {
                    assert!(position >= 52 || pdus.is_empty(), "byte {position}");
                    assert!(pdus.iter().all(|(_, digest_ok)| !digest_ok), "byte {position}");
                }
            }
        }
    }

    #[test]
    fn limits() {
        let mut framer = Framer::new(512);
        let long = wire(Digests::default(), &[0; 513]);
        assert_eq!(framer.step(&long), Err(Error::DataSegmentTooLong { length: 513, limit: 512 }));
        let mut framer = Framer::new(512);
        let mut header = wire(Digests::default(), b"");
        header[4] = 255;
        assert_eq!(framer.step(&header), Err(Error::HeaderTooLong { length: 1020, limit: MAX_AHS }));
    }
}
