//! Whom a rule concerns: names and addresses.

use std::fmt::{self, Write};
use std::net::IpAddr;
use std::str::FromStr;
use thiserror::Error;

/// An iSCSI name as it is compared: without case (RFC 7143 4.2.7.1, RFC 3722).
pub(crate) fn fold(name: &str) -> String {
    name.chars().flat_map(char::to_lowercase).collect()
}

/// The same, for patterns.
pub(crate) fn folded(name: &str) -> Vec<char> {
    fold(name).chars().collect()
}

/// iSCSI names: one, or all that a pattern has, in which `*` stands for anything and `?` for one character. Case does not
/// matter.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NamePattern(Box<[char]>);

/// A pattern that no iSCSI name has.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("`{0}` is not the pattern of an iSCSI name: one looks like iqn.2026-11.dev.lunette:host-*")]
pub struct NotAPattern(String);

impl NamePattern {
    /// Whether the pattern has `name`.
    pub fn matches(&self, name: &str) -> bool {
        self.matches_folded(&folded(name))
    }

    pub(crate) fn matches_folded(&self, name: &[char]) -> bool {
        let pattern = &self.0;
        let (mut at, mut of) = (0, 0);
        // Where the last `*` stands, and up to where it stands for the name.
        let mut star = None;
        while of < name.len() {
            match pattern.get(at) {
                Some('*') => {
                    star = Some((at, of));
                    at += 1;
                }
                Some(&c) if c == '?' || c == name[of] => {
                    at += 1;
                    of += 1;
                }
                _ => {
                    let Some((place, end)) = star else { return false };
                    star = Some((place, end + 1));
                    (at, of) = (place + 1, end + 1);
                }
            }
        }
        pattern[at..].iter().all(|c| *c == '*')
    }
}

impl FromStr for NamePattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        let odd = |c: char| c.is_whitespace() || c.is_control();
        let pattern = folded(text);
        // RFC 7143 4.2.7
        let begin: String = pattern.iter().take_while(|c| !matches!(c, '*' | '?')).collect();
        let is_name =
            |kind: &str| begin.starts_with(kind) || begin.len() < pattern.len() && kind.starts_with(&begin);
        if !["iqn.", "eui.", "naa."].into_iter().any(is_name)
            || text.len() > lunette_iscsi::limits::MAX_NAME
            || text.chars().any(odd)
        {
            return Err(NotAPattern(text.to_owned()));
        }
        Ok(Self(pattern.into()))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|c| f.write_char(*c))
    }
}

/// Addresses that begin alike: `192.0.2.0/24`, `2001:db8::/32`, or a single one. IPv4 addresses that are written as IPv6 ones
/// (`::ffff:192.0.2.1`) are IPv4 addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Network {
    /// The bits beyond the prefix are 0.
    address: IpAddr,
    /// Bits that count.
    prefix: u8,
}

/// Why something is not a network.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum NotANetwork {
    /// It does not look like one.
    #[error("`{0}` is not a network: one looks like 192.0.2.0/24 or 2001:db8::/32")]
    Form(String),
    /// It does, but its address has more bits than its prefix.
    #[error("`{text}` has bits beyond its prefix: the network is {network}")]
    HostBits {
        /// What was given.
        text: String,
        /// What may be meant.
        network: Network,
    },
}

impl Network {
    /// Whether it has `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }
}

/// Whether `address` is in one of the networks; no networks: anything is.
pub(crate) fn among(networks: &[Network], address: IpAddr) -> bool {
    networks.is_empty() || networks.iter().any(|network| network.contains(address))
}

/// The first bits of an address.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let form = || NotANetwork::Form(text.to_owned());
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let written: IpAddr = address.parse().map_err(|_| form())?;
        let most = if written.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = match prefix {
            None => most,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= most).ok_or_else(form)?
            }
            Some(_) => return Err(form()),
        };
        let address = written.to_canonical();
        // An IPv4 address that is written as an IPv6 one has 96 bits that every other such has.
        let mapped = address.is_ipv4() && written.is_ipv6();
        let prefix = if mapped { prefix.checked_sub(96).ok_or_else(form)? } else { prefix };
        let network = Self { address: masked(address, prefix), prefix };
        match network.address == address {
            true => Ok(network),
            false => Err(NotANetwork::HostBits { text: text.to_owned(), network }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        pattern.parse::<NamePattern>().unwrap().matches(name)
    }

    #[test]
    fn patterns_have_names() {
        for (pattern, name) in [
            ("iqn.2024-01.example:a", "iqn.2024-01.example:a"),
            ("IQN.2024-01.Example:A", "iqn.2024-01.eXample:a"),
            ("iqn.2024-01.example:Ä", "iqn.2024-01.example:ä"),
            ("*", "iqn.x"),
            ("iqn.*:a", "iqn.2024-01.example:b:a"),
            ("iqn.*a*b?", "iqn.aabab1"),
            ("iqn.x**", "iqn.x"),
            ("eui.0200456?A425678D", "eui.02004567A425678D"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("iqn.x", "iqn.xy"),
            ("iqn.xy", "iqn.x"),
            ("iqn.?", "iqn."),
            ("iqn.*:a", "iqn.2024-01.example:ab"),
            ("iqn.*a*b?", "iqn.aabab"),
            ("iqn.x", ""),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_takes_no_longer_than_the_product_of_both_lengths() {
        let pattern = format!("{}b", "*a".repeat(100));
        assert!(!matches(&pattern, &"a".repeat(223)));
    }

    #[test]
    fn what_no_name_has_is_no_pattern() {
        for text in ["", "iqn.a b", "iqn.a\n", "db1*", "iqn", "x?n.a", &format!("iqn.{}", "x".repeat(220))] {
            assert_eq!(text.parse::<NamePattern>(), Err(NotAPattern(text.to_owned())));
        }
    }

    #[test]
    fn networks_have_addresses() {
        for (network, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.0/24", "::ffff:192.0.2.1", "::192.0.2.1"),
            ("::ffff:192.0.2.0/120", "192.0.2.1", "192.0.3.1"),
            ("0.0.0.0/0", "203.0.113.1", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network} {outside}");
        }
    }

    #[test]
    fn networks_are_written_in_one_way() {
        let network = |text: &str| text.parse::<Network>();
        assert_eq!(network("::ffff:192.0.2.7").unwrap().to_string(), "192.0.2.7/32");
        for bad in [
            "",
            "disk",
            "192.0.2.0/33",
            "192.0.2.0/",
            "192.0.2.0/+4",
            "::/129",
            "::ffff:192.0.2.0/95",
            "fe80::1%2",
        ] {
            assert_eq!(network(bad), Err(NotANetwork::Form(bad.to_owned())));
        }
        let error = network("192.0.2.1/24").unwrap_err().to_string();
        assert_eq!(error, "`192.0.2.1/24` has bits beyond its prefix: the network is 192.0.2.0/24");
    }
}
