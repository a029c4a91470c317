//! The notation for logical units: `TYPE:STORE[,r|w][,key=value…]`, as in `disk:/dev/sdb1,w`.

use crate::access::{self, GroupAccess};
use crate::size;
use crate::state::MAX_SERIAL;
use lunette_engine::CommandFilter;
use lunette_scsi::Naa;
use lunette_scsi::inquiry::SpcVersion;
use lunette_store::layer::fault;
use lunette_transport_vhost_user::MAX_REQUEST_QUEUES;
use std::collections::HashSet;
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;

/// A logical unit as a user describes it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct UnitSpec {
    /// Where the bytes are.
    pub(crate) store: StoreSpec,
    /// Writes are refused.
    pub(crate) read_only: bool,
    /// The target by which virtual machines reach it.
    pub(crate) target: u8,
    /// The logical unit number; otherwise the next free one of its target.
    pub(crate) lun: Option<u32>,
    /// The request queues on whose reactors the unit lives; on all if there are none.
    pub(crate) queues: Vec<u16>,
    /// A file of this size is made if there is none.
    pub(crate) size: Option<u64>,
    /// Logical block length in bytes.
    pub(crate) block: u32,
    /// Go past the page cache.
    pub(crate) direct: bool,
    /// Read and write inline, or never; otherwise where it cannot block.
    pub(crate) inline: Option<bool>,
    /// Unit serial number.
    pub(crate) serial: Option<String>,
    /// World-wide name.
    pub(crate) wwn: Option<Naa>,
    /// The standard that it claims to follow.
    pub(crate) version: SpcVersion,
    /// A name for people, logs and the state directory.
    pub(crate) name: Option<String>,
    /// Whether the medium rotates; otherwise what the store says.
    pub(crate) rotational: Option<bool>,
    /// Whether the medium can be removed.
    pub(crate) removable: bool,
    /// The most bytes that formatting and sanitizing write in a second, zero for no limit; otherwise what the disk thinks fit.
    pub(crate) pace: Option<u64>,
    /// Bytes to whose multiples WRITE ATOMIC keeps; otherwise it takes any blocks.
    pub(crate) atomic: Option<u32>,
    /// The most commands that wait for room in the store; otherwise what the engine thinks fit.
    pub(crate) waiting: Option<u16>,
    /// The commands that it carries out.
    pub(crate) filter: CommandFilter,
    /// How it begins to be accessible through target port groups; it is active/optimized through all others.
    pub(crate) access: Vec<GroupAccess>,
    /// Injected faults, for tests.
    pub(crate) fault: Option<fault::Plan>,
}

/// Where the bytes of a logical unit are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum StoreSpec {
    /// A file or block device.
    Path(PathBuf),
    /// Memory of this many bytes.
    Ram(u64),
}

/// Why a text is not what it should describe.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("`{text}`: {why}")]
pub(crate) struct NotationError {
    text: String,
    why: String,
}

/// How many logical units a target can have.
pub(crate) const MAX_LUNS: u32 = 16384;

/// The keys, for error messages.
const KEYS: &str = "target, lun, queues, size, block, direct, inline, serial, wwn, version, name, rotational, removable, pace, atomic, waiting, filter, access";

impl NotationError {
    pub(crate) fn new(text: &str, why: String) -> Self {
        Self { text: text.to_owned(), why }
    }
}

/// The options given so far.
#[derive(Default)]
pub(crate) struct Options(HashSet<String>);

impl Options {
    /// Notes an option, which may not be given twice.
    pub(crate) fn once(&mut self, key: &str) -> Result<(), String> {
        if self.0.insert(key.to_owned()) { Ok(()) } else { Err(format!("`{key}` is given twice")) }
    }
}

impl FromStr for UnitSpec {
    type Err = NotationError;

    fn from_str(text: &str) -> Result<Self, NotationError> {
        parse(text).map_err(|why| NotationError::new(text, why))
    }
}

fn parse(text: &str) -> Result<UnitSpec, String> {
    let (kind, rest) =
        text.split_once(':').ok_or("a logical unit is written TYPE:STORE, as in disk:/var/vm/a.img,w")?;
    if kind != "disk" {
        return Err(format!("there is no device type `{kind}`; the device type is `disk`"));
    }
    let mut parts = split_at_commas(rest).into_iter();
    let mut unit = UnitSpec::new(store(&parts.next().unwrap_or_default())?);
    let mut options = Options::default();
    for part in parts {
        let key = match part.split_once('=') {
            Some((key, value)) => {
                unit.set(key, value)?;
                key
            }
            None if part == "r" || part == "w" => {
                unit.read_only = part == "r";
                "r or w"
            }
            None => return Err(format!("`{part}` is neither r, w nor key=value")),
        };
        options.once(key)?;
    }
    unit.check()?;
    Ok(unit)
}

