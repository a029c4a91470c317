//! LIO in the guest, set up and saved by the library of targetcli.

use super::*;
use lunette_e2e::{open_iscsi, uml::Uml};

const CLOSED: &str = "iqn.2026-11.org.example:closed";
const CHAP: &str = "node.session.auth.authmethod CHAP \
    node.session.auth.username guest node.session.auth.password secret-of-guest \
    node.session.auth.username_in disks node.session.auth.password_in secret-of-disks";

const VIEWS: [View; 3] = [
    View { target: CLOSED, luns: "5 6", settings: CHAP },
    View { target: "iqn.2026-11.org.example:named", luns: "0", settings: "" },
    View { target: "iqn.2026-11.org.example:all", luns: "0", settings: "" },
];

const ATTEMPTS: [Attempt; 12] = [
    ("iqn.2026-11.dev.lunette:guest", "guest%secret-of-guest@", "iqn.2026-11.org.example:closed/5"),
    ("iqn.2026-11.dev.lunette:guest", "group%secret-of-group@", "iqn.2026-11.org.example:closed/5"),
    ("iqn.2026-11.dev.lunette:guest", "", "iqn.2026-11.org.example:closed/5"),
    ("iqn.2026-11.dev.lunette:unproven", "", "iqn.2026-11.org.example:closed/0"),
    ("iqn.2026-11.dev.lunette:keyless", "group%secret-of-group@", "iqn.2026-11.org.example:closed/0"),
    ("iqn.2026-11.dev.lunette:keyless", "", "iqn.2026-11.org.example:closed/0"),
    ("iqn.2026-11.dev.lunette:stranger", "group%secret-of-group@", "iqn.2026-11.org.example:closed/3"),
    ("iqn.2026-11.dev.lunette:guest", "", "iqn.2026-11.org.example:named/0"),
    ("iqn.2026-11.dev.lunette:proven", "proven%secret-of-proven@", "iqn.2026-11.org.example:named/0"),
    ("iqn.2026-11.dev.lunette:proven", "", "iqn.2026-11.org.example:named/0"),
    ("iqn.2026-11.dev.lunette:stranger", "", "iqn.2026-11.org.example:named/0"),
    ("iqn.2026-11.dev.lunette:stranger", "", "iqn.2026-11.org.example:all/0"),
];

#[test]
fn what_lio_serves_is_served() -> Result<()> {
    tools::need(["targetctl"])?;
    let netns = open_iscsi::network()?;
    let folder = tools::temp_dir()?;
    let path = |name: &str| folder.path().join(name);
    for (name, size) in [("data.img", 16), ("log.img", 8), ("all.img", 4)] {
        disk(&path(name), size << 20)?;
    }
    let uml = Uml::new().memory_mib(512).tap("tap0").inside(&netns).writable(folder.path());
    let mut guest = uml.boot()?;
    guest.check("ip address add 192.0.2.2/24 dev vec0; ip link set vec0 up; iscsi_start")?;
    fs::write(path("configuration.py"), include_str!("../../scripts/lio_configuration.py"))?;
    guest.check(&format!(
        "modprobe -a configfs target_core_mod target_core_file iscsi_target_mod
         mount -t configfs config /sys/kernel/config
         mkdir -p /var/target/pr /var/target/alua /etc/target /etc/rtslib-fb-target
         /usr/bin/python3 {0}/configuration.py {0}",
        folder.path().display()
    ))?;
    let theirs = seen(&mut guest, "192.0.2.2:3260", &VIEWS)?;
    let let_in_by_them = let_in(&mut guest, "192.0.2.2", &ATTEMPTS)?;
    guest.check("targetctl clear")?;

    let (configuration, told) = imported(&path("saveconfig.json"), folder.path(), &[])?;
    let mut daemon = served(&netns, &configuration)?.start()?;
    assert_eq!(seen(&mut guest, PORTAL, &VIEWS)?, theirs);
    assert_eq!(let_in(&mut guest, host(), &ATTEMPTS)?, let_in_by_them);
    assert_eq!(let_in_by_them.iter().filter(|is_let_in| **is_let_in).count(), 5, "{let_in_by_them:?}");
    // Nothing else is lost, whatever the library writes.
    let expected = ["keyless is left out", "`MaxConnections`", "the write cache cannot be turned off"];
    assert_eq!(told.lines().count(), expected.len(), "{told}");
    assert!(expected.iter().all(|part| told.contains(part)), "{told}");
    daemon.alive()?;
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}
