//! The answer to SendTargets (RFC 7143 appendix C).

use crate::text::{self, TextError};

/// A target and where it can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundTarget<'a> {
    /// TargetName.
    pub name: &'a str,
    /// One for each TargetAddress that is well formed. None: where the answer comes from.
    pub addresses: Vec<FoundAddress<'a>>,
}

/// A TargetAddress (RFC 7143 13.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundAddress<'a> {
    /// A domain name, an IPv4 address, or an IPv6 address, without its brackets.
    pub host: &'a str,
    /// TCP port.
    pub port: u16,
    /// Target portal group tag; redirections have none.
    pub group_tag: Option<u16>,
}

/// The port if none is given.
const DEFAULT_PORT: u16 = 3260;

impl<'a> FoundAddress<'a> {
    /// Parses `host[:port][,tag]`, as in an answer to SendTargets or a redirection.
    pub fn parse(value: &'a str) -> Option<Self> {
        let (place, tag) = match value.split_once(',') {
            Some((place, tag)) => (place, Some(number(tag)?)),
            None => (value, None),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => rest.split_once(']').filter(|(host, _)| host.contains(':'))?,
            None => place.find(':').map_or((place, ""), |colon| place.split_at(colon)),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => number(port).filter(|&port| port > 0)?,
            None if port.is_empty() => DEFAULT_PORT,
            None => return None,
        };
        (!host.is_empty()).then_some(Self { host, port, group_tag: tag })
    }
}

/// Reads the answer to SendTargets. Other keys, and addresses before the first name, are passed over.
pub fn targets(text: &[u8]) -> Result<Vec<FoundTarget<'_>>, TextError> {
    let mut targets: Vec<FoundTarget<'_>> = Vec::new();
    for (key, value) in text::parse(text)? {
        match (key, targets.last_mut()) {
            ("TargetName", _) => targets.push(FoundTarget { name: value, addresses: Vec::new() }),
            ("TargetAddress", Some(target)) => target.addresses.extend(FoundAddress::parse(value)),
            _ => {}
        }
    }
    Ok(targets)
}

/// Decimal digits alone.
fn number(digits: &str) -> Option<u16> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let found = |host, port, group_tag| Some(FoundAddress { host, port, group_tag });
        for (value, address) in [
            ("10.0.0.1:3261,1", found("10.0.0.1", 3261, Some(1))),
            ("10.0.0.1", found("10.0.0.1", 3260, None)),
            ("disk.example,65535", found("disk.example", 3260, Some(65_535))),
            ("[fd00::1]:860,7", found("fd00::1", 860, Some(7))),
            ("[fd00::1]", found("fd00::1", 3260, None)),
            ("", None),
            (":3260,1", None),
            ("[]:3260", None),
            ("[fd00::1", None),
            ("[fd00::1]860", None),
            ("[10.0.0.1]:1", None),
            ("fd00::1:3260", None),
            ("a:65536", None),
            ("a:0", None),
            ("a:+1", None),
            ("a,1,2", None),
            ("a,", None),
        ] {
            assert_eq!(FoundAddress::parse(value), address, "{value}");
        }
    }

    #[test]
    fn records() {
        let text = b"TargetAddress=1.2.3.4\0TargetName=iqn.a\0TargetAddress=1.2.3.4:1,2\0TargetAddress=junk:\0X-a=1\0\
            TargetName=iqn.b\0TargetName=iqn.c\0TargetAddress=c,1\0";
        let found = targets(text).unwrap();
        let names: Vec<_> = found.iter().map(|target| (target.name, target.addresses.len())).collect();
        assert_eq!(names, [("iqn.a", 1), ("iqn.b", 0), ("iqn.c", 1)]);
        assert_eq!(targets(b"junk"), Err(TextError::NoPair));
        assert_eq!(targets(b""), Ok(vec![]));
    }
}
