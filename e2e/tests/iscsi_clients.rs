//! iSCSI clients in user space: libiscsi's tools and its conformance suite, QEMU's block layer.

use std::fs;
use std::io::{self, Write};

use anyhow::Result;
use lunette_e2e::daemon::Lunette;
use lunette_e2e::iscsi_test_cu::{self, Access, Expected, Totals};
use lunette_e2e::tools;

/// Every test of libiscsi's suite. How many ended how is printed, whatever becomes of what tests print.
#[test]
fn conformance_tests_end_as_listed() -> Result<()> {
    let expected = Expected::parse(include_str!("../expected/iscsi-test-cu.txt"))?;
    let outcomes = iscsi_test_cu::run()?;
    writeln!(io::stderr(), "{}", Totals::of(&outcomes))?;
    expected.compare(&outcomes)
}

/// The suite's iSCSI tests once more, with CHAP both ways and header digests.
#[test]
fn conformance_tests_end_alike_with_proofs_and_digests() -> Result<()> {
    let expected = Expected::parse(include_str!("../expected/iscsi-test-cu.txt"))?;
    let outcomes = iscsi_test_cu::run_family("iSCSI", Access::Proven)?;
    writeln!(io::stderr(), "{}", Totals::of(&outcomes))?;
    expected.only("iSCSI").compare(&outcomes)
}

#[test]
fn libiscsi_finds_and_describes_the_disks() -> Result<()> {
    let daemon = Lunette::new()?
        .lu("disk:ram:64M,w,serial=ABC123")
        .lu("disk:ram:8M,r,block=4096,lun=5")
        .iscsi()
        .start()?;
    let portal = format!("iscsi://127.0.0.1:{}/", daemon.iscsi_port()?);
    let listed = tools::output("iscsi-ls", ["-s", &portal])?.ok()?.stdout;
    assert!(listed.contains("iqn.2026-11.dev.lunette:default"), "{listed}");
    for lun in ["Lun:0 ", "Lun:5 "] {
        assert!(listed.contains(lun), "{listed}");
    }
    assert_eq!(listed.matches("DIRECT_ACCESS").count(), 2, "{listed}");

    let url = daemon.iscsi_url(0)?;
    let serial = tools::output("iscsi-inq", ["-e", "1", "-c", "128", &url])?.ok()?;
    assert!(serial.stdout.contains("ABC123"), "{serial}");
    let size = tools::output("iscsi-readcapacity16", ["-s", &daemon.iscsi_url(5)?])?.ok()?;
    assert_eq!(size.stdout.trim(), (8 << 20).to_string());
    let absent = tools::output("iscsi-readcapacity16", [&daemon.iscsi_url(4)?])?;
    absent.fails()?;
    daemon.stop()?;
    Ok(())
}

#[test]
fn qemu_copies_an_image_in_and_out() -> Result<()> {
    let lunette = Lunette::new()?.lu("disk:ram:64M,w").iscsi();
    let daemon = lunette.start()?;
    let url = daemon.iscsi_url(0)?;
    let image = lunette.path("in.img");
    let pattern: Vec<u8> = (0..16_u32 << 20).map(|n| (n ^ (n >> 9)) as u8).collect();
    fs::write(&image, &pattern)?;
    fs::File::options().write(true).open(&image)?.set_len(64 << 20)?;
    let image = image.display().to_string();
    let convert = ["convert", "-n", "-f", "raw", "-O", "raw"];
    tools::output("qemu-img", convert.iter().copied().chain([&*image, &*url]))?.ok()?;
    let compare = ["compare", "-f", "raw", "-F", "raw", &image, &url];
    tools::output("qemu-img", compare)?.ok()?;
    let discard = ["-f", "raw", "-d", "unmap", "-c", "discard 0 1M", "-c", "read -P 0 0 1M", &url];
    tools::output("qemu-io", discard)?.ok()?;
    daemon.stop()?;
    Ok(())
}
