//! `docs/reference.md`: what a disk knows, as its tables and its own answers say it.

use anyhow::{Context, Result, bail};
use lunette_device_disk::{Disk, Options};
use lunette_engine::{
    Access, CommandFrame, CommandSpec, Completion, Direction, Identity, LogicalUnit, Needs, Nexus,
    Reservation, Responder, Session, Started, TargetPort, spc,
};
use lunette_scsi::log::LogPageCode;
use lunette_scsi::mode::ModePageCode;
use lunette_scsi::{
    AdditionalSense, Cdb, Lun, Naa, Opcode, Protocol, ServiceResponse, Status, VpdPage, command_clause,
};
use lunette_store::ram::Ram;
use lunette_store::sim::Sim;
use lunette_store::{Backing, Caps, Cx, IoError, Memory, Room, Sg, Store};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

const FILE: &str = "docs/reference.md";

/// Where sense codes come from.
const SOURCES: [&str; 3] = ["scsi/src/sense.rs", "engine/src", "device-disk/src"];

const INTRODUCTION: &str = "# Reference

What a disk of lunette knows: its commands, its pages, and the sense codes that it returns. This file is made from the
tables, the answers and the sources by `cargo xtask reference`; a test fails when it is out of date.

Where a clause is given and no subclause of it, its subclauses bear the names of the commands or pages; their numbers
differ between the revisions of the standard.
";

/// Writes the file.
pub(crate) fn write() -> Result<()> {
    fs::write(FILE, text(Path::new("."))?).with_context(|| format!("cannot write {FILE}"))
}

/// What should be in it. `root` is the workspace.
fn text(root: &Path) -> Result<String> {
    let mut out = String::from(INTRODUCTION);
    commands(&mut out)?;
    pages(&mut out)?;
    sense_codes(&mut out, root)?;
    Ok(out)
}

/// Memory that says of itself what some pages depend on: it has a volatile cache, and knows its room.
struct Talkative(Ram, Caps);

impl Backing for Talkative {
    fn caps(&self) -> &Caps {
        &self.1
    }

    fn room(&self) -> Result<Room, IoError> {
        Ok(Room { free: 0, used: 0 })
    }

    fn attach(&self, cx: &mut dyn Cx) -> Rc<dyn Store> {
        self.0.attach(cx)
    }
}

/// A disk that is thin or not.
fn disk(thin: bool) -> Result<Arc<LogicalUnit>> {
    let ram = Ram::new(1 << 20)?;
    let caps = Caps { volatile_cache: true, ..Backing::caps(&ram).clone() };
    let store: Arc<dyn Backing> = Arc::new(Talkative(ram, caps));
    let disk = Disk::new(&Options { thin, ..Options::default() }, store.caps())?;
    let identity = Identity::new("1", Naa::locally_assigned(1));
    Ok(LogicalUnit::new("reference", identity, Box::new(disk), Some(store)))
}

type Row = (u8, Option<u16>);

fn rows(thin: bool) -> Result<BTreeMap<Row, &'static CommandSpec>> {
    let primary = spc::COMMANDS.iter().map(|command| &command.spec);
    let unit = disk(thin)?;
    let all = primary.chain(unit.device().commands());
    Ok(all.map(|spec| ((spec.opcode.0, spec.service_action), spec)).collect())
}

fn commands(out: &mut String) -> Result<()> {
    let (thin, full) = (rows(true)?, rows(false)?);
    out.push_str(
        "
## Commands

*Reserved* says when a reservation of another I_T nexus keeps the command from being processed: where it excludes *reading*
or *writing*, where it is made by *RESERVE*, or *never*. A command that is *ready* needs a unit that is ready; one that is
*idle* is refused only while an operation keeps the unit busy. *Port* says how far from active the target port may be: in
*standby*, *unavailable* or offline, or in *any* state. The mask has a one for each bit of the CDB that is looked at.

| code | command | clause | data | reserved | needs | port | mask |
|---|---|---|---|---|---|---|---|
",
    );
    let all: BTreeMap<Row, &CommandSpec> =
        full.iter().chain(&thin).map(|(row, spec)| (*row, *spec)).collect();
    for ((opcode, action), spec) in all {
        let code = action.map_or(format!("{opcode:02X}h"), |action| format!("{opcode:02X}h/{action:02X}h"));
        let only = match (thin.contains_key(&(opcode, action)), full.contains_key(&(opcode, action))) {
            (true, false) => " (thin disks)",
            (false, true) => " (disks that are not thin)",
            _ => "",
        };
        let mask: Vec<String> = spec.usage.iter().map(|byte| format!("{byte:02X}")).collect();
        writeln!(
            out,
            "| {code} | {}{only} | {} | {} | {} | {} | {} | `{}` |",
            spec.name,
            command_clause(Opcode(opcode), action),
            direction(spec.direction),
            reservation(spec.reservation),
            needs(spec.needs),
            port(spec.access),
            mask.join(" "),
        )?;
    }
    Ok(())
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::None => "",
        Direction::In => "in",
        Direction::Out => "out",
        Direction::Both => "in and out",
    }
}

