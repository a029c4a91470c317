//! Which connections are let in: bounds on how many there are, on logins under way, and on how often an address logs in.
//!
//! It knows no socket and no clock, and remembers a bounded number of addresses.

use crate::limits::REMEMBERED_ADDRESSES;
use crate::local::Place;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;
use thiserror::Error;

/// How many may connect and log in, and how often.
///
/// What counts as one address is an IPv4 address or an IPv6 network of 64 bits, which one host may have for itself.
#[derive(Clone, Debug)]
pub struct LoginLimits {
    /// Connections. One address gets no more of them than it leaves to others: half, if it is alone.
    pub connections: usize,
    /// Logins under way. One more ends the oldest of the address that has the most.
    pub logins: usize,
    /// Logins under way from one address. One more ends the oldest of them.
    pub logins_of_address: usize,
    /// Logins that an address may begin at once; at least one.
    pub burst: u32,
    /// Logins that an address may begin in a second after that; at least one.
    pub rate: u32,
    /// As how many further logins one counts in which the initiator fails to prove who it is. From an address with more
    /// of them than `burst`, logins under way are ended too.
    pub failure_weight: u32,
    /// Sessions that one initiator name has from one address and with one account; discovery does not count.
    pub sessions_of_initiator: usize,
}

impl Default for LoginLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            logins: 512,
            logins_of_address: 128,
            // A host whose many machines start at once is not held up; one that guesses secrets has 20 tries and then two a
            // second.
            burst: 1000,
            rate: 100,
            failure_weight: 50,
            sessions_of_initiator: 512,
        }
    }
}

/// Why a connection is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum Refused {
    #[error("there are too many connections")]
    Connections,
    #[error("too many of the connections come from its address")]
    Share,
    #[error("its address logs in too often")]
    Rate,
}

/// An IPv4 address or an IPv6 network of 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Origin(IpAddr);

impl Origin {
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        })
    }
}

/// What is remembered of an address.
#[derive(Default)]
struct Record {
    connections: usize,
    logins: usize,
    /// When all its logins are paid for, if one costs [`Gatekeeper::price`].
    owes_until: Duration,
}

impl Record {
    fn is_forgettable(&self, now: Duration) -> bool {
        self.connections == 0 && self.owes_until <= now
    }
}

/// Counts connections and logins.
pub(crate) struct Gatekeeper {
    limits: LoginLimits,
    connections: usize,
    origins: HashMap<Origin, Record>,
    /// Logins under way, the oldest first.
    logins: Vec<(Place, Origin)>,
}

impl Gatekeeper {
    pub(crate) fn new(limits: LoginLimits) -> Self {
        Self { limits, connections: 0, origins: HashMap::new(), logins: Vec::new() }
    }

    /// What has been let in before stays.
    pub(crate) fn set_limits(&mut self, limits: LoginLimits) {
        self.limits = limits;
    }

    /// Lets in a connection from `address`, which is to be at `place` and begins a login. Returns the place of a connection
    /// whose login is to be ended for that.
    pub(crate) fn enter(
        &mut self,
        address: IpAddr,
        place: Place,
        now: Duration,
    ) -> Result<Option<Place>, Refused> {
        let origin = Origin::of(address);
        let left = self.limits.connections.saturating_sub(self.connections);
        if left == 0 {
            return Err(Refused::Connections);
        }
        let (price, credit) = (self.price(), self.credit());
        self.make_room(origin, now);
        let record = self.origins.entry(origin).or_default();
        if record.connections >= left {
            return Err(Refused::Share);
        }
        let owes_until = record.owes_until.max(now) + price;
        if owes_until - now > credit {
            return Err(Refused::Rate);
        }
        record.owes_until = owes_until;
        record.connections += 1;
        self.connections += 1;
        let evicted = self.victim(origin);
        if let Some(place) = evicted {
            self.login_ended(place);
        }
        self.logins.push((place, origin));
        self.record(origin).logins += 1;
        Ok(evicted)
    }

    /// A connection goes on from `address` that another process has let in: it has logged in, and counts as one.
    pub(crate) fn readmit(&mut self, address: IpAddr) {
        self.connections += 1;
        self.record(Origin::of(address)).connections += 1;
    }

    /// A login is over, well or not. Nothing happens if that was known.
    pub(crate) fn login_ended(&mut self, place: Place) {
        if let Some(index) = self.logins.iter().position(|(login, _)| *login == place) {
            let (_, origin) = self.logins.remove(index);
            self.record(origin).logins -= 1;
        }
    }

    /// An initiator at `address` has failed to prove who it is.
    pub(crate) fn authentication_failed(&mut self, address: IpAddr, now: Duration) {
        let fine = self.price() * self.limits.failure_weight;
        let record = self.record(Origin::of(address));
        record.owes_until = record.owes_until.max(now) + fine;
    }

    /// Whether `address` owes so much, for failures, that logins from there that have begun do not go on either: otherwise each
    /// of them would be one more guess.
    pub(crate) fn is_indebted(&self, address: IpAddr, now: Duration) -> bool {
        let record = self.origins.get(&Origin::of(address));
        record.is_some_and(|record| record.owes_until.saturating_sub(now) > self.credit())
    }

    /// A connection that was let in is gone.
    pub(crate) fn leave(&mut self, address: IpAddr, place: Place) {
        self.login_ended(place);
        self.connections -= 1;
        self.record(Origin::of(address)).connections -= 1;
    }

    /// What a login costs, in time.
    fn price(&self) -> Duration {
        Duration::from_secs(1) / self.limits.rate.max(1)
    }

    /// How much an address may owe.
    fn credit(&self) -> Duration {
        self.price() * self.limits.burst.max(1)
    }

    fn record(&mut self, origin: Origin) -> &mut Record {
        self.origins.entry(origin).or_default()
    }

    /// The login that ends so that one from `origin` can begin.
    fn victim(&self, origin: Origin) -> Option<Place> {
        let of = |origin: &Origin| self.origins.get(origin).map_or(0, |record| record.logins);
        let greediest = if of(&origin) >= self.limits.logins_of_address.max(1) {
            origin
        } else if self.logins.len() >= self.limits.logins.max(1) {
            // Of those with equally many, the one that comes first in the list.
            self.logins.iter().rev().map(|(_, origin)| *origin).max_by_key(of)?
        } else {
            return None;
        };
        self.logins.iter().find(|(_, origin)| *origin == greediest).map(|(place, _)| *place)
    }

    /// Forgets addresses if there are too many for one more: those that owe nothing, else the one that owes the least.
    fn make_room(&mut self, origin: Origin, now: Duration) {
        // Those with connections are bounded by these.
        let most = self.connections + REMEMBERED_ADDRESSES;
        if self.origins.len() < most || self.origins.contains_key(&origin) {
            return;
        }
        self.origins.retain(|_, record| !record.is_forgettable(now));
        if self.origins.len() >= most {
            let idle = self.origins.iter().filter(|(_, record)| record.connections == 0);
            if let Some((&origin, _)) = idle.min_by_key(|(_, record)| record.owes_until) {
                self.origins.remove(&origin);
            }
        }
    }
}

#[cfg(test)]
mod tests;
