//! Files that become larger and smaller.

use super::*;
use lunette_store::Backing;

fn open(path: &Path) -> File {
    File::open(path, &Options { create_size: None, ..sized(0) }).unwrap()
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn a_file_grows_with_zeroes_and_keeps_its_size() {
    for (directory, options) in [
        (on_disk(), sized(1 << 20)),
        (on_disk(), Options { direct: true, logical_block: 4096, ..sized(1 << 20) }),
        (in_memory(), sized(1 << 20)),
    ] {
        let path = disk_image(&directory);
        let file = File::open(&path, &options).unwrap();
        let mut rig = Rig::new(&file);
        rig.write(0, &pattern(1 << 20)).unwrap();
        assert!(file.is_resizable());
        assert_eq!(file.resize(3 << 20), Ok(()));
        assert_eq!((rig.store.caps().size.get(), length(&path)), (3 << 20, 3 << 20));
        assert_eq!(rig.read(0, 3 << 20), [pattern(1 << 20), vec![0; 2 << 20]].concat());
        rig.write((3 << 20) - 4096, &[9; 4096]).unwrap();
        drop((rig, file));
        let again = open(&path);
        assert_eq!(again.caps().size.get(), 3 << 20);
        assert_eq!(Rig::new(&again).read((3 << 20) - 4096, 4096), [9; 4096]);
    }
}

#[test]
fn what_is_cut_off_is_gone_and_comes_back_as_zero() {
    let directory = on_disk();
    let path = disk_image(&directory);
    let file = File::open(&path, &sized(1 << 20)).unwrap();
    let mut rig = Rig::new(&file);
    rig.write(0, &pattern(1 << 20)).unwrap();
    assert_eq!(file.resize(5 * 512), Ok(()));
    assert_eq!((file.caps().size.get(), length(&path)), (5 * 512, 5 * 512));
    let memory = Memory::zeroed(512);
    let segs = [memory.seg()];
    assert_eq!(rig.run(read(5 * 512, &segs)), Err(IoError::OutOfRange));
    assert_eq!(rig.run(zero(4 * 512, 1024, true)), Err(IoError::OutOfRange));
    assert_eq!(rig.run(Op::Seek { offset: 0, target: SeekTarget::Hole }), Ok(5 * 512));
    assert_eq!(file.resize(1 << 20), Ok(()));
    assert_eq!(rig.read(0, 8192), [pattern(8192)[..5 * 512].to_vec(), vec![0; 8192 - 5 * 512]].concat());
}

#[test]
fn what_others_have_made_of_it_is_measured_and_then_taken_note_of() {
    let directory = on_disk();
    let path = disk_image(&directory);
    let file = File::open(&path, &sized(1 << 20)).unwrap();
    for size in [4 << 20, 512] {
        cut(&path, size);
        assert_ne!(file.caps().size.get(), size);
        assert_eq!(file.measure(), Ok(size));
        assert_eq!(file.resize(size), Ok(()));
        assert_eq!((file.caps().size.get(), length(&path)), (size, size));
    }
}

#[test]
fn who_only_reads_changes_no_file() {
    let directory = on_disk();
    let path = disk_image(&directory);
    drop(File::open(&path, &sized(1 << 20)).unwrap());
    let reader = File::open(&path, &Options { read_only: true, create_size: None, ..sized(0) }).unwrap();
    assert!(!reader.is_resizable());
    assert_eq!(reader.resize(2 << 20), Err(IoError::ReadOnly));
    cut(&path, 2 << 20);
    assert_eq!((reader.measure(), reader.resize(2 << 20)), (Ok(2 << 20), Ok(())));
    assert_eq!(reader.caps().size.get(), 2 << 20);
}

#[test]
fn a_size_that_no_file_can_have_changes_nothing() {
    let directory = on_disk();
    let path = disk_image(&directory);
    let file = File::open(&path, &sized(1 << 20)).unwrap();
    assert!(file.resize(i64::MAX as u64).is_err());
    assert!(file.resize(u64::MAX).is_err());
    assert_eq!((file.caps().size.get(), length(&path)), (1 << 20, 1 << 20));
    assert_eq!(Rig::new(&file).write(0, &[1; 512]), Ok(512));
}
