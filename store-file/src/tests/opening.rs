//! Opening, creating, locking.

use super::*;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

fn refusal(path: &Path, options: &Options) -> String {
    File::open(path, options).unwrap_err().to_string()
}

#[test]
fn a_new_file_is_sparse_and_has_the_size_asked_for() {
    for directory in [on_disk(), in_memory()] {
        let path = disk_image(&directory);
        let file = File::open(&path, &sized(1 << 30)).unwrap();
        assert_eq!(file.caps().size.get(), 1 << 30);
        let stat = rustix::fs::stat(&path).unwrap();
        assert_eq!(stat.st_size, 1 << 30);
        assert!(stat.st_blocks < 64, "sparse");
        drop(file);
        let again = File::open(&path, &sized(1 << 30)).unwrap();
        assert_eq!(again.caps().size.get(), 1 << 30);
    }
}

#[test]
fn an_empty_file_is_given_a_size() {
    let directory = on_disk();
    let path = disk_image(&directory);
    std::fs::write(&path, []).unwrap();
    let plain = Options::default();
    let shown = path.display();
    let empty = format!("{shown} is empty (size=… gives it a size)");
    assert_eq!(refusal(&path, &plain), empty);
    assert_eq!(File::open(&path, &sized(4096)).unwrap().caps().size.get(), 4096);
}

#[test]
fn refusals_say_what_to_do() {
    let directory = on_disk();
    let path = disk_image(&directory);
    let shown = path.display();
    let plain = Options::default();
    let missing = format!("{shown} does not exist (size=… creates it)");
    assert_eq!(refusal(&path, &plain), missing);
    let reader = Options { read_only: true, ..sized(4096) };
    let useless = format!("{shown} does not exist, and is created only where it may be written");
    assert_eq!(refusal(&path, &reader), useless);

    std::fs::write(&path, [0; 5000]).unwrap();
    let partial = format!(
        "the size of {shown}, 5000 bytes, is not a multiple of the block size 512: 392 bytes are left over"
    );
    assert_eq!(refusal(&path, &plain), partial);
    let other = format!("{shown} has 5000 bytes, not the 4096 of size=; leave size= out to use it as it is");
    assert_eq!(refusal(&path, &sized(4096)), other);
    assert!(refusal(&path, &sized(1000)).contains("not a multiple"));
    assert!(refusal(&path, &sized(0)).ends_with("size= must not be 0"));
    let odd = Options { logical_block: 520, ..plain.clone() };
    assert!(refusal(&path, &odd).contains("power of two"));

    let directory = directory.path();
    let folder = format!("{} is not a regular file or block device", directory.display());
    assert_eq!(refusal(directory, &plain), folder);
    assert!(refusal(Path::new("/dev/null"), &plain).ends_with("block device"));
    let below = directory.join("disk.img/below");
    let error = format!("cannot open {}: Not a directory", below.display());
    assert_eq!(refusal(&below, &plain), error);
}

#[test]
fn a_file_that_cannot_get_its_size_is_not_left_behind() {
    let directory = on_disk();
    let path = disk_image(&directory);
    let huge = sized(i64::MAX as u64 & !511);
    let message = refusal(&path, &huge);
    assert!(message.starts_with("cannot give a size to"), "{message}");
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_of_no_use_is_not_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mount = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).arg(directory.path()).output().is_ok_and(|output| output.status.success())
    };
    if !mount("mount", &["-t", "hugetlbfs", "none"]) {
        return eprintln!("skipped: cannot mount hugetlbfs here");
    }
    let path = disk_image(&directory);
    let (message, left) = (refusal(&path, &sized(1 << 30)), path.exists());
    assert!(mount("umount", &[]));
    assert!(message.contains("hugetlbfs"), "{message}");
    assert!(!left);
}

#[test]
fn a_link_to_nowhere_is_refused() {
    let directory = on_disk();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(disk_image(&directory), &link).unwrap();
    let dangling = format!("{} is a symbolic link to a file that does not exist", link.display());
    assert_eq!(refusal(&link, &sized(4096)), dangling);
}

#[test]
fn the_same_bytes_are_open_once_unless_all_only_read() {
    for directory in [on_disk(), in_memory()] {
        let path = disk_image(&directory);
        let writer = sized(4096);
        let reader = Options { read_only: true, ..writer.clone() };
        let first = File::open(&path, &writer).unwrap();
        let in_use = format!("{} is in use by this process already", path.display());
        // However long it may wait: whoever holds it is asking.
        assert_eq!(refusal(&path, &writer), in_use);
        assert_eq!(refusal(&path, &reader), in_use);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(File::open(&link, &writer).is_err());
        let name = directory.path().join("second name");
        std::fs::hard_link(&path, &name).unwrap();
        assert_eq!(refusal(&name, &writer), format!("{} is in use by this process already", name.display()));
        drop(first);
        let _reader = File::open(&path, &reader).unwrap();
        let _another = File::open(&link, &reader).unwrap();
        assert_eq!(refusal(&path, &writer), in_use);
    }
}

