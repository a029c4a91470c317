//! Front ends that change memory, go away, or mean harm.

use super::*;
use crate::connection;
use crate::local::Local;
use lunette_store::Cx;
use lunette_vhost_user::InflightArea;
use rustix::event::{EventfdFlags, eventfd};

#[test]
fn a_front_end_that_truncates_its_memory_breaks_its_rings_alone() {
    for io in BOTH {
        let rig = Rig::ram(io);
        let mut front = FrontEnd::ready(&rig.socket, MEMORY);
        let mut ring = front.start(2, 0, 64);
        front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
        // Data is copied to memory that is no more.
        rustix::fs::ftruncate(&front.guest.fd, DATA + RESPONSE + 0x1000).unwrap();
        front.offer_command(&ring, 1, DATA, &read_10(0, 64), &[], 64 * 512);
        ring.wait_broken();
        // The connection stands, and the guest may start over with other memory.
        front.stop(2);
        front.guest = crate::testing::Guest::new(MEMORY);
        front.share();
        let mut ring = front.start(2, 0, 64);
        assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
        // The ring itself goes.
        rustix::fs::ftruncate(&front.guest.fd, 0).unwrap();
        ring.kick();
        ring.wait_broken();
    }
}

#[test]
fn a_ring_whose_memory_is_taken_away_goes_on_when_it_is_back() {
    let rig = Rig::held();
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let (at, size) = (0x1000_0000, 0x2_0000);
    let extra = memfd(size);
    let more = region(at, size, 0);
    let message = front.protocol.add_mem_reg(more, extra.try_clone().unwrap());
    front.done(message);
    // The ring is alone in a region of its own; the test sees it through a map of the same files.
    front.guest.also(more, &extra);
    let mut ring = front.start(3, at, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    front.offer_command(&ring, 1, DATA, &read_10(0, 1), &[], 512);
    wait_held(&rig.reactors, 1);
    let message = front.protocol.rem_mem_reg(more);
    front.send(message);
    for _ in 0..20 {
        held(&rig.reactors, 0);
        held(&rig.reactors, 1);
    }
    // Not looked at any more, but what is under way ends.
    front.offer_command(&ring, 5, DATA + 0x2_0000, &TEST_UNIT_READY, &[], 0);
    release(&rig.reactors, 1, 0x66);
    assert!(matches!(front.reply(), Some(Reply::Ack { success: true, .. })));
    let (head, written) = front.used(&mut ring);
    assert_eq!((head, front.result(DATA, written, 512).data), (1, vec![0x66; 512]));
    assert_eq!(ring.ring.used_index(&front.guest), 2);
    assert!(!ring.is_broken());
    let message = front.protocol.add_mem_reg(more, extra.try_clone().unwrap());
    front.done(message);
    assert_eq!(front.used(&mut ring).0, 5);
    assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);

    // One that is suspended can be stopped, and says where it stood.
    let message = front.protocol.rem_mem_reg(more);
    front.done(message);
    assert_eq!(front.stop(3), 4);
    assert!(!ring.is_broken());
    // One that is started without its memory is broken.
    front.restart(&ring, 4);
    ring.wait_broken();
}

