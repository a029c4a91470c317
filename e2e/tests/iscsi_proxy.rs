//! open-iscsi on a network that spoils, loses and delays what passes, and cuts connections: every byte that it reads is
//! right, and its sessions come back by themselves.

use anyhow::Result;
use lunette_e2e::daemon::{Daemon, Lunette};
use lunette_e2e::guest::Guest;
use lunette_e2e::netns::Netns;
use lunette_e2e::open_iscsi::{self, HOST, PORTAL, TARGET};
use lunette_e2e::proxy::{Injury, Proxy, Trouble};
use lunette_e2e::tools;

/// How often each injury is seen in each direction.
fn times() -> u64 {
    if tools::full() { 20 } else { 1 }
}

fn trouble(injuries: &[Injury]) -> Trouble {
    let seed = std::process::id().into();
    println!("seed {seed}");
    Trouble { seed, every: 250, injuries: injuries.to_vec(), split: 20, late: 50 }
}

struct Scene<'a> {
    netns: &'a Netns,
    daemon: Daemon,
    guest: Guest,
}

impl Scene<'_> {
    /// Writes and reads through a proxy that makes this trouble until all of it was seen, and then in peace.
    fn suffer(&mut self, trouble: &Trouble, port: u16, settings: &str) -> Result<()> {
        let listen = format!("{HOST}:{port}");
        let mut proxy = Proxy::start(self.netns, listen.parse()?, PORTAL.parse()?, trouble)?;
        self.guest.check(&format!(
            "iscsi_node {TARGET} {listen} {settings}
             rounds_begin $(disk 0) --size=4M"
        ))?;
        let names: Vec<String> = trouble
            .injuries
            .iter()
            .flat_map(|injury| ["out", "in"].map(|way| format!("{} {way}", injury.name())))
            .collect();
        tools::wait_until("every kind of trouble to be seen", || {
            self.guest.check("rounds_run")?;
            let seen = proxy.report()?;
            Ok(names.iter().all(|name| seen.get(name).is_some_and(|count| *count >= times())))
        })?;
        proxy.calm()?;
        self.guest.check("rounds_wait 1; rounds_end")?;
        println!("{:?}", proxy.report()?);
        let sessions = self.guest.check("iscsiadm -m session -P 1")?;
        assert_eq!(sessions.matches("iSCSI Session State: LOGGED_IN").count(), 1, "{sessions}");
        self.guest.check(&format!("iscsiadm -m node -p {listen} --logout"))?;
        self.daemon.alive()
    }
}

#[test]
fn nothing_that_happens_on_the_way_reaches_the_data() -> Result<()> {
    let netns = open_iscsi::network()?;
    let lunette = Lunette::new()?.inside(&netns).lu("disk:ram:16M,w").arg("--iscsi").arg(PORTAL);
    let daemon = lunette.start()?;
    let guest = open_iscsi::guest(&netns)?;
    let mut scene = Scene { netns: &netns, daemon, guest };

    let digests = "node.conn[0].iscsi.HeaderDigest CRC32C node.conn[0].iscsi.DataDigest CRC32C";
    scene.suffer(&trouble(&Injury::ALL), 3261, digests)?;
    let log = scene.daemon.log();
    assert!(log.contains("digest"), "{log}");
    // Without digests nobody could notice more than this.
    scene.suffer(&trouble(&[Injury::Cut]), 3262, "")?;
    scene.guest.power_off()?;
    scene.daemon.stop()?;
    Ok(())
}