fn reservation(reservation: Reservation) -> &'static str {
    match reservation {
        Reservation::Exempt => "never",
        Reservation::Allowed => "RESERVE",
        Reservation::Read => "reading",
        Reservation::Write => "writing",
    }
}

fn needs(needs: Needs) -> &'static str {
    match needs {
        Needs::Nothing => "",
        Needs::Idle => "idle",
        Needs::Ready => "ready",
    }
}

fn port(access: Access) -> &'static str {
    match access {
        Access::Any => "any",
        Access::Unavailable => "unavailable",
        Access::Standby => "standby",
        Access::Active => "",
    }
}

struct Nobody;

impl Responder for Nobody {
    fn command_ended(&self, _: u64, _: Completion, _: &mut dyn Cx) {}

    fn management_ended(&self, _: u64, _: ServiceResponse, _: &mut dyn Cx) {}
}

/// What a thin disk answers to commands that end at once.
fn answers<const N: usize>(cdbs: [&[u8]; N]) -> Result<[Vec<u8>; N]> {
    let mut sim = Sim::new(1);
    let cx = sim.cx(0);
    let port = TargetPort::new("reference,t,0x0001", 1, Protocol::ISCSI, [(0, disk(true)?)].into());
    let nobody: Rc<dyn Responder> = Rc::new(Nobody);
    let session = Session::open(Nexus::new("reference", port), Rc::downgrade(&nobody), cx);
    let mut ask = |cdb: &[u8]| -> Result<Vec<u8>> {
        let cdb = Cdb::new(cdb)?;
        let frame = CommandFrame { tag: 1, cookie: 1, ..CommandFrame::new(Lun::from_index(0), &cdb) };
        let memory = Memory::zeroed(4096);
        match session.execute(&frame, Sg::empty(), Sg::new(&[memory.seg()]), cx) {
            Started::Ended(outcome) if outcome.status == Status::GOOD => {
                Ok(memory.to_vec()[..outcome.moved_in as usize].to_vec())
            }
            Started::Ended(outcome) => bail!("{cdb}: {:?}", outcome.sense),
            Started::Pending => bail!("{cdb} did not end at once"),
        }
    };
    // The first command learns that the unit was powered on.
    let _ = ask(&[0; 6]);
    let answers: Vec<Vec<u8>> = cdbs.into_iter().map(ask).collect::<Result<_>>()?;
    answers.try_into().map_err(|_| anyhow::anyhow!("an answer is missing"))
}

fn pages(out: &mut String) -> Result<()> {
    let [vpd, mode, changeable, log, diagnostic] = answers([
        &[0x12, 0x01, 0x00, 0x10, 0x00, 0x00],
        &[0x5a, 0x08, 0x3f, 0xff, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00],
        &[0x5a, 0x08, 0x7f, 0xff, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00],
        &[0x4d, 0x00, 0x40, 0xff, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00],
        &[0x1c, 0x01, 0x00, 0x10, 0x00, 0x00],
    ])?;
    out.push_str("\n## Vital product data pages\n\n| page | name | clause |\n|---|---|---|\n");
    for code in &vpd[4..] {
        let clause = if *code < 0xb0 { "SPC-4 7.8" } else { "SBC-4 6.6" };
        writeln!(out, "| {code:02X}h | {} | {clause} |", VpdPage(*code))?;
    }
    out.push_str(
        "\n## Mode pages\n\nPages with something that can be changed can be saved as well.\n\n| page | name | clause | can \
         be changed |\n|---|---|---|---|\n",
    );
    for (code, mask) in mode_pages(&mode[8..]).into_iter().zip(mode_pages(&changeable[8..])) {
        let name = code.0.name().unwrap_or("?");
        let of_blocks = matches!((code.0.page, code.0.subpage), (0x01 | 0x07 | 0x08, _) | (0x1c, 0x02));
        let clause = if of_blocks { "SBC-4 6.5" } else { "SPC-4 7.5" };
        let bits: Vec<String> = mask.1.iter().enumerate().filter_map(|(at, byte)| bits(at, *byte)).collect();
        writeln!(out, "| {} | {name} | {clause} | {} |", code.0, bits.join(", "))?;
    }
    out.push_str("\n## Log pages\n\n| page | name | clause |\n|---|---|---|\n");
    for code in log[4..].chunks_exact(2) {
        let code = LogPageCode { page: code[0], subpage: code[1] };
        let clause = if code == LogPageCode::LOGICAL_BLOCK_PROVISIONING { "SBC-4 6.4" } else { "SPC-4 7.3" };
        let subpage = if code.subpage == 0 { String::new() } else { format!("/{:02X}h", code.subpage) };
        writeln!(out, "| {:02X}h{subpage} | {} | {clause} |", code.page, code.name().unwrap_or("?"))?;
    }
    out.push_str("\n## Diagnostic pages\n\n| page | name | clause |\n|---|---|---|\n");
    for code in &diagnostic[4..] {
        let name = if *code == 0 { "Supported Diagnostic Pages" } else { "?" };
        writeln!(out, "| {code:02X}h | {name} | SPC-4 7.2 |")?;
    }
    Ok(())
}

