//! The Debian packages that tests and benchmarks use.

use anyhow::{Context, Result, ensure};
use std::process::Command;

/// What the tests need.
pub(crate) const FOR_TESTS: &[&str] = &[
    "binutils",
    "busybox-static",
    "cpio",
    "curl",
    "dmsetup",
    "e2fsprogs",
    "fio",
    "gcc",
    "iproute2",
    "kmod",
    "libc6-dev",
    "libiscsi-bin",
    "libvirt-clients",
    "libvirt-daemon-driver-qemu",
    "libxml2-utils",
    "mtools",
    "multipath-tools",
    "open-iscsi",
    "python3-prometheus-client",
    "python3-rtslib-fb",
    "qemu-block-extra",
    "qemu-system-x86",
    "qemu-utils",
    "sg3-utils",
    "strace",
    "syslinux",
    "syslinux-common",
    "systemd",
    "tgt",
    "udev",
    "user-mode-linux",
    "xz-utils",
];

/// What the benchmarks need.
pub(crate) const FOR_BENCHMARKS: &[&str] =
    &["fio", "libiscsi-bin", "qemu-system-common", "strace", "tgt", "valgrind"];

/// Installs what is missing, saying so.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("==> installing Debian packages: {}", missing.join(" "));
    apt(&["update", "-qq"])?;
    // QEMU's packages must have one version; where a newer one of another suite is there, the suite's own replaces it.
    let wanted: Vec<String> = missing
        .iter()
        .flat_map(|package| match *package {
            "qemu-system-common" | "qemu-system-x86" | "qemu-block-extra" | "qemu-utils" => {
                vec![format!("{package}/bookworm"), "qemu-utils/bookworm".into()]
            }
            other => vec![other.to_owned()],
        })
        .collect();
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends", "--allow-downgrades"];
    arguments.extend(wanted.iter().map(String::as_str));
    apt(&arguments)
}

fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Abbrev}", package]).output();
    query.is_ok_and(|output| output.stdout.starts_with(b"ii"))
}

fn apt(arguments: &[&str]) -> Result<()> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
    if !root {
        command.arg("apt-get");
    }
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let status = command.status().context("cannot run apt-get; install the packages by hand")?;
    ensure!(status.success(), "apt-get {} failed; install the packages by hand", arguments.join(" "));
    Ok(())
}
