//! A connection that has much to do leaves others their turns.

use crate::client::{Client, READ, TARGET, cdb, settings};
use crate::rig::{Rig, SIZE, target, unit};
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::params::Parameters;
use lunette_store::ram::Ram;
use lunette_store::{Backing, Caps, Cx, IoId, IoResult, Op, ReactorId, Sink, SinkId, Store, Submit};
use lunette_transport_iscsi::EntityOptions;
use lunette_transport_iscsi::limits::{COMMAND_WORK, TURN};
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Operations that a store has got since others had their turn, and the most of them.
#[derive(Default)]
struct Streak {
    now: AtomicU64,
    longest: AtomicU64,
}

/// A disk in memory that counts.
#[derive(Clone)]
struct Counted {
    ram: Ram,
    streak: Arc<Streak>,
}

impl Backing for Counted {
    fn caps(&self) -> &Caps {
        Backing::caps(&self.ram)
    }

    fn attach(&self, _: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(self.clone())
    }
}

impl Store for Counted {
    fn caps(&self) -> &Caps {
        Store::caps(&self.ram)
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        let now = self.streak.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.streak.longest.fetch_max(now, Ordering::Relaxed);
        self.ram.submit(op, id, cx)
    }
}

/// Somebody else on the reactor, who has something to do whenever it looks for that: for messages, and for completions.
struct Other(Arc<Streak>);

impl Other {
    fn begin(streak: Arc<Streak>, cx: &mut dyn Cx) {
        let sink = cx.register(Rc::new(Self(streak.clone())));
        cx.complete(IoId { sink, token: sink.0.into() }, Ok(0));
        Self::message(streak, cx);
    }

    fn message(streak: Arc<Streak>, cx: &mut dyn Cx) {
        streak.now.store(0, Ordering::Relaxed);
        cx.poster().post(cx.reactor(), Box::new(|cx: &mut dyn Cx| Self::message(streak, cx)));
    }
}

impl Sink for Other {
    fn complete(&self, token: u64, _: IoResult, cx: &mut dyn Cx) {
        self.0.now.store(0, Ordering::Relaxed);
        cx.complete(IoId { sink: SinkId(token as u32), token }, Ok(0));
    }
}

/// A session without digests on a reactor where somebody else has something to do, too.
fn busy() -> (Rig, Client, Arc<Streak>) {
    let streak = Arc::<Streak>::default();
    let disk = unit(1, Arc::new(Counted { ram: Ram::new(SIZE).unwrap(), streak: streak.clone() }));
    let rig = Rig::serving(EntityOptions::default(), target(TARGET, &[1], &disk), 1);
    let parameters = Parameters { header_digest: false, data_digest: false, ..Parameters::PREFERRED };
    let client = Client::ready(rig.address(), Settings { parameters, ..settings(1) });
    let other = streak.clone();
    rig.reactors.call(ReactorId(0), |cx| Other::begin(other, cx)).unwrap();
    (rig, client, streak)
}

/// More commands than the window has room for: the initiator knows that each ends before the next is looked at.
#[test]
fn commands_without_end_are_taken_in_turns() {
    const PER_TURN: u64 = TURN / COMMAND_WORK;
    const MANY: u32 = 8 * PER_TURN as u32;
    const VERIFY: u8 = 0x2f;
    let (_rig, mut client, streak) = busy();
    client.command(&cdb(VERIFY, 0, 8), 0, None);
    let first: [u8; 48] = *client.wire().first_chunk().unwrap();
    let cmd_sn = u32::from_be_bytes(*first[24..].first_chunk().unwrap());
    let commands = (0..MANY).flat_map(|n| {
        let mut command = first;
        command[16..20].copy_from_slice(&n.to_be_bytes());
        command[24..28].copy_from_slice(&(cmd_sn + n).to_be_bytes());
        command
    });
    client.socket.write_all(&commands.collect::<Vec<_>>()).unwrap();
    for n in 0..MANY {
        let mut answer = [0; 48];
        client.socket.read_exact(&mut answer).unwrap();
        assert_eq!((answer[0], answer[3]), (0x21, 0), "SCSI Response, GOOD");
        assert_eq!(answer[16..20], n.to_be_bytes(), "in order");
    }
    let longest = streak.longest.load(Ordering::Relaxed);
    assert!((1..=PER_TURN).contains(&longest), "{longest} commands in one turn");
}

#[test]
fn long_commands_are_taken_in_turns_as_well() {
    const LENGTH: u32 = 128 << 10;
    const PER_TURN: u64 = TURN.div_ceil(COMMAND_WORK + LENGTH as u64);
    let (_rig, mut client, streak) = busy();
    let read = cdb(READ, 0, (LENGTH / 512) as u16);
    let tags: Vec<_> = (0..100).map(|_| client.command(&read, LENGTH, None)).collect();
    for tag in tags {
        assert_eq!(client.finish(tag).status, 0);
    }
    let longest = streak.longest.load(Ordering::Relaxed);
    assert!((1..=PER_TURN).contains(&longest), "{longest} commands in one turn");
}
