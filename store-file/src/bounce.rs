//! Direct I/O with memory that does not suit: what can go straight does, the rest takes a detour through a buffer.

use crate::job::Step;
use crate::probe::Alignment;
use lunette_store::pool::{LARGEST, Pool, PoolBuf};
use lunette_store::{IoError, IoResult, Op, Seg, Sg};

/// Segments, and runs, for which an idle bounce keeps room.
const KEPT: usize = 256;

/// A read or write on its way, step by step; most need only one. Made once and used again and again, so that its lists keep
/// their room.
pub(crate) struct Bounce {
    /// With an empty list.
    op: Op<'static>,
    theirs: Vec<Seg>,
    runs: Vec<Run>,
    /// What every detour in the buffer begins at a multiple of.
    unit: usize,
    buffer: Option<PoolBuf>,
    /// How far the steps have come that are over.
    done: u64,
    /// The detours of this step: where in the request, and where in the buffer.
    detours: Vec<(u64, Seg)>,
    /// Where in the request this step ends.
    end: u64,
}

/// A part of a request. Its position and its length are multiples of what direct I/O needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    at: u64,
    length: u64,
    /// The caller's memory if that suits.
    straight: Option<Seg>,
}

impl Default for Bounce {
    fn default() -> Self {
        Self {
            op: Op::Flush,
            theirs: Vec::new(),
            runs: Vec::new(),
            unit: 1,
            buffer: None,
            done: 0,
            detours: Vec::new(),
            end: 0,
        }
    }
}

impl Bounce {
    /// Begins `op`, a read or a write; its length is a multiple of what direct I/O needs, its memory is not as it should be.
    pub(crate) fn begin(&mut self, op: Op<'_>, need: Alignment) {
        self.theirs.extend(op.sg().iter());
        cut(op.sg(), need, &mut self.runs);
        self.unit = need.memory.max(need.offset) as usize;
        self.op = op.with_sg(Sg::empty());
        (self.done, self.end) = (0, 0);
    }

    /// Gives back the buffer, and the room of unusually long lists.
    pub(crate) fn end(&mut self) {
        self.buffer = None;
        self.theirs.clear();
        self.theirs.shrink_to(KEPT);
        self.runs.clear();
        self.runs.shrink_to(KEPT);
        self.detours.clear();
        self.detours.shrink_to(KEPT);
    }

    /// Takes the buffer that the steps need; `false` if there is none now.
    pub(crate) fn take_buffer(&mut self, pool: &Pool) -> bool {
        let detours = self.runs.iter().filter(|run| run.straight.is_none());
        let bytes: u64 = detours.map(|run| run.length.next_multiple_of(self.unit as u64)).sum();
        self.buffer = pool.take(bytes.min(LARGEST as u64) as usize);
        self.buffer.is_some()
    }

    pub(crate) const fn is_durable(&self) -> bool {
        matches!(self.op, Op::Write { durable: true, .. })
    }

    /// What to do next: as much as there is room for detours. Its memory is put into `segs`, which is empty.
    pub(crate) fn step(&mut self, segs: &mut Vec<Seg>) -> Step {
        self.plan(segs);
        let offset = self.op.range().0 + self.done;
        let Op::Write { durable, .. } = self.op else {
            return Step::Read { offset };
        };
        for (at, ours) in &self.detours {
            self.theirs_at(*at, ours.len()).copy_to(Sg::new(&[*ours]));
        }
        Step::Write { offset, durable }
    }

    /// The memory of the next step.
    fn plan(&mut self, segs: &mut Vec<Seg>) {
        let buffer = self.buffer.as_ref().expect("a buffer was taken first").seg();
        let mut used = 0;
        self.detours.clear();
        self.end = self.done;
        for run in self.runs.iter().filter_map(|run| run.after(self.done)) {
            let seg = run.straight.unwrap_or_else(|| {
                let ours = buffer.part(used, usize::try_from(run.length).unwrap_or(usize::MAX));
                used += ours.len().next_multiple_of(self.unit);
                self.detours.push((run.at, ours));
                ours
            });
            self.end += seg.len() as u64;
            segs.push(seg);
            if (seg.len() as u64) < run.length {
                break;
            }
        }
        segs.retain(|seg| !seg.is_empty());
    }

