use super::*;
use lunette_store::ReactorId;

const NOW: Duration = Duration::from_secs(100);

fn limits() -> LoginLimits {
    LoginLimits { logins: 6, logins_of_address: 4, burst: 1_000_000, ..LoginLimits::default() }
}

fn place(connection: u64) -> Place {
    Place { reactor: ReactorId(0), connection }
}

fn v4(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

/// IPv6 addresses of two networks of 64 bits.
fn v6(network: u16, host: u16) -> IpAddr {
    [0x2001, 0xdb8, 0, network, 0, 0, 0, host].into()
}

struct Gate {
    keeper: Gatekeeper,
    last: u64,
}

impl Gate {
    fn new(limits: LoginLimits) -> Self {
        Self { keeper: Gatekeeper::new(limits), last: 0 }
    }

    /// A connection from `address`: its number, and that of the login that ends for it.
    fn enter_at(&mut self, address: IpAddr, now: Duration) -> Result<(u64, Option<u64>), Refused> {
        let evicted = self.keeper.enter(address, place(self.last + 1), now)?;
        self.last += 1;
        Ok((self.last, evicted.map(|place| place.connection)))
    }

    fn enter(&mut self, address: IpAddr) -> (u64, Option<u64>) {
        self.enter_at(address, NOW).unwrap()
    }

    /// One that logs in.
    fn log_in(&mut self, address: IpAddr) -> u64 {
        let (number, evicted) = self.enter(address);
        assert_eq!(evicted, None);
        self.keeper.login_ended(place(number));
        number
    }
}

#[test]
fn the_oldest_login_of_the_greediest_address_ends() {
    let mut gate = Gate::new(limits());
    assert_eq!(gate.enter(v4(1)), (1, None));
    for number in 2..=4 {
        assert_eq!(gate.enter(v4(2)), (number, None));
    }
    assert_eq!(gate.enter(v4(3)), (5, None));
    assert_eq!(gate.enter(v4(3)), (6, None));
    assert_eq!(gate.enter(v4(1)), (7, Some(2)), "all are taken, and most by the second");
    assert_eq!(gate.enter(v4(4)), (8, Some(1)), "of those with two each the one with the oldest");
    gate.keeper.login_ended(place(8));
    assert_eq!(gate.enter(v4(5)), (9, None));
}

#[test]
fn one_address_has_so_many_logins() {
    let mut gate = Gate::new(limits());
    for number in 1..=4 {
        assert_eq!(gate.enter(v4(1)), (number, None));
    }
    assert_eq!(gate.enter(v4(1)), (5, Some(1)));
    assert_eq!(gate.enter(v4(1)), (6, Some(2)));
    gate.keeper.login_ended(place(4));
    gate.keeper.login_ended(place(4));
    gate.keeper.login_ended(place(1));
    assert_eq!(gate.enter(v4(1)), (7, None));
    assert_eq!(gate.enter(v4(1)), (8, Some(3)));
}

#[test]
fn hosts_of_one_ipv6_network_are_one_address() {
    let mut gate = Gate::new(limits());
    for host in 1..=4 {
        assert_eq!(gate.enter(v6(1, host)).1, None);
    }
    assert_eq!(gate.enter(v6(2, 5)).1, None);
    assert_eq!(gate.enter(v6(1, 6)).1, Some(1));
    let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
    assert_eq!(Origin::of(mapped), Origin::of(v4(1)));
}

#[test]
fn an_address_gets_no_more_connections_than_it_leaves() {
    let mut gate = Gate::new(LoginLimits { connections: 8, ..limits() });
    let first: Vec<_> = (0..4).map(|_| gate.log_in(v4(1))).collect();
    assert_eq!(gate.enter_at(v4(1), NOW), Err(Refused::Share));
    (0..2).for_each(|_| _ = gate.log_in(v4(2)));
    assert_eq!(gate.enter_at(v4(2), NOW), Err(Refused::Share));
    let third = gate.log_in(v4(3));
    gate.log_in(v4(4));
    assert_eq!(gate.enter_at(v4(5), NOW), Err(Refused::Connections));
    gate.keeper.leave(v4(3), place(third));
    gate.log_in(v4(5));
    gate.keeper.leave(v4(1), place(first[0]));
    assert_eq!(gate.enter_at(v4(1), NOW), Err(Refused::Share));
}

#[test]
fn an_address_that_logs_in_too_often_waits() {
    let mut gate = Gate::new(LoginLimits { burst: 5, rate: 2, ..limits() });
    let entered =
        |gate: &mut Gate, address, now| (0..20).filter(|_| gate.enter_at(address, now).is_ok()).count();
    assert_eq!(entered(&mut gate, v4(1), NOW), 5);
    assert_eq!(gate.enter_at(v4(1), NOW), Err(Refused::Rate));
    assert_eq!(entered(&mut gate, v4(2), NOW), 5, "another address is another matter");
    assert_eq!(entered(&mut gate, v4(1), NOW + Duration::from_secs(2)), 4);
    assert_eq!(entered(&mut gate, v4(1), NOW + Duration::from_secs(60)), 5);
}

#[test]
fn who_guesses_waits_longer() {
    let mut gate = Gate::new(LoginLimits { burst: 10, rate: 1, failure_weight: 4, ..limits() });
    let guess = |gate: &mut Gate, now| {
        let (number, _) = gate.enter_at(v4(1), now)?;
        gate.keeper.authentication_failed(v4(1), now);
        gate.keeper.leave(v4(1), place(number));
        Ok(())
    };
    assert_eq!((0..10).filter(|_| guess(&mut gate, NOW).is_ok()).count(), 2);
    assert_eq!(guess(&mut gate, NOW), Err(Refused::Rate));
    assert_eq!(guess(&mut gate, NOW + Duration::from_secs(1)), Ok(()));
    assert_eq!(guess(&mut gate, NOW + Duration::from_secs(5)), Err(Refused::Rate));
}

#[test]
fn guesses_cannot_be_prepared() {
    let mut gate = Gate::new(LoginLimits { burst: 10, rate: 1, failure_weight: 4, ..limits() });
    (0..4).for_each(|_| _ = gate.enter(v4(1)));
    gate.keeper.authentication_failed(v4(1), NOW);
    assert!(!gate.keeper.is_indebted(v4(1), NOW));
    gate.keeper.authentication_failed(v4(1), NOW);
    assert!(gate.keeper.is_indebted(v4(1), NOW));
    assert!(!gate.keeper.is_indebted(v4(2), NOW));
    assert!(!gate.keeper.is_indebted(v4(1), NOW + Duration::from_secs(2)));
}

#[test]
fn addresses_are_forgotten() {
    let mut gate = Gate::new(LoginLimits { burst: 10, rate: 1, ..limits() });
    let visit = |gate: &mut Gate, address, now| {
        let (number, _) = gate.enter_at(address, now).unwrap();
        gate.keeper.leave(address, place(number));
    };
    // Who owes much is remembered longest.
    (0..10).for_each(|_| visit(&mut gate, v4(1), NOW));
    let (staying, _) = gate.enter(v4(2));
    for network in 0..REMEMBERED_ADDRESSES as u16 + 500 {
        visit(&mut gate, v6(network, 1), NOW);
        assert!(gate.keeper.origins.len() <= REMEMBERED_ADDRESSES + 2, "{}", gate.keeper.origins.len());
    }
    assert_eq!(gate.enter_at(v4(1), NOW), Err(Refused::Rate));
    visit(&mut gate, v6(0xffff, 1), NOW + Duration::from_secs(11));
    assert_eq!(gate.keeper.origins.len(), 2, "but for those that owe nothing any more");
    gate.keeper.leave(v4(2), place(staying));
}

/// Whatever happens, the counts agree with what is there.
#[test]
fn counts_are_right_after_any_course_of_events() {
    let mut gate = Gate::new(LoginLimits { connections: 40, burst: 20, rate: 100, ..limits() });
    let mut there: Vec<(u64, IpAddr)> = Vec::new();
    let (mut seed, mut now) = (1u64, NOW);
    let (mut evictions, mut refusals) = (0, 0);
    for _ in 0..20_000 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (random, address) = ((seed >> 33) as usize, v4((seed >> 60) as u8));
        match random % 8 {
            0..=3 => match gate.enter_at(address, now) {
                Ok((number, evicted)) => {
                    evictions += usize::from(evicted.is_some());
                    there.push((number, address));
                }
                Err(_) => refusals += 1,
            },
            4 if !there.is_empty() => gate.keeper.login_ended(place(there[random / 8 % there.len()].0)),
            5 | 6 if !there.is_empty() => {
                let (number, address) = there.swap_remove(random / 8 % there.len());
                gate.keeper.leave(address, place(number));
            }
            _ => now += Duration::from_millis(3),
        }
        let keeper = &gate.keeper;
        assert_eq!(keeper.connections, there.len());
        assert!(keeper.logins.len() <= 6);
        for (origin, record) in &keeper.origins {
            let connections = there.iter().filter(|(_, address)| Origin::of(*address) == *origin).count();
            let logins = keeper.logins.iter().filter(|(_, of)| of == origin).count();
            assert_eq!((record.connections, record.logins), (connections, logins));
            assert!(logins <= 4);
        }
    }
    assert!(evictions > 100 && refusals > 100, "{evictions} evictions, {refusals} refusals");
    there.into_iter().for_each(|(number, address)| gate.keeper.leave(address, place(number)));
    assert!(gate.keeper.logins.is_empty());
    gate.keeper.make_room(Origin::of(v4(1)), now);
    assert!(gate.keeper.origins.values().all(|record| record.connections == 0 && record.logins == 0));
}