#[test]
fn descriptors_that_could_block_us_are_refused() {
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let file = || Some(std::os::fd::OwnedFd::from(tempfile::tempfile().unwrap()));
    for message in [
        front.protocol.set_vring_call(2, file()),
        front.protocol.set_vring_err(2, file()),
        front.protocol.set_vring_kick(2, file()),
    ] {
        assert!(matches!(front.ask(message), Some(Reply::Ack { success: false, .. })));
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let error = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let message = front.protocol.set_vring_err(2, Some(error.try_clone().unwrap()));
    front.done(message);
    let message = front.protocol.set_vring_kick(2, Some(reader.into()));
    assert!(matches!(front.ask(message), Some(Reply::Ack { success: false, .. })));
    // It has started nothing, which would be broken by now.
    front.share();
    held(&rig.reactors, 0);
    assert!(rustix::io::read(&error, &mut [0; 8]).is_err());
    let message = front.protocol.set_vring_call(2, Some(writer.into()));
    front.done(message);
}

#[test]
fn a_notification_that_cannot_be_taken_holds_nobody_up() {
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut good = front.start(3, 0x1_0000, 64);
    let mut bad = front.start(2, 0, 64);
    front.command(&mut good, &TEST_UNIT_READY, &[], 0);
    front.command(&mut bad, &TEST_UNIT_READY, &[], 0);
    // Full, and blocking again behind the device's back.
    rustix::io::write(bad.call(), &(u64::MAX - 1).to_ne_bytes()).unwrap();
    rustix::io::ioctl_fionbio(bad.call(), false).unwrap();
    let used = bad.ring.used_index(&front.guest);
    bad.ring.set_used_event(&front.guest, used);
    front.offer_command(&bad, 0, DATA + 0x2_0000, &TEST_UNIT_READY, &[], 0);
    while bad.ring.used_index(&front.guest) == used {
        std::thread::yield_now();
    }
    for _ in 0..3 {
        assert_eq!(front.command(&mut good, &TEST_UNIT_READY, &[], 0).status, 0);
        // The bad queue's reactor is still there.
        held(&rig.reactors, 0);
    }
    let mut count = [0; 8];
    rustix::io::read(bad.call(), &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), u64::MAX, "it was raised");
}

/// Waits until no connection carries out messages any more.
fn wait_ending(rig: &Rig) {
    let is_ending = |cx: &mut dyn Cx| {
        let local = Local::on(cx);
        let connections = local.connections.borrow();
        !connections.is_empty() && connections.values().all(|connection| connection.has_noticed_its_end())
    };
    while !rig.reactors.call(ReactorId(0), is_ending).unwrap() {
        std::thread::yield_now();
    }
}

#[test]
fn a_front_end_that_goes_while_a_store_hangs_is_noticed() {
    for io in BOTH {
        let rig = Rig::new(io, held::store());
        let mut front = FrontEnd::ready(&rig.socket, MEMORY);
        let mut ring = front.start(2, 0, 64);
        front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
        front.offer_command(&ring, 1, DATA, &read_10(0, 1), &[], 512);
        wait_held(&rig.reactors, 0);
        // Waits for the request, and with it all messages.
        let message = front.protocol.get_vring_base(2);
        front.send(message);
        held(&rig.reactors, 0);
        drop(front);
        wait_ending(&rig);
        release(&rig.reactors, 0, 0);
    }
}

#[test]
fn memory_changes_that_nobody_waits_for_are_bounded() {
    let rig = Rig::held();
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    front.protocol.want_acks(false);
    // Each epoch has a request under way.
    for epoch in 0..9 {
        front.offer_command(&ring, 3 * epoch, DATA + u64::from(epoch) * 0x400, &read_10(0, 1), &[], 16);
        while held(&rig.reactors, 0) <= usize::from(epoch) {
            std::thread::yield_now();
        }
        let (size, fd) = (front.guest.size, front.guest.fd.try_clone().unwrap());
        let message = front.protocol.set_mem_table([(region(0, size, 0), fd)]);
        front.send(message);
        if epoch < 8 {
            let message = front.protocol.get_features();
            assert!(matches!(front.ask(message), Some(Reply::Features(_))));
        }
    }
    let message = front.protocol.get_features();
    front.send(message);
    let epochs = |cx: &mut dyn Cx| {
        let local = Local::on(cx);
        let connections = local.connections.borrow();
        connections.values().map(|connection| connection.epochs()).sum::<usize>()
    };
    while rig.reactors.call(ReactorId(0), epochs).unwrap() < 9 {
        std::thread::yield_now();
    }
    for _ in 0..20 {
        held(&rig.reactors, 0);
    }
    assert!(!front.has_reply(), "no more messages until memory has come back");
    release(&rig.reactors, 0, 0x44);
    assert!(matches!(front.reply(), Some(Reply::Features(_))));
}