    fn theirs_at(&self, at: u64, length: usize) -> Sg<'_> {
        Sg::new(&self.theirs).part(at, length as u64)
    }

    /// Takes the result of the last step; returns that of the whole when it has ended.
    pub(crate) fn advance(&mut self, result: IoResult) -> Option<IoResult> {
        let (moved, ended) = match result {
            Ok(moved) => (moved, false),
            Err(IoError::Short { moved }) => (moved, true),
            Err(error) => return Some(Err(error)),
        };
        let end = self.done + moved;
        if matches!(self.op, Op::Read { .. }) {
            for (at, ours) in &self.detours {
                let read = usize::try_from(end.saturating_sub(*at)).unwrap_or(usize::MAX);
                let ours = ours.part(0, read);
                Sg::new(&[ours]).copy_to(self.theirs_at(*at, ours.len()));
            }
        }
        self.done = end;
        if ended {
            return Some(Err(IoError::Short { moved: end }));
        }
        let length = self.runs.last().map_or(0, Run::end);
        (end >= length).then_some(Ok(end))
    }
}

impl Run {
    const fn end(&self) -> u64 {
        self.at + self.length
    }

    /// The part from position `done` on, if there is one.
    fn after(&self, done: u64) -> Option<Self> {
        let gone = done.saturating_sub(self.at);
        (gone < self.length).then(|| Self {
            at: self.at + gone,
            length: self.length - gone,
            straight: self.straight.map(|seg| seg.part(gone as usize, usize::MAX)),
        })
    }
}

/// Cuts a request into runs that suit direct I/O and those that do not.
fn cut(theirs: Sg<'_>, need: Alignment, runs: &mut Vec<Run>) {
    let (mut begin, mut covered) = (0, 0);
    for seg in theirs.iter() {
        if let Some((skip, straight)) = suitable(seg, begin, need) {
            let at = begin + skip as u64;
            if at > covered {
                runs.push(Run { at: covered, length: at - covered, straight: None });
            }
            let length = straight.len() as u64;
            runs.push(Run { at, length, straight: Some(straight) });
            covered = at + length;
        }
        begin += seg.len() as u64;
    }
    if begin > covered {
        runs.push(Run { at: covered, length: begin - covered, straight: None });
    }
}

/// The part of `seg`, which begins at position `at` of a request, that suits direct I/O, and how many bytes lie before it.
fn suitable(seg: Seg, at: u64, need: Alignment) -> Option<(usize, Seg)> {
    let (memory, offset) = (need.memory as usize, need.offset as usize);
    let mut skip = (at.next_multiple_of(offset as u64) - at) as usize;
    // Memory may need a larger alignment than offsets.
    let tries = (memory / offset).max(1);
    for _ in 0..tries {
        let rest = seg.part(skip, usize::MAX);
        let length = rest.len() / offset * offset;
        if length > 0 && rest.address().addr().is_multiple_of(memory) {
            return Some((skip, rest.part(0, length)));
        }
        skip += offset;
    }
    None
}

