//! Reading, writing, zeroing and discarding on healthy files.

use super::*;

#[test]
fn memory_files_are_served_inline() {
    let directory = in_memory();
    let mut rig = Rig::create(&disk_image(&directory), &sized(1 << 20));
    let bytes = pattern(10_000);
    let source = Memory::from_bytes(&bytes);
    // More segments than go into one call.
    let segs: Vec<Seg> = (0..100).map(|n| source.seg().part(n * 100, 100)).collect();
    assert_eq!(rig.submit(write(512, &segs), 0), Submit::Done(Ok(10_000)));
    assert_eq!(rig.submit(durable(512, &segs), 0), Submit::Done(Ok(10_000)));
    let target = Memory::zeroed(10_000);
    let segs: Vec<Seg> = (0..100).map(|n| target.seg().part(n * 100, 100)).collect();
    assert_eq!(rig.submit(read(512, &segs), 0), Submit::Done(Ok(10_000)));
    assert_eq!(target.to_vec(), bytes);
    assert_eq!(rig.done(), "");
    assert_eq!(rig.run(Op::Flush), Ok(0));
    assert_eq!(rig.run(zero(0, 1024, false)), Ok(0));
    assert_eq!(rig.run(discard(1024, 1024)), Ok(0));
    assert_eq!(rig.done(), "spp");
    assert_eq!(rig.read(0, 2048), [0; 2048]);
    assert_eq!(rig.read(2048, 100), bytes[1536..1636]);
}

#[test]
fn other_files_are_written_by_the_reactor_and_read_from_the_cache() {
    let directory = on_disk();
    let file = File::open(&disk_image(&directory), &sized(1 << 20)).unwrap();
    let mut rig = Rig::new(&file);
    let bytes = pattern(8192);
    assert_eq!(rig.write(4096, &bytes), Ok(8192));
    assert_eq!(rig.done(), "w");
    assert_eq!(rig.read(4096, 8192), bytes);
    let cached = file.mode() == "page cache, cached reads inline";
    assert_eq!(rig.done(), if cached { "" } else { "r" }, "just written");
    let memory = Memory::from_bytes(&bytes);
    assert_eq!(rig.run(durable(0, &[memory.seg()])), Ok(8192));
    assert_eq!(rig.run(Op::Flush), Ok(0));
    assert_eq!(rig.done(), "ds");
}

#[test]
fn bytes_of_another_file_are_taken_over() {
    let directory = on_disk();
    let [file, other] =
        ["file", "other"].map(|name| File::open(&directory.path().join(name), &sized(1 << 20)).unwrap());
    let copy = |source: Option<RawFd>, from, length| Op::Copy {
        offset: 8192,
        source: source.unwrap(),
        from,
        length,
    };
    let bytes = pattern(300_000);
    assert_eq!(Rig::new(&other).write(4096, &bytes), Ok(300_000));
    let mut rig = Rig::new(&file);
    assert_eq!(rig.run(copy(other.descriptor(), 4096, 300_032)), Ok(300_032));
    assert_eq!(rig.read(8192, 300_000), bytes);
    assert_eq!(rig.read(8192 + 300_032, 512), [0; 512]);
    assert_eq!(rig.run(copy(file.descriptor(), 16384, 4096)), Ok(4096), "within one");
    assert_eq!(rig.read(8192, 4096), bytes[8192..12288]);
    assert_eq!(rig.run(copy(file.descriptor(), 9216, 4096)), Err(IoError::Unsupported), "onto itself");
    let device = std::fs::File::open("/dev/zero").unwrap();
    let no_file = Some(device.as_raw_fd());
    assert_eq!(rig.run(copy(no_file, 0, 512)), Err(IoError::Unsupported));
    let end = copy(other.descriptor(), (1 << 20) - 512, 1024);
    assert_eq!(rig.run(end), Err(IoError::Short { moved: 512 }));
    assert_eq!(rig.run(copy(other.descriptor(), 0, 1 << 20)), Err(IoError::OutOfRange));
}