#[test]
fn memory_may_be_in_all_kinds_of_files_and_many_regions() {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::OwnedFd;
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let on_disk = || {
        let program = std::env::current_exe().unwrap();
        let file = tempfile::tempfile_in(program.parent().unwrap()).unwrap();
        file.set_len(0x5000).unwrap();
        let file = OwnedFd::from(file);
        // Programs may lie on an overlay.
        if connection::is_vetted(&file) { file } else { memfd(0x5000) }
    };
    let mut files: Vec<OwnedFd> = vec![on_disk(), on_disk(), memfd(0x5000), memfd(0x5000)];
    // Huge pages, if there are any.
    if let Ok(huge) = memfd_create("lunette-test", MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)
        && ftruncate(&huge, 2 << 20).is_ok()
        && rustix::fs::fallocate(&huge, rustix::fs::FallocateFlags::empty(), 0, 2 << 20).is_ok()
    {
        files.push(huge);
    }
    files.resize_with(7, || memfd(0x5000));
    // Neighbours from end to end, each at an offset in its file that is no page.
    let at = |index: usize| 0x1000_0000 + index as u64 * 0x2000;
    let regions: Vec<_> = (0..7).map(|index| region(at(index), 0x2000, 0x1230)).collect();
    let table = regions.iter().zip(&files).map(|(region, fd)| (*region, fd.try_clone().unwrap()));
    let whole = (region(0, front.guest.size, 0), front.guest.fd.try_clone().unwrap());
    let message = front.protocol.set_mem_table(std::iter::once(whole).chain(table.collect::<Vec<_>>()));
    front.done(message);
    for (region, fd) in regions.iter().zip(&files) {
        front.guest.also(*region, fd);
    }
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    // One buffer over all seven files.
    let bytes: Vec<u8> = (0..0xc000_u32).map(|n| (n % 251) as u8).collect();
    front.guest.write(at(0) + 0x1000, &bytes);
    let header = DATA;
    let mut run = |front: &FrontEnd, cdb: [u8; 10], write: bool| {
        front.offer_command(&ring, 0, header, &cdb, &[], 0);
        front.used(&mut ring);
        let (head, data) = ((header, 51, false), (at(0) + 0x1000, 0xc000, !write));
        let response = (header + RESPONSE, 108, true);
        let parts = if write { [head, data, response] } else { [head, response, data] };
        ring.ring.chain(&front.guest, 0, &parts);
        ring.ring.offer(&front.guest, 0);
        ring.kick();
        let (_, written) = front.used(&mut ring);
        assert_eq!(front.result(header, written, 0).status, 0);
    };
    run(&front, write_10(0, 96), true);
    front.guest.write(at(0) + 0x1000, &[0; 0xc000]);
    run(&front, read_10(0, 96), false);
    assert!(front.guest.read(at(0) + 0x1000, 0xc000) == bytes);
}

#[test]
fn all_memory_slots_can_be_filled_and_emptied_under_load() {
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(3, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    let message = front.protocol.get_max_mem_slots();
    assert!(matches!(front.ask(message), Some(Reply::MemorySlots(509))));
    let fd = memfd(508 * 0x1000);
    let regions: Vec<_> =
        (0..508).map(|n| region(0x1000_0000 + n * 0x1000, 0x1000, (507 - n) * 0x1000)).collect();
    for (n, more) in regions.iter().enumerate() {
        let message = front.protocol.add_mem_reg(*more, fd.try_clone().unwrap());
        front.send(message);
        if n % 16 == 0 {
            front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
        }
        assert!(matches!(front.reply(), Some(Reply::Ack { success: true, .. })));
    }
    let message = front.protocol.add_mem_reg(region(1 << 40, 0x1000, 0), fd.try_clone().unwrap());
    assert!(matches!(front.ask(message), Some(Reply::Ack { success: false, .. })), "there are no more slots");
    // A read into the last 300 regions.
    let start = regions[208].guest_address;
    front.offer_command(&ring, 0, DATA, &read_10(0, 255), &[], 0);
    front.used(&mut ring);
    ring.ring.chain(
        &front.guest,
        0,
        &[(DATA, 51, false), (DATA + RESPONSE, 108, true), (start, 255 * 512, true)],
    );
    ring.ring.offer(&front.guest, 0);
    ring.kick();
    let (_, written) = front.used(&mut ring);
    assert_eq!((front.result(DATA, written, 0).status, written), (0, 108 + 255 * 512));
    for (n, less) in regions.iter().enumerate() {
        let message = front.protocol.rem_mem_reg(*less);
        front.send(message);
        if n % 16 == 0 {
            front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
        }
        assert!(matches!(front.reply(), Some(Reply::Ack { success: true, .. })));
    }
    assert!(!ring.is_broken());
}

#[test]
fn memory_can_be_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("vm.sock");
    let rig = Rig::ram(Io::Auto);
    let options = Options { pin_memory: true, ..Options::new(&socket) };
    let export = VhostUserExport::new(options, rig.targets.clone());
    let export = export.start(rig.reactors.poster(), &[ReactorId(0)]).unwrap();
    let mut front = FrontEnd::ready(&socket, 16 << 20);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")?.trim().strip_suffix(" kB"));
    let locked: u64 = locked.unwrap().trim().parse().unwrap();
    // Without the right to lock, the memory is used as it is.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    if rustix::process::geteuid().is_root() || limit.is_none_or(|limit| limit >= 16 << 20) {
        assert!(locked >= 16 << 10, "{locked} kB");
        // So is the memory for notes, which every command writes to.
        let fd = memfd(1 << 16);
        let area = InflightArea { mmap_size: 1 << 16, mmap_offset: 0, queues: 3, queue_size: 64 };
        let message = front.protocol.set_inflight_fd(area, fd.try_clone().unwrap());
        front.done(message);
        let inode = rustix::fs::fstat(&fd).unwrap().st_ino.to_string();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|line| line.split_whitespace().nth(4) != Some(&inode));
        let locked = lines.find_map(|line| line.strip_prefix("Locked:")).unwrap();
        assert_ne!(locked.trim(), "0 kB");
    }
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
    drop(front);
    export.stop();
}