/// The pages one after another, each with its bytes from the header on, which is left as zeroes.
fn mode_pages(mut bytes: &[u8]) -> Vec<(ModePageCode, Vec<u8>)> {
    let mut pages = Vec::new();
    while let [first, second, ..] = *bytes {
        let page = first & 0x3f;
        let (code, header, length) = match (first & 0x40, bytes) {
            (0, _) => (ModePageCode::page(page), 2, usize::from(second)),
            (_, [_, _, high, low, ..]) => {
                (ModePageCode::subpage(page, second), 4, usize::from(u16::from_be_bytes([*high, *low])))
            }
            _ => break,
        };
        let Some(whole) = bytes.get(..header + length) else { break };
        let mut content = whole.to_vec();
        content[..header].fill(0);
        pages.push((code, content));
        bytes = &bytes[header + length..];
    }
    pages
}

/// `byte 2 bits 04h`, if there are any.
fn bits(at: usize, mask: u8) -> Option<String> {
    (mask != 0).then(|| format!("byte {at} mask {mask:02X}h"))
}

fn sense_codes(out: &mut String, root: &Path) -> Result<()> {
    let mut sources = String::new();
    for source in SOURCES {
        read(&root.join(source), &mut sources)?;
    }
    out.push_str("\n## Additional sense codes\n\nThey are defined in SPC-4 4.5.2.1 and annex F.\n\n| code | text |\n|---|---|\n");
    for (code, constant) in AdditionalSense::ALL {
        if mentions(&sources, &format!("AdditionalSense::{constant}")) {
            writeln!(out, "| {:02X}h/{:02X}h | {} |", code.asc, code.ascq, code.description())?;
        }
    }
    Ok(())
}

fn mentions(sources: &str, name: &str) -> bool {
    let whole =
        |at: usize| !sources[at + name.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    sources.match_indices(name).any(|(at, _)| whole(at))
}

/// Appends the sources under `path`, without tests.
fn read(path: &Path, into: &mut String) -> Result<()> {
    if path.is_dir() {
        let mut entries = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::path);
        for entry in entries {
            let name = entry.file_name();
            if !["tests", "tests.rs", "testing.rs"].iter().any(|test| name == *test) {
                read(&entry.path(), into)?;
            }
        }
        return Ok(());
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    into.push_str(text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_up_to_date() {
        let root = crate::root();
        let written = fs::read_to_string(root.join(FILE)).unwrap();
        let current = text(&root).unwrap();
        let difference = written.lines().zip(current.lines()).find(|(old, new)| old != new);
        assert!(written == current, "run `cargo xtask reference`: {difference:?}");
    }

    #[test]
    fn names_are_found_whole() {
        let text = "AdditionalSense::INVALID_FIELD_IN_CDB_OR_NOT, AdditionalSense::WRITE_ERROR)";
        assert!(mentions(text, "AdditionalSense::WRITE_ERROR"));
        assert!(!mentions(text, "AdditionalSense::INVALID_FIELD_IN_CDB"));
    }

    #[test]
    fn nothing_is_without_name_and_clause() {
        let text = text(&crate::root()).unwrap();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| {
                line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit() || line.starts_with("| A")
            })
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        assert!(rows.len() > 150);
        for row in rows {
            assert!(!row[2].is_empty() && row[2] != "?", "{row:?}");
            let is_sense = row[1].len() == 7 && row.len() == 4;
            assert!(
                is_sense || ["SPC-", "SBC-"].iter().any(|standard| row[3].starts_with(standard)),
                "{row:?}"
            );
        }
        for known in
            ["| 21h/00h | LOGICAL BLOCK ADDRESS OUT OF RANGE |", "| 1Ch/02h | Logical Block Provisioning |"]
        {
            assert!(text.contains(known), "{known}");
        }
    }
}
