//! open-iscsi over a bad network: packets are lost, late, doubled and out of order on the way in and out, and for a time none
//! comes through. What the guest reads is right, and its session is there when the network is well again.

use anyhow::{Context, Result, ensure};
use lunette_e2e::daemon::Lunette;
use lunette_e2e::guest::Guest;
use lunette_e2e::open_iscsi::{self, PORTAL, TARGET};
use lunette_e2e::tools;

/// What netem does in both directions, each for some rounds of writes and reads.
const WEATHER: [&str; 3] =
    ["loss 3%", "delay 15ms 10ms reorder 20% 50%", "delay 5ms 5ms loss 1% 25% duplicate 1% reorder 5%"];

/// The host's kernel may have no netem. The guest's has: what it receives passes an interface of its own on the way up,
/// which sends it on like everything that is sent.
const BOTH_WAYS: &str = "
    modprobe -a sch_netem sch_ingress act_mirred cls_matchall
    modprobe ifb numifbs=1
    ip link set ifb0 up
    tc qdisc add dev vec0 ingress
    tc filter add dev vec0 parent ffff: matchall action mirred egress redirect dev ifb0
    for dev in vec0 ifb0; do tc qdisc add dev $dev root netem limit 10000; done";

fn weather(guest: &mut Guest, what: &str) -> Result<()> {
    let change =
        format!("for dev in vec0 ifb0; do tc qdisc change dev $dev root netem limit 10000 {what}; done");
    guest.check(&change).map(drop)
}

/// How many packets netem has dropped, on the way out and on the way in.
fn dropped(guest: &mut Guest) -> Result<Vec<u64>> {
    let said = guest.check("for dev in vec0 ifb0; do tc -s qdisc show dev $dev root; done")?;
    let counts = said.split("(dropped ").skip(1).map(|text| text.split(',').next()?.parse().ok());
    counts.collect::<Option<_>>().context(said.clone())
}

#[test]
fn a_bad_network_changes_no_byte() -> Result<()> {
    tools::need(["tc"])?;
    let netns = open_iscsi::network()?;
    let lunette = Lunette::new()?.inside(&netns).lu("disk:ram:16M,w").arg("--iscsi").arg(PORTAL);
    let daemon = lunette.start()?;
    let mut guest = open_iscsi::guest(&netns)?;
    guest.check(BOTH_WAYS)?;
    // It takes five seconds to notice that nothing comes through.
    guest.check(&format!(
        "iscsi_node {TARGET} {PORTAL} node.conn[0].timeo.noop_out_interval 2 node.conn[0].timeo.noop_out_timeout 3
         rounds_begin $(disk 0) --size=2M"
    ))?;
    for what in WEATHER {
        weather(&mut guest, what)?;
        guest.check(&format!("rounds_wait {}", if tools::full() { 20 } else { 1 }))?;
    }
    let dropped = dropped(&mut guest)?;
    println!("packets dropped: {dropped:?}");
    ensure!(dropped.len() == 2 && dropped.iter().all(|count| *count > 0), "netem has dropped {dropped:?}");

    weather(&mut guest, "loss 100%")?;
    let state = "cat /sys/class/iscsi_session/session*/state";
    guest.check(&format!("until [ $({state}) = FAILED ]; do sleep 0.1; done"))?;
    weather(&mut guest, "loss 0%")?;
    guest.check(&format!("until [ $({state}) = LOGGED_IN ]; do sleep 0.1; done"))?;
    guest.check("rounds_wait 1; rounds_end")?;
    guest.check("iscsiadm -m node --logout")?;
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}
