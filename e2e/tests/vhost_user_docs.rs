//! The lines of docs/vhost-user.md do what it says.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::guest::Guest;
use lunette_e2e::qemu::Qemu;
use lunette_e2e::tools::{self, LIMIT};

/// Where the document has its sockets.
const SOCKETS: &str = "/run/lunette/";
/// The user that libvirt's driver runs as.
const NOBODY: u32 = 65534;

/// The blocks of a kind whose text begins with `start`.
fn blocks(kind: &str, start: &str) -> Result<Vec<String>> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vhost-user.md");
    let text = fs::read_to_string(document)?;
    let fence = format!("\n```{kind}\n");
    let blocks = text.split(&fence).skip(1).filter_map(|rest| rest.split_once("\n```"));
    Ok(blocks.map(|(block, _)| block.to_owned()).filter(|block| block.starts_with(start)).collect())
}

/// The arguments of a line, without the program, and with the sockets of `lunette`.
fn arguments(line: &str, lunette: &Lunette<'_>) -> Vec<String> {
    let sockets = lunette.path("").display().to_string();
    let line =
        line.replace("\\\n", " ").replace("-accel kvm ", "").replace('…', "").replace(SOCKETS, &sockets);
    line.split_whitespace().skip(1).map(str::to_owned).collect()
}

/// A daemon with two sockets and a disk with a file system to come, and the guest that a line of the document starts.
fn boot(arguments: impl FnOnce(&Lunette<'_>) -> Result<Vec<String>>) -> Result<(Daemon, Guest)> {
    let lunette = Lunette::new()?;
    let file = lunette.file("disk.img", 64 << 20)?;
    let lunette = lunette.lu(format!("disk:{},w", file.display())).arg("--reactors").arg("2");
    let lunette = lunette.vhost_user("vm1.sock").vhost_user("vm2.sock");
    let arguments = arguments(&lunette)?;
    let daemon = lunette.start()?;
    let guest = Qemu::new().machine(arguments).modules(["virtio_scsi", "sd_mod", "sg"]).boot()?;
    Ok((daemon, guest))
}

fn finish(mut guest: Guest, daemon: Daemon) -> Result<()> {
    guest.check(
        "mkfs.ext4 -q $(disk 0 0) && mount $(disk 0 0) /mnt && cp -r /etc /mnt && sync && umount /mnt",
    )?;
    guest.check("fsck.ext4 -fn $(disk 0 0)")?;
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}

#[test]
fn the_first_line_gives_a_bootable_disk_with_two_deep_queues() -> Result<()> {
    let lines = blocks("sh", "qemu-system")?;
    let (daemon, mut guest) = boot(|lunette| Ok(arguments(&lines[0], lunette)))?;
    assert_eq!(guest.check("ls /sys/block/$(basename $(disk 0))/mq | wc -l")?, "2\n");
    assert_eq!(guest.check("cat /sys/class/scsi_host/host0/can_queue")?, "256\n");
    finish(guest, daemon)
}

#[test]
fn the_second_line_gives_two_hosts_in_huge_pages() -> Result<()> {
    let lines = blocks("sh", "qemu-system")?;
    assert_eq!(lines.len(), 2, "each line of the document has a test");
    let _pages = HugePages::reserve(512)?;
    let (daemon, mut guest) = boot(|lunette| Ok(arguments(&lines[1], lunette)))?;
    // Both see one disk.
    guest.check("echo seen by both | dd of=$(disk 0 0) bs=512 conv=sync oflag=direct status=none")?;
    let read = "dd if=$(disk 0 1) bs=512 count=1 iflag=direct status=none | tr -d '\\0'";
    assert_eq!(guest.check(read)?, "seen by both\n");
    // VIRTIO_F_RING_PACKED is bit 34. By default there is a queue for each processor.
    assert_eq!(guest.check("cut -c35 /sys/class/scsi_host/host*/device/../features | tr '\\n' ' '")?, "0 1 ");
    assert_eq!(guest.check("ls /sys/block/$(basename $(disk 0 0))/mq | wc -l")?, "2\n");
    finish(guest, daemon)
}

/// Huge pages of 2 MiB, given back at the end. They are the machine's, so who else wants to reserve some waits.
struct HugePages {
    before: String,
    _lock: File,
}

impl HugePages {
    const NUMBER: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

    fn reserve(count: u64) -> Result<Self> {
        let lock = File::open(Self::NUMBER)?;
        lock.lock()?;
        let before = fs::read_to_string(Self::NUMBER)?;
        let wanted = before.trim().parse::<u64>()? + count;
        fs::write(Self::NUMBER, wanted.to_string())?;
        let pages = Self { before, _lock: lock };
        let got = fs::read_to_string(Self::NUMBER)?;
        ensure!(got.trim() == wanted.to_string(), "only {} of {wanted} huge pages are free", got.trim());
        Ok(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(Self::NUMBER, &self.before);
    }
}

/// The command line that libvirt makes of a domain. Its driver runs without a daemon and without privileges.
fn translate(domain: &str) -> Result<Vec<String>> {
    tools::need(["virsh", "virt-xml-validate", "xmllint", "setpriv"])?;
    let folder = tools::temp_dir()?;
    chown(folder.path(), Some(NOBODY), Some(NOBODY))?;
    let (file, home) = (folder.path().join("domain.xml"), folder.path().display().to_string());
    fs::write(&file, domain)?;
    let mut validate = tools::command("virt-xml-validate")?;
    tools::run(validate.arg(&file).arg("domain"), LIMIT)?.ok()?;
    let mut virsh = tools::command("setpriv")?;
    virsh.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "env", &format!("HOME={home}")]);
    virsh.args(["virsh", "--quiet", "--connect", &format!("qemu:///embed?root={home}/root")]);
    let said = tools::run(virsh.args(["domxml-to-native", "qemu-argv"]).arg(&file), LIMIT)?.ok()?;
    // It is quoted for a shell.
    let mut split = tools::command("sh")?;
    split.args(["-c", "eval \"for word in $0; do printf '%s\\n' \\\"\\$word\\\"; done\""]);
    let words = tools::run(split.arg(said.stdout.trim()), LIMIT)?.ok()?;
    Ok(words.stdout.lines().map(str::to_owned).collect())
}

#[test]
fn the_domain_is_one_for_libvirt_and_boots() -> Result<()> {
    let domains = blocks("xml", "<domain")?;
    let [domain] = &domains[..] else { panic!("{} domains", domains.len()) };
    // The tests do without KVM.
    let words = translate(&domain.replace("type='kvm'", "type='qemu'"))?;
    let (daemon, mut guest) = boot(|lunette| {
        let sockets = lunette.path("").display().to_string();
        let ours = |option: &str, value: &str| match option {
            "-machine" | "-m" | "-smp" => true,
            "-object" => value.contains("memory-backend-memfd"),
            "-chardev" | "-device" => value.contains("lunette0"),
            _ => false,
        };
        let pairs = words.windows(2).filter(|pair| ours(&pair[0], &pair[1]));
        let picked: Vec<String> = pairs.flatten().map(|word| word.replace(SOCKETS, &sockets)).collect();
        ensure!(picked.len() == 12, "{picked:?} of {words:?}");
        Ok(picked)
    })
    .context("with libvirt's arguments")?;
    assert_eq!(guest.check("ls /sys/block/$(basename $(disk 0))/mq | wc -l")?, "2\n");
    finish(guest, daemon)
}
