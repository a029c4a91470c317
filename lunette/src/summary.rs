//! What `serve` tells people: what is exported, and the lines to connect to it.

use crate::config::Model;
use crate::config::values::Place;
use crate::size;
use crate::units::{self, Unit, Units};
use std::fmt::{self, Write};
use std::net::SocketAddr;

/// One line for each unit.
pub(crate) fn units(units: &Units) -> String {
    let mut text = String::new();
    for (name, Unit { unit, description, place, .. }) in units {
        let caps = unit.backing().map(|backing| backing.caps());
        let size = caps.map_or_else(String::new, |caps| size::show(caps.size.get()));
        let access = if caps.is_some_and(|caps| caps.read_only) { "read-only" } else { "read-write" };
        let identity = &unit.identity;
        let _ = writeln!(
            text,
            "{}: disk, {size}, {access}, {description}, serial {}, {}",
            place.map_or_else(|| name.to_string(), at),
            identity.serial,
            identity.naa
        );
    }
    text
}

/// One line for each unit that stands by.
pub(crate) fn standby(model: &Model) -> String {
    let mut text = String::new();
    for spec in model.units.values().filter(|spec| spec.migratable) {
        let place = units::place(spec).map_or_else(|| spec.name.to_string(), at);
        let _ =
            writeln!(text, "{place}: disk, {}, stands by until its virtual machine runs here", spec.store);
    }
    text
}

/// What is served, in a few words.
pub(crate) fn status(units: usize, places: usize) -> String {
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    format!("serving {} at {}", counted(units, "logical unit"), counted(places, "place"))
}

/// The target is left out where it goes without saying.
fn at(Place { target, lun }: Place) -> String {
    match target {
        0 => format!("LUN {lun}"),
        target => format!("target {target} LUN {lun}"),
    }
}

/// How to connect by iSCSI.
pub(crate) struct Iscsi<'a> {
    pub(crate) address: SocketAddr,
    /// The targets, with the logical unit numbers that they show.
    pub(crate) targets: &'a [(String, Vec<u32>)],
}

impl fmt::Display for Iscsi<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, targets } = self;
        writeln!(f, "iSCSI on {address}")?;
        writeln!(f, "  iscsiadm -m discovery -t sendtargets -p {address}")?;
        for (target, luns) in *targets {
            writeln!(f, "  iscsiadm -m node -T {target} -p {address} --login")?;
            for lun in luns.iter().take(4) {
                writeln!(f, "  iscsi://{address}/{target}/{lun}")?;
            }
            if luns.len() > 4 {
                writeln!(f, "  … and {} more", luns.len() - 4)?;
            }
        }
        Ok(())
    }
}

/// How to connect a virtual machine.
pub(crate) struct VhostUser<'a> {
    /// The socket's path, or what else it is known by.
    pub(crate) name: &'a str,
    /// Whether the socket is that of the virtual machine monitor.
    pub(crate) is_client: bool,
    pub(crate) index: usize,
}

impl fmt::Display for VhostUser<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, id) = (self.name, format!("lunette{}", self.index));
        let (where_, server) = if self.is_client { ("for", ",server=on") } else { ("on", "") };
        writeln!(f, "vhost-user-scsi {where_} {name}")?;
        if !name.starts_with('/') {
            return Ok(());
        }
        writeln!(f, "  qemu-system-x86_64 -M q35,memory-backend=mem \\")?;
        writeln!(f, "    -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on \\")?;
        writeln!(
            f,
            "    -chardev socket,id={id},path={name}{server} -device vhost-user-scsi-pci,chardev={id} …"
        )
    }
}
