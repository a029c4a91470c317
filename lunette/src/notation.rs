//! The notation for logical units: `TYPE:STORE[,r|w][,key=value…]`, as in `disk:/dev/sdb1,w`.

use crate::config::{BlockLength, KnownBy, Unit, UnitLun, Version};
use lunette_control::did_you_mean;
use lunette_transport_vhost_user::MAX_REQUEST_QUEUES;
use std::collections::HashSet;
use std::str::FromStr;
use thiserror::Error;

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
pub(crate) const KEYS: [&str; 21] = [
    "target",
    "lun",
    "queues",
    "size",
    "block",
    "direct",
    "inline",
    "serial",
    "wwn",
    "version",
    "name",
    "known-by",
    "migratable",
    "rotational",
    "removable",
    "pace",
    "atomic",
    "waiting",
    "stuck-after",
    "filter",
    "access",
];

impl NotationError {
    pub(crate) fn new(text: &str, why: String) -> Self {
        Self { text: text.to_owned(), why }
    }

    /// What is wrong, without the text.
    pub(crate) fn why(&self) -> &str {
        &self.why
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

/// A unit has no name if none is given.
impl FromStr for Unit {
    type Err = NotationError;

    fn from_str(text: &str) -> Result<Self, NotationError> {
        parse(text).map_err(|why| NotationError::new(text, why))
    }
}

fn parse(text: &str) -> Result<Unit, String> {
    let (kind, rest) =
        text.split_once(':').ok_or("a logical unit is written TYPE:STORE, as in disk:/var/vm/a.img,w")?;
    if kind != "disk" {
        return Err(format!("there is no device type `{kind}`; the device type is `disk`"));
    }
    let mut parts = split_at_commas(rest).into_iter();
    let mut unit = Unit::new(parts.next().unwrap_or_default().parse()?);
    let mut options = Options::default();
    for part in parts {
        let key = match part.split_once('=') {
            Some((key, value)) => {
                set(&mut unit, key, value)?;
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
    unit.check().map_err(|(_, why)| why)?;
    Ok(unit)
}

/// Sets what `key=value` says. Values mean what they mean in a file; only the switches of files are `true` and `false`.
fn set(unit: &mut Unit, key: &str, value: &str) -> Result<(), String> {
    let told = |why: String| if why.contains(key) { why } else { format!("{key}={value}: {why}") };
    match key {
        "target" => {
            unit.target =
                value.parse().map_err(|_| format!("target={value}: a target number is 0 to 255"))?;
        }
        "lun" => {
            let lun = value.parse().ok().filter(|lun| *lun < MAX_LUNS).map(UnitLun);
            unit.lun = Some(lun.ok_or_else(|| format!("lun={value}: a logical unit number is 0 to 16383"))?);
        }
        "queues" => unit.queues = Some(value.parse()?),
        "size" => unit.size = Some(value.parse()?),
        "block" => {
            unit.block = match value {
                "512" => BlockLength(512),
                "4096" | "4K" | "4k" => BlockLength(4096),
                _ => return Err(format!("block={value}: blocks have 512 or 4096 bytes")),
            };
        }
        "direct" => unit.direct = switch(key, value)?,
        "inline" => unit.inline = Some(switch(key, value)?),
        "serial" => unit.serial = Some(value.parse()?),
        "wwn" => unit.wwn = Some(value.parse()?),
        "version" => {
            unit.version = match value {
                "spc-3" => Version::Spc3,
                "spc-4" => Version::Spc4,
                _ => return Err(format!("version={value}: write spc-3 or spc-4")),
            };
        }
        "name" => unit.name = value.parse()?,
        "known-by" => {
            unit.known_by = match value {
                "name" => KnownBy::Name,
                "file" => KnownBy::File,
                _ => return Err(format!("known-by={value}: write name or file")),
            };
        }
        "migratable" => unit.migratable = switch(key, value)?,
        "rotational" => unit.rotational = Some(switch(key, value)?),
        "removable" => unit.removable = switch(key, value)?,
        "pace" => unit.pace = Some(value.parse().map_err(told)?),
        "atomic" => unit.atomic = Some(value.parse().map_err(told)?),
        "waiting" => {
            let number =
                value.parse().map_err(|_| format!("waiting={value}: not a number up to {}", u16::MAX));
            unit.waiting = Some(number?);
        }
        "stuck-after" => {
            let seconds = value.parse();
            let wrong = |_| format!("stuck-after={value}: not a number of seconds from 1 to {}", u16::MAX);
            unit.stuck_after = Some(seconds.map_err(wrong)?);
        }
        "filter" => unit.filter = Some(value.parse()?),
        "access" => unit.access = Some(value.parse()?),
        "fault" => unit.fault = Some(value.parse()?),
        _ => {
            let help = did_you_mean(key, KEYS.iter().copied());
            let help = help.unwrap_or_else(|| format!("the keys are {}", KEYS.join(", ")));
            return Err(format!("there is no key `{key}`; {help}"));
        }
    }
    Ok(())
}

/// Request queues, as in `0`, `0-3` or `1+4-5`.
pub(crate) fn queues(text: &str) -> Result<Vec<u16>, String> {
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

pub(crate) fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{key}={value}: write on or off")),
    }
}

pub(crate) fn printable(what: &str, value: &str, longest: usize) -> Result<String, String> {
    let fits = (1..=longest).contains(&value.len()) && value.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if fits {
        Ok(value.to_owned())
    } else {
        Err(format!("{what} has 1 to {longest} printable ASCII characters"))
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
    use crate::config::values::{Bytes, Text};
    use lunette_scsi::Naa;

    fn unit(store: &str) -> Unit {
        Unit::new(store.parse().unwrap())
    }

    #[test]
    fn the_notation_of_2006_is_understood() {
        assert_eq!("disk:/dev/sdb1,w".parse(), Ok(unit("/dev/sdb1")));
        assert_eq!("disk:/dev/sdb1,r".parse(), Ok(Unit { read_only: true, ..unit("/dev/sdb1") }));
        assert_eq!("disk:ram:4G".parse(), Ok(unit("ram:4G")));
    }

    #[test]
    fn keys_are_understood() {
        let text = r"disk:/a\,b,w,size=1G,block=4096,direct=on,inline=off,serial=abc,wwn=naa.3000000000000001,version=spc-3,name=root,rotational=on,removable=on,pace=16M,atomic=16K,target=3,lun=7,queues=1+4-6";
        let unit: Unit = text.parse().unwrap();
        let text_of =
            |value: Option<&dyn std::fmt::Display>| value.map(ToString::to_string).unwrap_or_default();
        assert_eq!(unit.store, "/a,b".parse().unwrap());
        assert_eq!(
            (unit.size, unit.block.0, unit.direct, unit.inline),
            (Some(Bytes(1 << 30)), 4096, true, Some(false))
        );
        assert_eq!(unit.atomic, Some(Bytes(16384)));
        assert_eq!(unit.serial.as_ref().map(|serial| serial.as_str()), Some("abc"));
        assert_eq!(unit.wwn, Some(Text(Naa::locally_assigned(1))));
        assert_eq!((unit.name.as_str(), unit.target, unit.lun), ("root", 3, Some(UnitLun(7))));
        assert_eq!(unit.version, Version::Spc3);
        assert_eq!((unit.rotational, unit.removable, unit.pace), (Some(true), true, Some(Bytes(16 << 20))));
        assert_eq!("disk:/a,waiting=0".parse::<Unit>().unwrap().waiting, Some(0));
        assert_eq!("disk:/a,pace=off".parse::<Unit>().unwrap().pace, Some(Bytes(0)));
        assert_eq!(text_of(unit.queues.as_ref().map(|queues| queues as _)), "1+4-6");
    }

    #[test]
    fn filters_are_understood() {
        let unit: Unit = "disk:/a,filter=deny:unmap+write-same+9e/12,w".parse().unwrap();
        let filter = unit.filter.unwrap();
        assert!(!filter.value.passes(lunette_scsi::Opcode::UNMAP, None));
        assert_eq!(filter, "deny:UNMAP+WRITE SAME+9E/12".parse().unwrap());
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
            ("disk:/a,atomic=4G", "atomic=4G: it is 1 to 4294967295 bytes"),
            ("disk:/a,colours=1", "the keys are target, "),
            ("disk:/a,sreial=1", "did you mean `serial`?"),
            ("disk:/a,waiting=65536", "not a number"),
            ("disk:/a,stuck-after=0", "from 1 to 65535"),
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
            let error = text.parse::<Unit>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
