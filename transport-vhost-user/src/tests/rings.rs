//! Rings of all layouts and sizes, with an independent guest.

use super::{BOTH, Rig, TEST_UNIT_READY};
use crate::MAX_REQUEST_QUEUES;
use crate::testing::held::{self, held, release, release_some};
use lunette_guest::ring::{Form, Format, Ring, Setup};
use lunette_guest::{Command, Data, Options, Piece, ScsiDriver, Waiting};
use lunette_reactor::Io;
use lunette_vhost_user::Features;

pub(super) const ALL: Features = Features::EVENT_IDX.union(Features::INDIRECT_DESC);

pub(super) fn read_10(block: u16) -> [u8; 10] {
    let [high, low] = block.to_be_bytes();
    [0x28, 0, 0, 0, high, low, 0, 0, 1, 0]
}

fn write_10(block: u16) -> [u8; 10] {
    let mut cdb = read_10(block);
    cdb[0] = 0x2a;
    cdb
}

/// What block `block` holds after it was written in `round`.
fn pattern(block: u16, round: u16) -> Vec<u8> {
    let seed = usize::from(block) * 7 + usize::from(round) * 13;
    (0..512).map(|n| (seed + n) as u8).collect()
}

fn connect(rig: &Rig, options: &Options) -> ScsiDriver {
    let mut driver = ScsiDriver::connect(&rig.socket, options).unwrap();
    // Takes the unit attention.
    driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
    driver
}

pub(super) fn options(features: Features, form: Form, queue_size: u16, slots: u16) -> Options {
    let events = queue_size.min(4);
    let mut options = Options { form, queue_size, slots, events, room: 512, ..Options::default() };
    options.wanted.optional = features;
    options
}

/// Begins a command of one block with the buffer of a slot.
pub(super) fn submit(driver: &mut ScsiDriver, queue: u16, slot: u16, cdb: &[u8]) {
    let buffer = driver.data(queue, slot);
    let piece = [Piece { address: buffer.address(), length: 512 }];
    let data = match cdb[0] {
        0x2a => Data { data_out: &piece, data_in: &[] },
        _ => Data { data_out: &[], data_in: &piece },
    };
    driver.submit(queue, slot, &Command::new(cdb).tagged(slot.into()), &data).unwrap();
}

/// Waits for some commands.
fn collect(driver: &mut ScsiDriver, queue: u16, count: u16) {
    for _ in 0..count {
        let ended = driver.wait(queue).unwrap();
        assert_eq!((ended.response, ended.status), (0, 0));
    }
}

/// Each slot writes and reads its own block, again and again, with the rings as full as they can be.
fn go_round(driver: &mut ScsiDriver, slots: u16, rounds: u16) {
    for round in 0..rounds {
        for write in [true, false] {
            for slot in 0..slots {
                let buffer = driver.data(0, slot);
                match write {
                    true => buffer.write(0, &pattern(slot, round)),
                    false => buffer.fill(0),
                }
                submit(driver, 0, slot, &if write { write_10(slot) } else { read_10(slot) });
            }
            driver.flush(0).unwrap();
            for _ in 0..slots {
                let ended = driver.wait(0).unwrap();
                assert_eq!((ended.response, ended.status, ended.residual), (0, 0, 0));
                if !write {
                    assert_eq!(driver.data(0, ended.slot).bytes(0, 512), pattern(ended.slot, round));
                }
            }
        }
    }
}

#[test]
fn data_goes_round_rings_of_any_layout_and_size() {
    let rig = Rig::ram(Io::Auto);
    let packed = ALL | Features::RING_PACKED;
    for (features, form, size, slots, rounds) in [
        (ALL, Form::Chained, 8, 2, 100),
        (ALL, Form::Indirect, 1024, 1024, 4),
        (Features::empty(), Form::Chained, 1024, 341, 4),
        (packed, Form::Chained, 7, 2, 200),
        (packed, Form::Indirect, 7, 7, 200),
        (packed, Form::Chained, 1000, 333, 9),
        (packed, Form::Indirect, 1000, 1000, 5),
        (packed, Form::Indirect, 1024, 1024, 4),
        (packed - Features::EVENT_IDX, Form::Indirect, 3, 3, 100),
        (Features::RING_PACKED, Form::Chained, 11, 3, 100),
    ] {
        for waiting in [Waiting::Interrupt, Waiting::Poll] {
            let mut driver = connect(&rig, &Options { waiting, ..options(features, form, size, slots) });
            go_round(&mut driver, slots, rounds);
        }
    }
}

