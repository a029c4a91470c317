//! Block devices, where the tests may make loop devices.

use super::*;
use std::process::Command;

struct Loop {
    path: PathBuf,
    image: TempDir,
}

impl Loop {
    /// A loop device of `size` bytes; `None`, said aloud, where there are none to be had.
    fn new(size: u64, sector: u32) -> Option<Self> {
        let directory = on_disk();
        let image = disk_image(&directory);
        std::fs::File::create(&image).unwrap().set_len(size).unwrap();
        let output = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &sector.to_string()])
            .arg(&image)
            .output();
        match output {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8(output.stdout).unwrap();
                Some(Self { path: path.trim().into(), image: directory })
            }
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr);
                eprintln!("skipped: no loop device: {}", why.trim());
                None
            }
            Err(error) => {
                eprintln!("skipped: no losetup: {error}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

fn plain() -> Options {
    Options { create_size: None, ..sized(0) }
}

#[test]
fn a_device_is_read_written_zeroed_and_discarded() {
    let Some(device) = Loop::new(8 << 20, 512) else {
        return;
    };
    let options = Options { inline: Some(false), ..plain() };
    let mut rig = Rig::create(&device.path, &options);
    let caps = rig.store.caps().clone();
    assert_eq!((caps.size.get(), caps.logical_block), (8 << 20, 512));
    let bytes = pattern(1 << 20);
    assert_eq!(rig.write(0, &bytes), Ok(1 << 20));
    assert_eq!(rig.run(zero(512, 512, false)), Ok(0));
    assert_eq!(rig.run(zero(1024, 512, true)), Ok(0));
    let mut expected = bytes;
    expected[512..1536].fill(0);
    assert_eq!(rig.read(0, 1 << 20), expected);
    assert_eq!(rig.run(Op::Flush), Ok(0));
    if let Some(discards) = caps.discard {
        assert!(!discards.reads_zero);
        assert_eq!(rig.run(discard(512, 1 << 19)), Ok(0));
        assert_eq!(rig.read(0, 512), expected[..512]);
        assert_eq!(rig.read((1 << 19) + 512, 512), expected[(1 << 19) + 512..][..512]);
    }
}

#[test]
fn ranges_that_are_smaller_than_a_sector_are_written_or_kept() {
    let Some(device) = Loop::new(1 << 20, 4096) else {
        return;
    };
    let mut rig = Rig::create(&device.path, &plain());
    let bytes = pattern(16384);
    rig.write(0, &bytes).unwrap();
    rig.done();
    assert_eq!(rig.run(zero(512, 512, true)), Ok(0));
    assert_eq!(rig.done(), "w");
    assert_eq!(rig.run(discard(4096 + 512, 4096)), Ok(0));
    let mut expected = bytes;
    expected[512..1024].fill(0);
    assert_eq!(rig.read(0, 16384), expected);

    drop(rig);
    let direct = Options { direct: true, ..plain() };
    let error = File::open(&device.path, &direct).unwrap_err().to_string();
    assert!(error.ends_with("needs a block size of at least 4096 bytes, not 512"), "{error}");
    let blocks = Options { logical_block: 4096, ..direct };
    assert_eq!(File::open(&device.path, &blocks).unwrap().mode(), "direct");
}

#[test]
fn a_device_has_one_writer_or_many_readers() {
    let Some(device) = Loop::new(1 << 20, 512) else {
        return;
    };
    let reader = Options { read_only: true, ..plain() };
    let in_use = format!("{} is in use by this process already", device.path.display());
    let refusal = |options: &Options| File::open(&device.path, options).unwrap_err().to_string();
    let writer = File::open(&device.path, &plain()).unwrap();
    assert_eq!(refusal(&plain()), in_use);
    assert_eq!(refusal(&reader), in_use);
    drop(writer);
    let _readers = [File::open(&device.path, &reader).unwrap(), File::open(&device.path, &reader).unwrap()];
    assert_eq!(refusal(&plain()), in_use);
}

#[test]
fn a_mounted_device_is_refused() {
    let Some(device) = Loop::new(8 << 20, 512) else {
        return;
    };
    let at = tempfile::tempdir().unwrap();
    let run = |command: &mut Command| command.output().is_ok_and(|o| o.status.success());
    if !run(Command::new("mkfs.ext4").arg("-q").arg(&device.path))
        || !run(Command::new("mount").arg(&device.path).arg(at.path()))
    {
        eprintln!("skipped: cannot mount an ext4 file system here");
        return;
    }
    let reader = Options { read_only: true, ..plain() };
    let messages = [plain(), reader].map(|options| {
        let refused = File::open(&device.path, &options);
        refused.map_err(|error| error.to_string())
    });
    assert!(run(Command::new("umount").arg(at.path())));
    let expected = format!("{} is in use: mounted on {}", device.path.display(), at.path().display());
    for message in messages {
        assert_eq!(message.unwrap_err(), expected);
    }
    assert!(File::open(&device.path, &plain()).is_ok());
}

#[test]
fn a_device_has_the_size_that_others_give_it() {
    let Some(device) = Loop::new(1 << 20, 512) else {
        return;
    };
    let file = File::open(&device.path, &plain()).unwrap();
    assert!(!file.is_resizable());
    assert_eq!(file.resize(2 << 20), Err(IoError::Unsupported));
    let image = disk_image(&device.image);
    cut(&image, 2 << 20);
    let told = Command::new("losetup").arg("--set-capacity").arg(&device.path).status().unwrap();
    assert!(told.success());
    assert_eq!((file.measure(), file.caps().size.get()), (Ok(2 << 20), 1 << 20));
    assert_eq!(file.resize(2 << 20), Ok(()));
    let mut rig = Rig::new(&file);
    assert_eq!(rig.write((2 << 20) - 512, &[1; 512]), Ok(512));
    assert_eq!(rig.read((2 << 20) - 512, 512), [1; 512]);
}
