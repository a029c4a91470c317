//! What happens when the kernel refuses or fails.

use super::*;
use crate::witness::Witness;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const EIO: IoError = IoError::Os(libc::EIO);

fn rig(directory: &TempDir) -> Rig {
    let options = Options { inline: Some(false), ..sized(4 << 20) };
    Rig::create(&disk_image(directory), &options)
}

#[test]
fn a_failed_flush_fails_all_later_ones() {
    let directory = on_disk();
    let file = File::open(&disk_image(&directory), &sized(1 << 20)).unwrap();
    let (mut rig, mut other) = (Rig::new(&file), Rig::new(&file));
    // Both are on their way when the first one fails.
    assert_eq!(rig.submit(Op::Flush, 1), Submit::Queued);
    rig.kernel.borrow_mut().sync = Some(EIO);
    assert_eq!(rig.submit(Op::Flush, 2), Submit::Queued);
    assert_eq!(rig.submit(Op::Flush, 3), Submit::Queued);
    rig.kernel.borrow_mut().sync = None;
    assert_eq!(rig.submit(Op::Flush, 4), Submit::Queued);
    rig.sim.settle();
    let expected = [(1, Ok(0)), (2, Err(EIO)), (3, Err(EIO)), (4, Err(EIO))];
    assert_eq!(*rig.log.0.borrow(), expected);
    assert_eq!(other.run(Op::Flush), Err(EIO));
    assert!(file.has_failed());
    drop((rig, other, file));
    let file = File::open(&disk_image(&directory), &sized(1 << 20)).unwrap();
    assert_eq!((file.has_failed(), Rig::new(&file).run(Op::Flush)), (false, Ok(0)));
    // Who goes on says that it had failed before.
    file.set_failed();
    assert_eq!((file.has_failed(), Rig::new(&file).run(Op::Flush)), (true, Err(EIO)));
}

thread_local! {
    /// What those who wait have been told.
    static TOLD: RefCell<Option<Rc<Log>>> = const { RefCell::new(None) };
}

#[test]
fn a_failure_is_kept_once_before_anybody_is_told() {
    static KEPT: AtomicUsize = AtomicUsize::new(0);
    let directory = on_disk();
    let options = Options { inline: Some(false), ..sized(1 << 20) };
    let file = File::open(&disk_image(&directory), &options).unwrap();
    file.keep_failure(Box::new(|| {
        TOLD.with_borrow(|log| assert!(log.as_ref().unwrap().0.borrow().is_empty()));
        KEPT.fetch_add(1, Ordering::SeqCst);
    }));
    let memory = Memory::zeroed(512);
    let segs = [memory.seg()];
    let mut rig = Rig::new(&file);
    TOLD.set(Some(rig.log.clone()));
    assert_eq!(rig.submit(Op::Flush, 0), Submit::Queued);
    rig.sim.settle();
    assert_eq!(rig.log.0.take(), [(0, Ok(0))]);
    assert_eq!(KEPT.load(Ordering::SeqCst), 0);
    // Whoever is the first.
    for (round, first) in [durable(0, &segs), Op::Flush].into_iter().enumerate() {
        if round > 0 {
            let directory = on_disk();
            let file = File::open(&disk_image(&directory), &options).unwrap();
            file.keep_failure(Box::new(|| {
                TOLD.with_borrow(|log| assert!(log.as_ref().unwrap().0.borrow().is_empty()));
                KEPT.fetch_add(1, Ordering::SeqCst);
            }));
            rig = Rig::new(&file);
            TOLD.set(Some(rig.log.clone()));
        }
        rig.kernel.borrow_mut().sync = Some(EIO);
        rig.kernel.borrow_mut().write = Some(EIO);
        for (operation, token) in [(first, 1), (Op::Flush, 2)] {
            assert_eq!(rig.submit(operation, token), Submit::Queued);
        }
        rig.sim.settle();
        assert_eq!(KEPT.load(Ordering::SeqCst), round + 1);
        let mut told = rig.log.0.take();
        told.sort_unstable_by_key(|(token, _)| *token);
        assert_eq!(told, [(1, Err(EIO)), (2, Err(EIO))]);
        assert_eq!(rig.submit(Op::Flush, 3), Submit::Done(Err(EIO)), "it is known");
    }
}

#[test]
fn a_failed_durable_write_fails_later_flushes_but_want_of_space_does_not() {
    let directory = on_disk();
    let mut rig = rig(&directory);
    let memory = Memory::zeroed(512);
    let segs = [memory.seg()];
    for (error, flush) in [(IoError::NoSpace, Ok(0)), (EIO, Err(EIO))] {
        rig.kernel.borrow_mut().write = Some(error);
        assert_eq!(rig.run(durable(0, &segs)), Err(error));
        rig.kernel.borrow_mut().write = None;
        assert_eq!(rig.run(Op::Flush), flush);
    }
}

/// A guest's memory may be taken away while the kernel copies from it.
#[test]
fn memory_that_is_gone_is_no_fault_of_the_medium() {
    let directory = on_disk();
    for inline in [false, true] {
        let mut rig =
            Rig::create(&disk_image(&directory), &Options { inline: Some(inline), ..sized(4 << 20) });
        // SAFETY: nothing is mapped there, so only the kernel is given it, which says so.
        let segs = [unsafe { Seg::new(std::ptr::without_provenance_mut(4096), 512) }];
        assert_eq!(rig.run(durable(0, &segs)), Err(IoError::Memory));
        assert_eq!(rig.run(write(0, &segs)), Err(IoError::Memory));
        assert_eq!(rig.run(Op::Flush), Ok(0));
        rig.write(0, &pattern(512)).unwrap();
        assert_eq!(rig.run(read(0, &segs)), Err(IoError::Memory));
        assert_eq!(rig.read(0, 512), pattern(512));
    }
}