/// Direct I/O needs aligned memory, and lengths that are multiples of the block in each segment.
pub(crate) fn is_misaligned(sg: Sg<'_>, need: Alignment) -> bool {
    let (memory, length) = (need.memory as usize - 1, need.offset as usize - 1);
    sg.iter().any(|seg| seg.address().addr() & memory != 0 || seg.len() & length != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_store::Memory;
    use proptest::prelude::*;

    const POSITION: u64 = 7 << 20;

    /// Carries out a step on a file of which `content` is the part that begins at [`POSITION`]. Refuses what direct I/O would.
    fn carry_out(step: Step, segs: &[Seg], content: &Memory, need: Alignment) -> u64 {
        let (Step::Read { offset } | Step::Write { offset, .. }) = step else { unreachable!() };
        assert!(offset.is_multiple_of(need.offset.into()));
        assert!(!is_misaligned(Sg::new(segs), need), "{segs:?}");
        let at = offset - POSITION;
        let (list, content) = (Sg::new(segs), [content.seg()]);
        let content = Sg::new(&content).part(at, list.len());
        match step {
            Step::Read { .. } => content.copy_to(list),
            _ => list.copy_to(content),
        }
    }

    fn segments(memory: &Memory, lengths: &[usize], skews: &[usize]) -> Vec<Seg> {
        let mut at = 0;
        lengths
            .iter()
            .zip(skews)
            .map(|(length, skew)| {
                let seg = memory.seg().part(at + skew, *length);
                at = (at + skew + length).next_multiple_of(4096);
                seg
            })
            .collect()
    }

    fn lengths() -> impl Strategy<Value = Vec<usize>> {
        let length = prop_oneof![
            16 => 1..6000usize,
            8 => (1..5usize).prop_map(|n| n * 4096),
            1 => Just((1 << 20) + 512)
        ];
        prop::collection::vec(length, 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn bytes_arrive_and_only_edges_take_a_detour(
            mut lengths in lengths(),
            skews in prop::collection::vec(prop_oneof![Just(0usize), Just(512), 1..4096usize], 13),
            memory in prop_oneof![Just(4u32), Just(512), Just(4096)],
            offset in prop_oneof![Just(512u32), Just(4096)],
            read: bool,
        ) {
            let need = Alignment { memory, offset };
            let total: usize = lengths.iter().sum();
            lengths.push(total.next_multiple_of(4096) + 4096 - total);
            let total: usize = lengths.iter().sum();
            let room = lengths.len() * 8192 + total;
            let bytes: Vec<u8> = (0..room).map(|n| ((n * 31) >> 3) as u8).collect();
            let theirs = Memory::from_bytes(&bytes);
            let content = Memory::from_bytes(&bytes.iter().rev().copied().take(total).collect::<Vec<_>>());
            let segs = segments(&theirs, &lengths, &skews);
            let list = Sg::new(&segs);
            let before = list.to_vec(u64::MAX);
            let op = match read {
                true => Op::Read { offset: POSITION, to: list },
                false => Op::Write { offset: POSITION, from: list, durable: false },
            };
            let pool = Pool::new(LARGEST, LARGEST);
            let mut bounce = Bounce::default();
            bounce.begin(op, need);
            for run in &bounce.runs {
                // No run that takes a detour holds a whole stretch that could have gone straight.
                let suits = |seg: &Seg| suitable(*seg, 0, need).is_some_and(|(_, seg)| seg.len() as u64 == run.length);
                let straight = list.part(run.at, run.length).single().is_some_and(|seg| suits(&seg));
                prop_assert!(run.straight.is_some() || !straight);
            }
            prop_assert!(bounce.take_buffer(&pool) || !is_misaligned(list, need));
            loop {
                let mut segs = Vec::new();
                let step = bounce.step(&mut segs);
                let moved = carry_out(step, &segs, &content, need);
                prop_assert!(moved > 0);
                if let Some(result) = bounce.advance(Ok(moved)) {
                    prop_assert_eq!(result, Ok(total as u64));
                    break;
                }
            }
            let (content, list) = (content.to_vec(), list.to_vec(u64::MAX));
            prop_assert!(content == list);
            prop_assert_eq!(read, list != before);
        }
    }

    #[test]
    fn only_the_edges_of_a_segment_are_copied() {
        let need = Alignment { memory: 512, offset: 512 };
        let memory = Memory::zeroed(64 << 10);
        let whole = memory.seg();
        // The first segment ends in the middle of a block, so the second one begins there.
        let segs =
            [whole.part(0, 4096 + 100), whole.part(8192 + 100, 8192 - 100), whole.part(16384 + 1, 512)];
        let mut runs = Vec::new();
        cut(Sg::new(&segs), need, &mut runs);
        let run = |at, length, straight| Run { at, length, straight };
        assert_eq!(
            runs,
            [
                run(0, 4096, Some(whole.part(0, 4096))),
                run(4096, 512, None),
                run(4608, 7680, Some(whole.part(8192 + 512, 7680))),
                run(12288, 512, None)
            ]
        );
    }

    #[test]
    fn what_was_read_before_the_end_of_the_file_arrives() {
        let need = Alignment { memory: 512, offset: 512 };
        let memory = Memory::zeroed(4096);
        let segs = [memory.seg().part(1, 1024)];
        let mut bounce = Bounce::default();
        bounce.begin(Op::Read { offset: 0, to: Sg::new(&segs) }, need);
        assert!(bounce.take_buffer(&Pool::new(LARGEST, 0)));
        let mut to = Vec::new();
        assert!(matches!(bounce.step(&mut to), Step::Read { offset: 0 }));
        Sg::new(&to).copy_in(0, &[7; 1024]);
        assert_eq!(
            bounce.advance(Err(IoError::Short { moved: 700 })),
            Some(Err(IoError::Short { moved: 700 }))
        );
        assert_eq!(memory.to_vec()[..1025], [&[0][..], &[7; 700], &[0; 324]].concat());
    }
}
