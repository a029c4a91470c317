//! Which addresses an initiator is told of.

use std::net::{IpAddr, SocketAddr};

/// The address of a portal that listens on `listening`, for one who has come to `reached`, or `None` if it is of no use to
/// him. `takes_ipv4`: an IPv6 socket takes IPv4 connections as well.
pub(crate) fn told(listening: SocketAddr, takes_ipv4: bool, reached: SocketAddr) -> Option<SocketAddr> {
    let (ip, came_to) = (listening.ip().to_canonical(), reached.ip().to_canonical());
    let ip = match ip {
        _ if ip.is_unspecified() => came_to,
        ip => ip,
    };
    let speaks = ip.is_ipv4() == listening.ip().to_canonical().is_ipv4() || ip.is_ipv4() && takes_ipv4;
    // Elsewhere these are other hosts, or none.
    let known_there = match ip {
        ip if ip.is_loopback() => came_to.is_loopback(),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => ip == came_to,
        _ => true,
    };
    (speaks && known_there).then(|| SocketAddr::new(ip, listening.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn tell(listening: &str, reached: &str) -> Option<String> {
        told(address(listening), true, address(reached)).map(|address| address.to_string())
    }

    #[test]
    fn addresses_are_told_as_they_are_and_wildcards_as_they_were_reached() {
        let told = |listening, reached| tell(listening, reached).unwrap();
        assert_eq!(told("192.0.2.1:3260", "198.51.100.7:3260"), "192.0.2.1:3260");
        assert_eq!(told("[2001:db8::1]:3260", "198.51.100.7:3260"), "[2001:db8::1]:3260");
        assert_eq!(told("0.0.0.0:3261", "198.51.100.7:3260"), "198.51.100.7:3261");
        assert_eq!(told("[::]:3261", "[2001:db8::1]:3260"), "[2001:db8::1]:3261");
        assert_eq!(told("[::]:3261", "198.51.100.7:3260"), "198.51.100.7:3261");
        assert_eq!(told("[::]:3261", "[::ffff:198.51.100.7]:3260"), "198.51.100.7:3261");
        assert_eq!(told("[::ffff:192.0.2.1]:3260", "[2001:db8::1]:3260"), "192.0.2.1:3260");
    }

    #[test]
    fn addresses_of_no_use_are_kept_back() {
        assert_eq!(tell("0.0.0.0:3261", "[2001:db8::1]:3260"), None, "of another family");
        let (wildcard, ipv4) = (address("[::]:3261"), address("198.51.100.7:3260"));
        assert_eq!(told(wildcard, false, ipv4), None, "for IPv6 alone");
        assert_eq!(tell("127.0.0.1:3260", "198.51.100.7:3260"), None, "another host there");
        assert_eq!(tell("127.0.0.2:3260", "127.0.0.1:3260").unwrap(), "127.0.0.2:3260");
        assert_eq!(tell("[fe80::1%2]:3260", "[2001:db8::1]:3260"), None, "off the link");
    }

    #[test]
    fn scopes_stay_here() {
        assert_eq!(tell("[fe80::1%2]:3261", "[fe80::1%2]:3260").unwrap(), "[fe80::1]:3261");
        assert_eq!(tell("[::]:3261", "[fe80::1%2]:3260").unwrap(), "[fe80::1]:3261");
    }
}
