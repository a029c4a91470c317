//! Task management across queues and reactors.

use super::*;
use lunette_guest::{Command, ScsiDriver, address, function};

/// The driver looks at the request queues once when a function is answered, and never again for what it aborted.
#[test]
fn what_a_function_has_aborted_is_in_the_used_ring_before_its_answer() {
    let unit = disk(1, held::store());
    unit.live_on([ReactorId(0)]);
    let port = TargetPort::new("test", 1, Protocol::NONE, [(0, unit)].into());
    let rig = Rig::of(Io::Auto, [(0, port)].into());
    let options = lunette_guest::Options { request_queues: 2, ..Default::default() };
    let mut driver = ScsiDriver::connect(&rig.socket, &options).unwrap();
    driver.execute(1, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
    for round in 0..100 {
        let read = read_10(0, 1);
        let slots: Vec<u16> =
            (0..8).map(|tag| driver.send(1, &Command::new(&read).tagged(tag), &[], 512).unwrap()).collect();
        while held(&rig.reactors, 0) < slots.len() {
            std::thread::yield_now();
        }
        let reset = driver.send_task_management(function::LOGICAL_UNIT_RESET, address(0, 0), 0).unwrap();
        // The function has come when a later one on the same queue is answered.
        driver.manage(function::QUERY_TASK, address(0, 0), 0).unwrap();
        release(&rig.reactors, 0, 0);
        assert_eq!(driver.control_response(reset).unwrap(), [0]);
        let seen = std::iter::from_fn(|| driver.poll(1).unwrap()).count();
        assert_eq!(seen, slots.len(), "round {round}");
        // The unit attention of the reset.
        driver.execute(1, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
    }
}