impl UnitSpec {
    /// A writable unit of 512-byte blocks with nothing else said.
    pub(crate) fn new(store: StoreSpec) -> Self {
        Self {
            store,
            read_only: false,
            target: 0,
            lun: None,
            queues: Vec::new(),
            size: None,
            block: 512,
            direct: false,
            inline: None,
            serial: None,
            wwn: None,
            version: SpcVersion::SPC_4,
            name: None,
            rotational: None,
            removable: false,
            pace: None,
            atomic: None,
            waiting: None,
            filter: CommandFilter::default(),
            access: Vec::new(),
            fault: None,
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "target" => {
                self.target =
                    value.parse().map_err(|_| format!("target={value}: a target number is 0 to 255"))?;
            }
            "lun" => {
                let lun = value.parse().ok().filter(|lun| *lun < MAX_LUNS);
                self.lun =
                    Some(lun.ok_or_else(|| format!("lun={value}: a logical unit number is 0 to 16383"))?);
            }
            "queues" => self.queues = queues(value)?,
            "size" => self.size = Some(size::parse(value)?),
            "block" => {
                self.block = match value {
                    "512" => 512,
                    "4096" | "4K" | "4k" => 4096,
                    _ => return Err(format!("block={value}: blocks have 512 or 4096 bytes")),
                };
            }
            "direct" => self.direct = switch(key, value)?,
            "inline" => self.inline = Some(switch(key, value)?),
            "serial" => self.serial = Some(printable(key, value, MAX_SERIAL)?),
            "wwn" => self.wwn = Some(value.parse().map_err(|error| format!("wwn={value}: {error}"))?),
            "version" => {
                self.version = match value {
                    "spc-3" => SpcVersion::SPC_3,
                    "spc-4" => SpcVersion::SPC_4,
                    _ => return Err(format!("version={value}: write spc-3 or spc-4")),
                };
            }
            "name" => self.name = Some(printable(key, value, 64)?),
            "rotational" => self.rotational = Some(switch(key, value)?),
            "removable" => self.removable = switch(key, value)?,
            "pace" => self.pace = Some(if value == "off" { 0 } else { size::parse(value)? }),
            "atomic" => {
                let unit = size::parse(value)?;
                self.atomic = Some(unit.try_into().map_err(|_| format!("atomic={value}: at most 1M"))?);
            }
            "waiting" => {
                let number =
                    value.parse().map_err(|_| format!("waiting={value}: not a number up to {}", u16::MAX));
                self.waiting = Some(number?);
            }
            "filter" => {
                self.filter = value.parse().map_err(|error| format!("filter={value}: {error}"))?;
            }
            "access" => self.access = access::access(value)?,
            "fault" => self.fault = Some(value.parse().map_err(|error| format!("fault={value}: {error}"))?),
            _ => return Err(format!("there is no key `{key}`; the keys are {KEYS}")),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let StoreSpec::Ram(bytes) = self.store else { return Ok(()) };
        if self.size.is_some() {
            return Err("size= is for files; memory has its size in ram:SIZE".into());
        }
        if self.direct || self.inline.is_some() {
            return Err("direct= and inline= are for files".into());
        }
        if !bytes.is_multiple_of(u64::from(self.block)) {
            return Err(format!("{bytes} bytes are not a multiple of the block size {}", self.block));
        }
        Ok(())
    }
}

fn store(text: &str) -> Result<StoreSpec, String> {
    if text.is_empty() {
        return Err("the store is missing: a path, or ram:SIZE".into());
    }
    match text.split_once(':') {
        Some(("ram", bytes)) => Ok(StoreSpec::Ram(size::parse(bytes)?)),
        Some((scheme, _))
            if !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') =>
        {
            Err(format!(
                "there is no store `{scheme}:`; a store is a path or ram:SIZE (write ./{text} for a file of that name)"
            ))
        }
        _ => Ok(StoreSpec::Path(PathBuf::from(text))),
    }
}

/// Request queues, as in `0`, `0-3` or `1+4-5`.
fn queues(text: &str) -> Result<Vec<u16>, String> {
    let wrong = || {
        let last = MAX_REQUEST_QUEUES - 1;
        format!(
            "queues={text}: request queues are written as in 0, 0-3 or 1+4, with numbers from 0 to {last}"
        )
    };
    let number = |text: &str| text.parse::<u16>().ok().filter(|queue| *queue < MAX_REQUEST_QUEUES);
    let mut queues = Vec::new();
    for part in text.split('+') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first).ok_or_else(wrong)?, number(last).ok_or_else(wrong)?);
        if first > last {
            return Err(wrong());
        }
        queues.extend(first..=last);
    }
    Ok(queues)
}

fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{key}={value}: write on or off")),
    }
}

fn printable(key: &str, value: &str, longest: usize) -> Result<String, String> {
    let fits = (1..=longest).contains(&value.len()) && value.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if fits {
        Ok(value.to_owned())
    } else {
        Err(format!("{key}=: 1 to {longest} printable ASCII characters"))
    }
}

/// Splits at commas; `\,` is a comma and `\\` a backslash.
pub(crate) fn split_at_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let part = parts.last_mut().expect("never empty");
        match c {
            '\\' if matches!(chars.peek(), Some(',' | '\\')) => part.extend(chars.next()),
            ',' => parts.push(String::new()),
            _ => part.push(c),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> UnitSpec {
        UnitSpec::new(StoreSpec::Path(text.into()))
    }

    #[test]
    fn the_notation_of_2006_is_understood() {
        assert_eq!("disk:/dev/sdb1,w".parse(), Ok(path("/dev/sdb1")));
        assert_eq!("disk:/dev/sdb1,r".parse(), Ok(UnitSpec { read_only: true, ..path("/dev/sdb1") }));
        assert_eq!("disk:ram:4G".parse(), Ok(UnitSpec::new(StoreSpec::Ram(4 << 30))));
    }

    #[test]
    fn keys_are_understood() {
        let text = r"disk:/a\,b,w,size=1G,block=4096,direct=on,inline=off,serial=abc,wwn=naa.3000000000000001,version=spc-3,name=root,rotational=on,removable=on,pace=16M,atomic=16K,target=3,lun=7,queues=1+4-6";
        let unit: UnitSpec = text.parse().unwrap();
        assert_eq!(unit.store, StoreSpec::Path("/a,b".into()));
        assert_eq!(
            (unit.size, unit.block, unit.direct, unit.inline),
            (Some(1 << 30), 4096, true, Some(false))
        );
        assert_eq!(unit.atomic, Some(16384));
        assert_eq!((unit.serial.as_deref(), unit.wwn), (Some("abc"), Some(Naa::locally_assigned(1))));
        assert_eq!((unit.name.as_deref(), unit.target, unit.lun), (Some("root"), 3, Some(7)));
        assert_eq!(unit.version, SpcVersion::SPC_3);
        assert_eq!((unit.rotational, unit.removable, unit.pace), (Some(true), true, Some(16 << 20)));
        assert_eq!("disk:/a,waiting=0".parse::<UnitSpec>().unwrap().waiting, Some(0));
        assert_eq!("disk:/a,pace=off".parse::<UnitSpec>().unwrap().pace, Some(0));
        assert_eq!(unit.queues, [1, 4, 5, 6]);
    }

    #[test]
    fn filters_are_understood() {
        let unit: UnitSpec = "disk:/a,filter=deny:unmap+write-same+9e/12,w".parse().unwrap();
        assert!(!unit.filter.passes(lunette_scsi::Opcode::UNMAP, None));
        assert_eq!(unit.filter, "deny:UNMAP+WRITE SAME+9E/12".parse().unwrap());
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (text, part) in [
            ("/a.img", "TYPE:STORE"),
            ("tape:/a", "device type `tape`"),
            ("disk:", "store is missing"),
            ("disk:rbd:pool/image", "no store `rbd:`"),
            ("disk:/a,x", "neither r, w nor"),
            ("disk:/a,r,w", "given twice"),
            ("disk:/a,size=1,size=2", "given twice"),
            ("disk:/a,colour=red", "no key `colour`"),
            ("disk:/a,access=read-only", "access=read-only: "),
            ("disk:/a,block=520", "512 or 4096"),
            ("disk:/a,direct=yes", "on or off"),
            ("disk:/a,pace=fast", "not a size"),
            ("disk:/a,atomic=4G", "at most 1M"),
            ("disk:/a,waiting=65536", "not a number"),
            ("disk:/a,lun=16384", "0 to 16383"),
            ("disk:/a,target=256", "0 to 255"),
            ("disk:/a,queues=", "request queues are written"),
            ("disk:/a,queues=3-1", "request queues are written"),
            ("disk:/a,queues=254", "from 0 to 253"),
            ("disk:/a,wwn=12", "wwn=12"),
            ("disk:/a,serial=", "printable"),
            ("disk:/a,version=5", "spc-3 or spc-4"),
            ("disk:/a,filter=deny:unmapp", "no command `unmapp`"),
            ("disk:ram:1000", "multiple of the block size"),
            ("disk:ram:1M,size=1M", "size= is for files"),
            ("disk:ram:1M,direct=on", "are for files"),
        ] {
            let error = text.parse::<UnitSpec>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
