//! Failures of a store reach the guest as what they are, and stay where they are.

use anyhow::Result;
use lunette_e2e::checks;
use lunette_e2e::daemon::Lunette;
use lunette_e2e::uml::Uml;

#[test]
fn a_kernel_is_told_what_failed() -> Result<()> {
    checks::need_tools()?;
    let lunette = Lunette::new()?
        .lu("disk:ram:64M,w,fault=eio:1048576")
        .lu("disk:ram:64M,w,fault=enospc:1048576")
        .vhost_user("vm.sock");
    let daemon = lunette.start()?;
    let mut guest = Uml::new().vhost_user_scsi(lunette.path("vm.sock")).boot()?;
    guest.check(include_str!("../scripts/faults.sh"))?;
    guest.power_off()?;
    daemon.stop()?;
    Ok(())
}