#[test]
fn inline_off_and_on_are_obeyed() {
    for directory in [on_disk(), in_memory()] {
        let path = disk_image(&directory);
        let off = Options { inline: Some(false), ..sized(1 << 20) };
        let mut rig = Rig::create(&path, &off);
        assert_eq!(rig.write(0, &[1; 512]), Ok(512));
        assert_eq!(rig.read(0, 512), [1; 512]);
        assert_eq!(rig.done(), "wr");
    }
    let directory = on_disk();
    let on = Options { inline: Some(true), ..sized(1 << 20) };
    let mut rig = Rig::create(&disk_image(&directory), &on);
    assert_eq!(rig.write(0, &[1; 512]), Ok(512));
    assert_eq!(rig.read(0, 512), [1; 512]);
    assert_eq!(rig.done(), "");
    let memory = Memory::zeroed(512);
    assert_eq!(rig.run(durable(0, &[memory.seg()])), Ok(512));
    assert_eq!(rig.done(), "d", "waiting for a device is never inline");
}

#[test]
fn zeroing_and_discarding_give_exactly_the_range() {
    let directories = [on_disk(), in_memory()];
    for (directory, inline) in directories.iter().zip([Some(false), None]) {
        let options = Options { inline, ..sized(1 << 20) };
        let mut rig = Rig::create(&disk_image(directory), &options);
        for op in [zero(512, 99 * 512, false), zero(512, 99 * 512, true), discard(512, 99 * 512)] {
            assert_eq!(rig.write(0, &pattern(1 << 16)), Ok(1 << 16));
            assert_eq!(rig.run(op), Ok(0));
            let mut expected = pattern(1 << 16);
            expected[512..100 * 512].fill(0);
            assert_eq!(rig.read(0, 1 << 16), expected);
        }
    }
}

#[test]
fn discarding_gives_the_room_back() {
    let directory = on_disk();
    let path = disk_image(&directory);
    let mut rig = Rig::create(&path, &sized(1 << 20));
    let Some(able) = rig.store.caps().discard else {
        eprintln!("skipped: no holes on this file system");
        return;
    };
    assert!(able.reads_zero);
    rig.write(0, &pattern(1 << 20)).unwrap();
    rig.run(Op::Flush).unwrap();
    let blocks = || rustix::fs::stat(&path).unwrap().st_blocks;
    let full = blocks();
    rig.run(discard(0, 1 << 20)).unwrap();
    assert!(blocks() + 1024 < full, "{full} became {}", blocks());
    assert_eq!(rig.read(0, 1 << 20), vec![0; 1 << 20]);
}

#[test]
fn readers_change_nothing() {
    let directory = on_disk();
    let path = disk_image(&directory);
    std::fs::write(&path, pattern(4096)).unwrap();
    let options = Options { read_only: true, ..Options::default() };
    let mut rig = Rig::create(&path, &options);
    assert_eq!(rig.store.caps().discard, None);
    assert_eq!(rig.read(512, 512), pattern(4096)[512..1024]);
    assert_eq!(rig.write(0, &[0; 512]), Err(IoError::ReadOnly));
    assert_eq!(rig.run(zero(0, 512, true)), Err(IoError::ReadOnly));
    assert_eq!(rig.run(Op::Flush), Ok(0));
}

#[test]
fn nothing_is_asked_of_the_kernel_for_no_bytes() {
    let directory = on_disk();
    let mut rig = Rig::create(&disk_image(&directory), &sized(4096));
    for op in [read(4096, &[]), write(0, &[]), zero(0, 0, false), discard(0, 0)] {
        assert_eq!(rig.submit(op, 0), Submit::Done(Ok(0)));
    }
    let memory = Memory::zeroed(512);
    let outside = rig.run(read(4096, &[memory.seg()]));
    assert_eq!(outside, Err(IoError::OutOfRange));
}

