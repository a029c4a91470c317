//! A pipe that changes the order of data within its sequences, as DataPDUInOrder=No lets either side do.

use super::Random;
use lunette_iscsi::digest::{Digests, crc32c};

/// A data PDU: its header without what places the data, and that.
struct Pdu {
    header: [u8; 48],
    data: Vec<u8>,
}

pub struct Scrambler {
    digests: Digests,
    random: Random,
    /// Bytes that are no whole PDU yet.
    rest: Vec<u8>,
    /// The sequence that is coming in.
    sequence: Vec<Pdu>,
}

impl Scrambler {
    /// Between PDUs of a connection in full-feature phase.
    pub fn new(digests: Digests, seed: u64) -> Self {
        Self { digests, random: Random(seed | 1), rest: Vec::new(), sequence: Vec::new() }
    }

    pub fn feed(&mut self, wire: &[u8]) -> Vec<u8> {
        self.rest.extend(wire);
        let mut out = Vec::new();
        while let Some((pdu, length)) = self.pdu() {
            let whole: Vec<u8> = self.rest.drain(..length).collect();
            let is_data = [0x05, 0x25].contains(&(pdu.header[0] & 0x3f));
            if !is_data {
                out.extend(whole);
                continue;
            }
            let last = pdu.header[1] & 0x80 != 0;
            self.sequence.push(pdu);
            if last {
                self.send_sequence(&mut out);
            }
        }
        out
    }

    fn pdu(&self) -> Option<(Pdu, usize)> {
        let header: [u8; 48] = *self.rest.first_chunk()?;
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let start = 48 + usize::from(header[4]) * 4 + if self.digests.header { 4 } else { 0 };
        let digest = if self.digests.data && length > 0 { 4 } else { 0 };
        let end = start + length.next_multiple_of(4) + digest;
        let data = self.rest.get(start..end)?[..length].to_vec();
        Some((Pdu { header, data }, end))
    }

    /// Sends the data in another order, under the same headers but for lengths and offsets.
    fn send_sequence(&mut self, out: &mut Vec<u8>) {
        let mut order: Vec<usize> = (0..self.sequence.len()).collect();
        for index in (1..order.len()).rev() {
            order.swap(index, self.random.below(index + 1));
        }
        for (from, pdu) in order.into_iter().zip(&self.sequence) {
            let (mut header, placed) = (pdu.header, &self.sequence[from]);
            header[5..8].copy_from_slice(&placed.header[5..8]);
            header[40..44].copy_from_slice(&placed.header[40..44]);
            out.extend(header);
            if self.digests.header {
                out.extend(crc32c(&header));
            }
            let start = out.len();
            out.extend(&placed.data);
            out.resize(start + placed.data.len().next_multiple_of(4), 0);
            if self.digests.data && !placed.data.is_empty() {
                out.extend(crc32c(&out[start..]));
            }
        }
        self.sequence.clear();
    }
}