/// The kernel tells each open file once of bytes that it has lost.
#[test]
fn a_durable_write_cannot_take_the_news_of_a_loss_from_a_flush() {
    let directory = on_disk();
    for (flush_first, lost) in [(false, true), (true, true), (false, false)] {
        let options = Options { inline: Some(false), ..sized(4 << 20) };
        let mut file = File::open(&disk_image(&directory), &options).unwrap();
        let news = if lost { libc::ENOSPC } else { 0 };
        let shared = std::sync::Arc::get_mut(&mut file.shared).unwrap();
        assert!(matches!(shared.witness, Some(Witness::Mapped(_))));
        shared.witness = Some(Witness::Telling(news.into()));
        let mut rig = Rig::new(&file);
        let memory = Memory::zeroed(512);
        let segs = [memory.seg()];
        // Of two that are on their way, whichever comes back first.
        rig.kernel.borrow_mut().write = Some(IoError::NoSpace);
        let mut operations = [(durable(0, &segs), 1), (Op::Flush, 2)];
        if flush_first {
            operations.reverse();
        }
        for (operation, token) in operations {
            assert_eq!(rig.submit(operation, token), Submit::Queued);
        }
        rig.sim.settle();
        let flushed = if lost { Err(IoError::NoSpace) } else { Ok(0) };
        let mut results = rig.log.0.take();
        results.sort_unstable_by_key(|(token, _)| *token);
        assert_eq!(results, [(1, Err(IoError::NoSpace)), (2, flushed)]);
        assert_eq!(rig.run(Op::Flush), flushed, "from then on");
    }
}

#[test]
fn a_second_open_file_needs_no_descriptor_and_is_asked() {
    let directory = on_disk();
    let path = disk_image(&directory);
    let file = File::open(&path, &sized(1 << 20)).unwrap();
    let of_it = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_link(entry.unwrap().path()).is_ok_and(|target| target == path)
    };
    assert_eq!(
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| of_it(entry).then_some(())).count(),
        1
    );
    let witness = file.shared.witness.as_ref().unwrap();
    assert!(matches!(witness, Witness::Mapped(_)));
    witness.ask().unwrap();
    let open = Witness::Open(std::fs::File::open(&path).unwrap().into());
    open.ask().unwrap();
    for options in
        [Options { read_only: true, ..Options::default() }, Options { direct: true, ..sized(1 << 20) }]
    {
        let directory = on_disk();
        File::open(&disk_image(&directory), &sized(1 << 20)).unwrap();
        let file = File::open(&disk_image(&directory), &options).unwrap();
        assert!(file.shared.witness.is_none());
    }
}

#[test]
fn zeroes_are_written_where_the_file_system_cannot_make_them() {
    let directory = on_disk();
    let mut rig = rig(&directory);
    rig.write(0, &pattern(2 << 20)).unwrap();
    rig.done();
    rig.kernel.borrow_mut().allocate = Some(IoError::Unsupported);
    let (start, length) = (512, (1 << 20) + 512);
    assert_eq!(rig.run(zero(start, length, true)), Ok(0));
    let done = rig.done();
    assert_eq!(done.trim_start_matches(['p', 'z']), "wwwww");
    let mut expected = pattern(2 << 20);
    expected[512..(1 << 20) + 1024].fill(0);
    assert_eq!(rig.read(0, 2 << 20), expected);
    rig.done();
    assert_eq!(rig.run(zero(0, 512, false)), Ok(0));
    assert_eq!(rig.done(), "w", "it has learnt");
}

#[test]
fn other_errors_end_zeroing() {
    let directory = on_disk();
    let mut rig = rig(&directory);
    rig.kernel.borrow_mut().allocate = Some(EIO);
    assert_eq!(rig.run(zero(0, 4096, true)), Err(EIO));
    rig.kernel.borrow_mut().allocate = Some(IoError::Unsupported);
    rig.kernel.borrow_mut().write = Some(IoError::NoSpace);
    assert_eq!(rig.run(zero(0, 4096, true)), Err(IoError::NoSpace));
}

#[test]
fn a_full_reactor_is_passed_on_or_waited_for() {
    let directory = on_disk();
    let mut rig = rig(&directory);
    let memory = Memory::zeroed(512);
    let segs = [memory.seg()];
    for op in [read(0, &segs), write(0, &segs), durable(0, &segs), Op::Flush] {
        rig.kernel.borrow_mut().full = 1;
        assert_eq!(rig.submit(op, 0), Submit::Full);
    }
    rig.kernel.borrow_mut().full = 2;
    assert_eq!(rig.submit(zero(0, 4096, true), 7), Submit::Queued);
    for _ in 0..2 {
        rig.sim.settle();
        assert!(rig.log.0.borrow().is_empty());
        rig.sim.advance(Duration::from_millis(1));
    }
    rig.sim.settle();
    assert_eq!(*rig.log.0.borrow(), [(7, Ok(0))]);
}

#[test]
fn a_file_that_was_cut_ends_reads_early() {
    let path_of = |inline, directory: &TempDir| {
        let path = disk_image(directory);
        let options = Options { inline, ..sized(8192) };
        (Rig::create(&path, &options), path)
    };
    for inline in [None, Some(true), Some(false)] {
        let directory = on_disk();
        let (mut rig, path) = path_of(inline, &directory);
        cut(&path, 5000);
        let memory = Memory::zeroed(4096);
        let segs = [memory.seg()];
        let short = Err(IoError::Short { moved: 904 });
        assert_eq!(rig.run(read(4096, &segs)), short);
    }
}
