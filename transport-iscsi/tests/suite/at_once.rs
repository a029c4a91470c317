//! Commands whose data is all there when they come: the engine gets them in one step.

use crate::client::{Client, READ, TARGET, WRITE, cdb, lun_of, pattern, settings};
use crate::rig::{Rig, disk, stuck_disk, target_of};
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{RejectReason, TaskAttribute};
use lunette_store::{Cx, ReactorId, held};
use lunette_transport_iscsi::EntityOptions;
use std::io::Write;

#[test]
fn a_write_whose_data_is_damaged_writes_nothing() {
    let rig = Rig::new();
    let parameters = Parameters { data_digest: true, ..Parameters::PREFERRED };
    for length in [512, 8192] {
        let mut client = Client::ready(rig.address(), Settings { parameters, ..settings(1) });
        let (old, blocks) = (pattern(length, length as usize), (length / 512) as u16);
        client.write(0, old.clone());
        let tag = client.command(&cdb(WRITE, 0, blocks), 0, Some(pattern(1, length as usize)));
        let mut wire = client.wire();
        // The last byte is the digest's.
        *wire.last_mut().unwrap() ^= 1;
        client.socket.write_all(&wire).unwrap();
        let ended = client.finish(tag);
        assert_eq!((ended.status, ended.sense_code()), (2, (0x0b, 0x47, 0x05)));
        assert_eq!(client.rejects, [RejectReason::DATA_DIGEST]);
        assert!(client.read(0, blocks) == old);
    }
}

/// Ends what the store has got. Returns for each operation whether it is a read, and its first byte.
fn end_all(rig: &Rig) -> Vec<(bool, u64)> {
    let end = |cx: &mut dyn Cx| {
        let operations: Vec<_> = std::iter::from_fn(|| held::take(0, cx)).collect();
        let seen = operations.iter().map(|operation| (operation.reads, operation.range.0)).collect();
        operations.iter().for_each(|operation| cx.complete(operation.id, Ok(operation.range.1)));
        seen
    };
    rig.reactors.call(ReactorId(0), end).unwrap()
}

#[test]
fn the_store_gets_ordered_commands_one_after_the_other() {
    let units = [disk(1, None), stuck_disk(2)];
    let rig = Rig::serving(EntityOptions::default(), target_of(TARGET, &[1], &units), 1);
    let mut client = rig.client(1);
    client.run_at(1, &[0; 6], 0);
    let mut send = |attribute, opcode, lba| {
        let data = (opcode == WRITE).then(|| pattern(lba, 512));
        let read = if opcode == READ { 512 } else { 0 };
        client.command_as(attribute, lun_of(1), &cdb(opcode, lba, 1), read, data).unwrap()
    };
    let [before, ordered, after] = [
        send(TaskAttribute::SIMPLE, READ, 1),
        send(TaskAttribute::ORDERED, WRITE, 2),
        send(TaskAttribute::SIMPLE, READ, 3),
    ];
    for (tag, operation) in [(before, (true, 512)), (ordered, (false, 1024)), (after, (true, 1536))] {
        // What was sent before has come.
        assert_eq!(client.run(&[0; 6], 0, None).status, 0);
        assert_eq!(end_all(&rig), [operation]);
        assert_eq!(client.finish(tag).status, 0);
    }
    assert!(end_all(&rig).is_empty());
}
