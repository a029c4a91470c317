//! Whatever an initiator sends, it is answered, within its buffers.

use crate::Options;
use crate::testing::*;
use lunette_engine::spc;
use lunette_scsi::{Cdb, Status};
use proptest::prelude::*;

/// CDBs of commands that there are, with bits flipped, or any bytes.
fn cdbs() -> impl Strategy<Value = Vec<u8>> {
    let rig = Rig::new();
    let own = rig.unit.device().commands();
    let usage: Vec<&'static [u8]> =
        own.chain(spc::COMMANDS.iter().map(|command| &command.spec)).map(|spec| spec.usage).collect();
    let filled = (prop::sample::select(usage), prop::collection::vec(any::<u8>(), 16), any::<u64>());
    let known = filled.prop_map(|(usage, bytes, small)| {
        let mut cdb: Vec<u8> = usage.iter().zip(&bytes).map(|(mask, byte)| mask & byte).collect();
        cdb[0] = usage[0];
        // Most of the large fields are out of range otherwise.
        for at in (2..cdb.len()).filter(|at| small >> at & 3 != 0) {
            cdb[at] &= if small >> (at + 20) & 7 == 0 { 0x0f } else { 0 };
        }
        if usage[0] & 0x1f != 0 && small >> 60 == 0 {
            cdb[1] ^= 1 << (small >> 50 & 7);
        }
        cdb
    });
    let any = prop_oneof![8 => known, 1 => prop::collection::vec(any::<u8>(), 1..=32)];
    any.prop_filter("an allegiance keeps others out", |cdb| !Cdb::new(cdb).is_ok_and(|cdb| cdb.naca()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn commands_are_answered_within_their_buffers(
        commands in prop::collection::vec((cdbs(), 0usize..5000, 0usize..5000, any::<u8>()), 1..8),
        thin: bool,
        volatile_cache: bool,
    ) {
        let mut rig = Rig::with(Options { thin, ..Options::default() }, |caps| caps.volatile_cache = volatile_cache);
        for (cdb, sent, room, byte) in commands {
            // `ask` checks the buffers.
            let answer = rig.ask(&cdb, &vec![byte; sent], room);
            let checked = answer.outcome.status == Status::CHECK_CONDITION;
            prop_assert_eq!(checked, answer.outcome.sense.is_some());
            for seen in rig.seen() {
                if let Seen::Read(offset, length) | Seen::Write(offset, length, _) | Seen::Zero(offset, length, _)
                    | Seen::Discard(offset, length) = seen
                {
                    prop_assert!(offset + length <= SIZE, "{:?}", seen);
                }
            }
        }
    }

    #[test]
    fn what_reads_return_is_what_writes_left(
        writes in prop::collection::vec((0u64..40, 1u32..6, any::<u8>(), 0u8..4), 1..20),
    ) {
        let mut rig = Rig::new();
        let mut model = vec![0u8; 48 * 512];
        for (lba, blocks, fill, kind) in writes {
            let (start, end) = (lba as usize * 512, (lba as usize + blocks as usize) * 512);
            use lunette_scsi::Opcode;
            let (opcode, data) = match kind {
                0 => (Opcode::WRITE_10, vec![fill; end - start]),
                1 => (Opcode::WRITE_AND_VERIFY_16, vec![fill; end - start]),
                _ => (Opcode::WRITE_SAME_10, vec![fill; 512]),
            };
            let unmap = if kind == 3 { 0x08 } else { 0 };
            rig.ask(&with(cdb(opcode, lba, blocks), 1, unmap), &data, 0).good();
            model[start..end].fill(fill);
        }
        prop_assert_eq!(rig.read(0, 48), model);
    }
}