#[test]
fn completions_in_any_order_find_their_chains() {
    let rig = Rig::held();
    for features in [ALL, ALL | Features::RING_PACKED] {
        for form in [Form::Chained, Form::Indirect] {
            let slots = 21;
            let mut driver = connect(&rig, &options(features, form, 64, slots));
            for round in 0..40 {
                while let Some(slot) = driver.free_slot(0) {
                    submit(&mut driver, 0, slot, &read_10(slot));
                }
                driver.flush(0).unwrap();
                while held(&rig.reactors, 0) < driver.outstanding(0) {
                    std::thread::yield_now();
                }
                // In the last round all of them.
                for _ in 0..release_some(&rig.reactors, 0, if round < 39 { 5 } else { 0 }) {
                    let ended = driver.wait(0).unwrap();
                    assert_eq!((ended.response, ended.status, ended.residual), (0, 0, 0));
                    assert_eq!(driver.data(0, ended.slot).bytes(0, 512), [ended.slot as u8; 512]);
                }
            }
            driver.stop(0).unwrap();
        }
    }
}

/// VIRTIO_F_RING_RESET: the queue stops under load, and comes back elsewhere with another size.
#[test]
fn a_queue_is_reset_under_load_and_others_go_on() {
    for features in [ALL, ALL | Features::RING_PACKED] {
        let rig = Rig::held();
        let packed = features.contains(Features::RING_PACKED);
        let mut set = options(features | Features::RING_RESET, Form::Indirect, 16, 8);
        set.request_queues = 3;
        set.spare = 1 << 20;
        set.wanted.required |= Features::RING_RESET;
        let mut driver = connect(&rig, &set);
        let sizes = if packed { [7, 1000, 16] } else { [8, 1024, 16] };
        for size in sizes {
            // Queue 0 and queue 2 live on the first reactor, 1 on the second.
            for queue in 0..3 {
                (0..6).for_each(|slot| submit(&mut driver, queue, slot, &read_10(slot)));
                driver.flush(queue).unwrap();
            }
            while (held(&rig.reactors, 0), held(&rig.reactors, 1)) != (12, 6) {
                std::thread::yield_now();
            }
            let index = u32::from(driver.index(0));
            let message = driver.monitor.session.frontend().get_vring_base(index);
            driver.monitor.session.send(message).unwrap();
            // The other queues go on while this one stops.
            driver.execute(1, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
            driver.execute(2, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
            assert!(driver.poll(0).unwrap().is_none());
            release(&rig.reactors, 0, 0x55);
            driver.monitor.session.reply().unwrap();
            // All requests have ended before the reply came.
            for _ in 0..6 {
                let ended = driver.poll(0).unwrap().expect("a request that has ended");
                assert_eq!((ended.response, ended.status), (0, 0));
            }
            collect(&mut driver, 2, 6);
            assert_eq!(driver.outstanding(1), 6);
            let setup = Setup {
                format: if packed { Format::Packed } else { Format::Split },
                size,
                event_idx: true,
                table: 8,
            };
            let ring = Ring::new(&mut driver.monitor.memory, setup).unwrap();
            let queue = driver.index(0);
            *driver.monitor.queue_mut(queue).ring_mut() = ring;
            driver.monitor.start(queue).unwrap();
            driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
            release(&rig.reactors, 1, 0x66);
            collect(&mut driver, 1, 6);
        }
    }
}

#[test]
fn all_queues_that_there_can_be_work() {
    for io in BOTH {
        let rig = Rig::ram(io);
        for features in [ALL, ALL | Features::RING_PACKED] {
            let mut set = options(features, Form::Indirect, 8, 2);
            set.request_queues = MAX_REQUEST_QUEUES;
            let mut driver = connect(&rig, &set);
            assert_eq!(driver.monitor.session.queues().unwrap(), 256);
            for round in 0..2 {
                for queue in 0..MAX_REQUEST_QUEUES {
                    driver.data(queue, 0).write(0, &pattern(queue, round));
                    submit(&mut driver, queue, 0, &write_10(queue));
                    driver.flush(queue).unwrap();
                }
                for queue in 0..MAX_REQUEST_QUEUES {
                    assert_eq!(driver.wait(queue).unwrap().status, 0);
                    // By another queue.
                    let other = (queue + 1) % MAX_REQUEST_QUEUES;
                    submit(&mut driver, other, 1, &read_10(queue));
                    driver.flush(other).unwrap();
                    assert_eq!(driver.wait_for(other, 1).unwrap().status, 0);
                    assert_eq!(driver.data(other, 1).bytes(0, 512), pattern(queue, round));
                }
            }
        }
    }
}

#[test]
fn a_ring_that_is_started_again_goes_on_where_it_stood() {
    for features in [ALL, ALL | Features::RING_PACKED] {
        let rig = Rig::new(Io::Auto, held::store());
        let mut driver = connect(&rig, &options(features, Form::Chained, 8, 2));
        let index = driver.index(0);
        let base = driver.stop(0).unwrap();
        assert_eq!(driver.stop(0).unwrap(), base);
        // Without SET_VRING_BASE, and without a way to notify the device.
        driver.monitor.session.done(|frontend| frontend.set_vring_kick(index as u8, None)).unwrap();
        driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
        assert_ne!(driver.stop(0).unwrap(), base);
        driver.resume(0).unwrap();
        let answer = driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
        assert_eq!(answer.status, 0);
    }
}
