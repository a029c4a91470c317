//! Past the page cache, with memory that does not suit.

use super::*;

/// `None` where there is no direct I/O.
fn rig(directory: &TempDir, size: u64) -> Option<Rig> {
    let options = Options { direct: true, ..sized(size) };
    match File::open(&disk_image(directory), &options) {
        Ok(file) if file.mode() == "direct" => Some(Rig::new(&file)),
        Ok(_) => {
            eprintln!("skipped: built on a file system in memory");
            None
        }
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn aligned_memory_is_used_as_it_is() {
    let directory = on_disk();
    let Some(mut rig) = rig(&directory, 1 << 20) else {
        return;
    };
    let memory = Memory::from_bytes(&pattern(8192));
    let segs = [memory.seg().part(4096, 4096), memory.seg().part(0, 4096)];
    assert_eq!(rig.run(write(4096, &segs)), Ok(8192));
    let swapped = [&pattern(8192)[4096..], &pattern(8192)[..4096]].concat();
    assert_eq!(rig.read(4096, 8192), swapped);
    assert_eq!(rig.run(durable(4096, &segs)), Ok(8192));
    assert_eq!(rig.run(Op::Flush), Ok(0));
    assert_eq!(rig.done(), "wrds");
}

#[test]
fn misaligned_memory_takes_a_detour() {
    let directory = on_disk();
    let Some(mut rig) = rig(&directory, 8 << 20) else {
        return;
    };
    // Odd addresses and odd lengths, and more than one buffer's worth.
    let length = (2 << 20) + 4096;
    let bytes = pattern(length);
    let source = Memory::from_bytes(&[&[0; 3], &bytes[..]].concat());
    let segs = [
        source.seg().part(3, 1001),
        source.seg().part(1004, 1 << 20),
        source.seg().part(1004 + (1 << 20), usize::MAX),
    ];
    assert_eq!(rig.run(write(4096, &segs)), Ok(length as u64));
    assert_eq!(rig.done(), "www");
    assert_eq!(rig.read(4096, length), bytes);
    assert_eq!(rig.done(), "r", "aligned");

    let target = Memory::zeroed(length + 5);
    let segs =
        [target.seg().part(5, 7), target.seg().part(12, 100_000), target.seg().part(100_012, usize::MAX)];
    assert_eq!(rig.run(read(4096, &segs)), Ok(length as u64));
    assert_eq!(rig.done(), "rrr");
    assert_eq!(target.to_vec()[5..], bytes);
    assert_eq!(target.to_vec()[..5], [0; 5]);
    assert_eq!(rig.run(durable(4096, &segs)), Ok(length as u64));
    assert_eq!(rig.done(), "ddd");
}

#[test]
fn detours_wait_for_buffers_and_all_arrive() {
    let directory = on_disk();
    let Some(mut rig) = rig(&directory, 1 << 20) else {
        return;
    };
    let memory = Memory::from_bytes(&pattern((1 << 20) + 1));
    let segs = [memory.seg().part(1, 1 << 20)];
    for token in 0..20 {
        let op = if token % 2 == 0 { write(0, &segs) } else { read(0, &segs) };
        assert_eq!(rig.submit(op, token), Submit::Queued);
    }
    assert_eq!(rig.kernel.borrow().done.len(), 8, "the others wait");
    rig.sim.settle();
    let mut tokens: Vec<u64> = rig.log.0.borrow().iter().map(|(token, _)| *token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (0..20).collect::<Vec<_>>());
    assert!(rig.log.0.borrow().iter().all(|(_, result)| *result == Ok(1 << 20)));
}

#[test]
fn a_failing_detour_reports_the_error() {
    let directory = on_disk();
    let Some(mut rig) = rig(&directory, 1 << 20) else {
        return;
    };
    let memory = Memory::zeroed(1024);
    let segs = [memory.seg().part(1, 512)];
    let error = IoError::Os(libc::EIO);
    rig.kernel.borrow_mut().write = Some(error);
    assert_eq!(rig.run(write(0, &segs)), Err(error));
    assert_eq!(rig.run(Op::Flush), Ok(0));
    assert_eq!(rig.run(durable(0, &segs)), Err(error));
    assert_eq!(rig.run(Op::Flush), Err(error));
}

#[test]
fn a_detour_from_a_file_that_was_cut_ends_early() {
    let directory = on_disk();
    let Some(mut rig) = rig(&directory, 2 << 20) else {
        return;
    };
    cut(&disk_image(&directory), (1 << 20) + 4096);
    let memory = Memory::from_bytes(&vec![7; (2 << 20) + 1]);
    let segs = [memory.seg().part(1, 2 << 20)];
    let moved = (1 << 20) + 4096;
    assert_eq!(rig.run(read(0, &segs)), Err(IoError::Short { moved }));
    let bytes = memory.to_vec();
    assert!(bytes[1..=moved as usize].iter().all(|byte| *byte == 0));
    assert!(bytes[moved as usize + 1..].iter().all(|byte| *byte == 7));
}

#[test]
fn contradictions_are_refused() {
    let directory = on_disk();
    let both = Options { direct: true, inline: Some(true), ..sized(1 << 20) };
    let error = File::open(&disk_image(&directory), &both).unwrap_err();
    assert!(error.to_string().ends_with("direct=on and inline=on exclude each other"));
}