#[test]
fn what_a_file_can_do_is_said() {
    let directory = in_memory();
    let options = Options { rotational: Some(true), logical_block: 4096, ..sized(1 << 20) };
    let file = File::open(&disk_image(&directory), &options).unwrap();
    let caps = file.caps();
    assert!(caps.rotational && caps.volatile_cache && caps.fast_zero);
    assert_eq!((caps.logical_block, caps.physical_block), (4096, 4096));
    assert_eq!(file.mode(), "inline");
}

#[test]
fn what_is_kept_is_found() {
    for (directory, can_tell) in [(on_disk(), false), (in_memory(), true)] {
        let mut rig = Rig::create(&disk_image(&directory), &sized(4 << 20));
        let mut find = |offset, target| rig.run(Op::Seek { offset, target });
        if find(0, SeekTarget::Hole) != Ok(0) {
            assert!(!can_tell);
            continue;
        }
        assert_eq!(find(0, SeekTarget::Data), Ok(4 << 20));
        assert_eq!(find(4 << 20, SeekTarget::Data), Ok(4 << 20));
        assert_eq!(find((4 << 20) + 1, SeekTarget::Data), Err(IoError::OutOfRange));
        rig.write(1 << 20, &pattern(1 << 20)).unwrap();
        rig.run(discard(1536 << 10, 256 << 10)).unwrap();
        let mut find = |offset, target| rig.run(Op::Seek { offset, target }).unwrap() >> 10;
        assert_eq!((find(0, SeekTarget::Data), find(1 << 20, SeekTarget::Hole)), (1024, 1536));
        assert_eq!((find(1536 << 10, SeekTarget::Data), find(1792 << 10, SeekTarget::Hole)), (1792, 2048));
    }
}

/// Whose thread carries out a read, a write, a durable one, a flush and a discard: one of the kernel's, the writer's, the
/// syncer's or one of the workers'.
fn lanes(file: &File) -> String {
    let (mut rig, memory) = (Rig::new(file), Memory::zeroed(4096));
    let segs = [memory.seg()];
    for op in [read(0, &segs), write(0, &segs), durable(0, &segs), Op::Flush, discard(0, 4096)] {
        rig.run(op).unwrap();
    }
    let shared = &file.shared;
    let lane = |number| match number {
        None => 'k',
        Some(number) if number == shared.syncer.number() => 's',
        Some(number) if number == shared.writer.number() => 'w',
        Some(number) if number == shared.workers.number() => 'W',
        Some(_) => '?',
    };
    rig.sim.cx(0).take_lanes().into_iter().map(lane).collect()
}

#[test]
fn what_blocks_does_so_on_threads_of_the_file() {
    let (memory, disk) = (in_memory(), on_disk());
    // Which files the kernel reads without waiting is its own matter; the lanes follow.
    for directory in [&memory, &disk] {
        let options = Options { inline: Some(false), ..sized(1 << 20) };
        let file = File::open(&disk_image(directory), &options).unwrap();
        let probed = &file.shared.probed;
        let read = if probed.reads_block { 'W' } else { 'k' };
        let write = if probed.writes_block { 'w' } else { 'k' };
        assert_eq!(lanes(&file), format!("{read}{write}ssw"));
    }
    let options = Options { direct: true, logical_block: 4096, ..sized(1 << 20) };
    let Ok(file) = File::open(&disk.path().join("direct.img"), &options) else {
        return eprintln!("skipped: no direct I/O here");
    };
    if file.mode() == "direct" {
        let moved = if file.shared.probed.reads_block { 'W' } else { 'k' };
        assert_eq!(lanes(&file), format!("{moved}{moved}{moved}sw"));
    }
}

#[test]
fn the_room_that_a_sparse_file_takes_is_known() {
    let directory = in_memory();
    let file = File::open(&disk_image(&directory), &sized(64 << 20)).unwrap();
    let before = file.room().unwrap();
    let data = Memory::zeroed(8 << 20);
    sys::write_all(file.shared.borrow(), 0, Sg::new(&[data.seg()]), false).unwrap();
    let after = file.room().unwrap();
    assert!(before.used < 1 << 20 && (8 << 20..16 << 20).contains(&after.used), "{before:?} {after:?}");
    assert!(before.free > 0 && before.free < u64::MAX);
}