#[test]
fn sockets_whose_end_may_take_long_and_too_many_descriptors_end_the_connection() {
    use std::os::fd::OwnedFd;
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let message = front.protocol.set_vring_call(2, Some(tcp.into()));
    assert!(front.ask(message).is_none());

    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut message = front.protocol.get_features();
    message.fds = (0..9).map(|_| OwnedFd::from(tempfile::tempfile().unwrap())).collect();
    assert!(front.ask(message).is_none());
}

#[test]
fn a_ring_that_is_started_too_early_is_broken_and_can_be_set_up_later() {
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::connect(&rig.socket, MEMORY);
    front.negotiate(Features::VERSION_1 | Features::EVENT_IDX | Features::PROTOCOL_FEATURES);
    // All but memory.
    let early = front.start(3, 0x1_0000, 64);
    early.wait_broken();
    // Neither size nor addresses nor memory.
    let error = early.error().try_clone().unwrap();
    let _ = rustix::io::read(&error, &mut [0; 8]);
    let message = front.protocol.set_vring_err(2, Some(error));
    front.done(message);
    let message = front.protocol.set_vring_kick(2, None);
    front.done(message);
    early.wait_broken();
    front.share();
    for (index, at) in [(2, 0), (3, 0x1_0000)] {
        assert_eq!(front.stop(index), 0);
        let mut ring = front.start(index, at, 64);
        front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
        assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
        assert!(!ring.is_broken());
    }
}

#[test]
fn features_may_be_set_again_while_rings_run() {
    let rig = Rig::ram(Io::Auto);
    let mut front = FrontEnd::ready(&rig.socket, MEMORY);
    let mut ring = front.start(2, 0, 64);
    front.command(&mut ring, &TEST_UNIT_READY, &[], 0);
    let message = front.protocol.set_features(Features::VERSION_1 | Features::PROTOCOL_FEATURES);
    front.done(message);
    // The ring goes on as it was started.
    assert_eq!(front.command(&mut ring, &TEST_UNIT_READY, &[], 0).status, 0);
    let message = front.protocol.reset_owner();
    front.done(message);
    front.offer_command(&ring, 0, DATA, &TEST_UNIT_READY, &[], 0);
    // The same reactor hears of this one later.
    let mut other = front.start(4, 0x2_0000, 64);
    front.command(&mut other, &TEST_UNIT_READY, &[], 0);
    assert_eq!(ring.ring.used_index(&front.guest), 2, "disabled");
    let message = front.protocol.set_vring_enable(2, true);
    front.done(message);
    assert_eq!(front.used(&mut ring).0, 0);
}