#[test]
fn a_reader_waits_for_its_predecessor_and_for_no_other() {
    for directory in [on_disk(), in_memory()] {
        let path = disk_image(&directory);
        let writer = sized(4096);
        let reader = Options { read_only: true, ..writer.clone() };
        let at_once = Duration::ZERO;
        File::open(&path, &writer).unwrap().succeed(7, at_once).unwrap();
        let first = File::open(&path, &reader).unwrap();
        first.succeed(7, at_once).unwrap();
        File::open(&path, &reader).unwrap().succeed(i64::MAX as u64, at_once).unwrap();
        File::open(&path, &reader).unwrap().succeed(0, at_once).unwrap();
        let next = File::open(&path, &reader).unwrap();
        let in_use = format!("{} is in use by this process already", path.display());
        assert_eq!(next.succeed(7, writer.lock_wait).unwrap_err().to_string(), in_use);
        assert_eq!(refusal(&path, &writer), in_use);
        drop(first);
        next.succeed(7, writer.lock_wait).unwrap();
    }
}

#[test]
fn it_is_known_which_file_was_created() {
    let directory = in_memory();
    let path = disk_image(&directory);
    assert!(File::open(&path, &sized(4096)).unwrap().was_created());
    assert!(!File::open(&path, &sized(4096)).unwrap().was_created());
    // What somebody else has made, but not given a size, is his.
    std::fs::write(&path, []).unwrap();
    assert!(!File::open(&path, &sized(4096)).unwrap().was_created());
}

#[test]
fn a_handle_keeps_the_lock() {
    let directory = in_memory();
    let path = disk_image(&directory);
    let mut rig = Rig::create(&path, &sized(4096));
    assert!(File::open(&path, &sized(4096)).is_err());
    let Rig { sim, store, .. } = &mut rig;
    *store = Rc::new(lunette_store::ram::Ram::new(512).unwrap());
    sim.settle();
    assert!(File::open(&path, &sized(4096)).is_ok());
}

const HOLD: &str = "LUNETTE_TEST_HOLD";

const READER: &str = "LUNETTE_TEST_READER";

/// Not a test of its own: the second process of the next ones.
#[test]
fn hold_for_another_process() {
    if let Some(path) = std::env::var_os(HOLD) {
        let reads = std::env::var_os(READER).is_some();
        let file = File::open(Path::new(&path), &Options { read_only: reads, ..sized(4096) }).unwrap();
        file.succeed(7, Duration::ZERO).unwrap();
        println!("\nholding");
        std::io::stdin().lines().for_each(drop);
    }
}

/// Another process that has the file until its standard input ends.
fn hold(path: &Path, reads: bool) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "tests::opening::hold_for_another_process", "--nocapture"]).env(HOLD, path);
    if reads {
        command.env(READER, "1");
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = output.lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "holding"));
    child
}

#[test]
fn a_reader_of_another_process_is_named_by_its_place() {
    let directory = on_disk();
    let path = disk_image(&directory);
    drop(File::open(&path, &sized(4096)).unwrap());
    let mut child = hold(&path, true);
    let reader = Options { read_only: true, ..sized(4096) };
    // Has a lock, too, and is this very process.
    let _another = File::open(&path, &reader).unwrap();
    let file = File::open(&path, &reader).unwrap();
    let in_use = format!("{} is in use by another process (pid {})", path.display(), child.id());
    assert_eq!(file.succeed(7, Duration::ZERO).unwrap_err().to_string(), in_use);
    let waiting = std::thread::spawn(move || file.succeed(7, reader.lock_wait));
    drop(child.stdin.take());
    waiting.join().unwrap().unwrap();
    child.wait().unwrap();
}

#[test]
fn another_process_is_named_and_waited_for() {
    let directory = on_disk();
    let path = disk_image(&directory);
    let mut child = hold(&path, false);

    let in_use = format!("{} is in use by another process (pid {})", path.display(), child.id());
    let hasty = Options { lock_wait: Duration::ZERO, ..sized(4096) };
    assert_eq!(refusal(&path, &hasty), in_use);

    let waiting = std::thread::spawn({
        let path = path.clone();
        move || File::open(&path, &sized(4096)).map(drop)
    });
    drop(child.stdin.take());
    waiting.join().unwrap().unwrap();
    child.wait().unwrap();
}
