//! What happens outside the engine: the medium, the initiators' memory, and who has seen what, when.

use super::disk::{BLOCK, BLOCKS};
use super::random::Random;
use crate::Completion;
use lunette_scsi::{ServiceResponse, TaskAttribute, TaskManagementFunction};
use lunette_store::{Backing, Caps, Cx, IoError, IoId, IoResult, Op, ReactorId, Seg, SgList, Store, Submit};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};

/// When something happened; no two things happen at the same time.
pub(super) type Time = u64;

/// What a command is about.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Kind {
    Read {
        first: usize,
        count: usize,
        in_steps: bool,
    },
    /// Block `i` of it becomes `number + i`.
    Write {
        first: usize,
        count: usize,
        number: u64,
    },
    CompareAndWrite {
        block: usize,
        expected: u64,
        number: u64,
    },
    /// PERSISTENT RESERVE OUT.
    Reserve {
        action: u16,
        reservation_type: u8,
        victim: usize,
    },
    /// Work in the background writes the block.
    WriteAtomic {
        block: usize,
        number: u64,
    },
    /// RESERVE(6).
    Lock,
    /// RELEASE(6).
    Unlock,
    TestUnitReady,
}

/// What the unit does about errors, and how many commands wait for room.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    /// QERR of the Control mode page.
    pub(super) on_error: u8,
    /// TAS of the same.
    pub(super) tells_aborted: bool,
    pub(super) limit: usize,
}

/// A command, from its arrival to its end.
pub(super) struct Command {
    pub(super) nexus: usize,
    /// How often its nexus had ceased or begun to see the unit.
    pub(super) sight: usize,
    pub(super) reactor: usize,
    pub(super) attribute: TaskAttribute,
    pub(super) naca: bool,
    /// As it came; 0 is none.
    pub(super) priority: u8,
    pub(super) kind: Kind,
    pub(super) arrived: Time,
    /// When the store first had no room for it.
    pub(super) refused: Option<Time>,
    /// When the store was first asked to do something with its data.
    pub(super) begun: Option<Time>,
    pub(super) ended: Option<(Time, Completion)>,
    /// What its data-in was when it had ended.
    pub(super) data: Vec<u64>,
}

/// A task management function, or the end of a nexus (`None`).
pub(super) struct Function {
    pub(super) nexus: usize,
    pub(super) function: Option<TaskManagementFunction>,
    /// The command that it names.
    pub(super) command: usize,
    pub(super) sent: Time,
    pub(super) answered: Option<(Time, ServiceResponse)>,
}

/// What the operator wants.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Wish {
    Quiesce,
    ReadOnly(bool),
    /// So many blocks.
    Resize(usize),
}

/// What the operator has asked for.
pub(super) struct Change {
    pub(super) wish: Wish,
    pub(super) asked: Time,
    /// And whether it has succeeded.
    pub(super) done: Option<(Time, bool)>,
}

pub(super) struct World {
    pub(super) now: Time,
    pub(super) settings: Settings,
    pub(super) random: Random,
    pub(super) faults: bool,
    pub(super) blocks: [u64; BLOCKS],
    pub(super) commands: Vec<Command>,
    pub(super) functions: Vec<Function>,
    /// When a nexus has ceased to see the unit, or sees it again.
    pub(super) sights: Vec<(usize, Time)>,
    pub(super) changes: Vec<Change>,
    /// The operator was told that nothing happens at the store, and has not let anything go on.
    pub(super) is_quiet: bool,
    /// He was told that nothing is written, and has not allowed it again.
    pub(super) is_protected: bool,
    /// Blocks that the store has.
    pub(super) size: usize,
    /// Which command's memory begins at an address.
    pub(super) memories: BTreeMap<usize, (usize, usize)>,
    pending: Vec<Pending>,
}

/// An operation that the store has.
struct Pending {
    reactor: ReactorId,
    id: IoId,
    transfer: Transfer,
}

/// So many blocks, of which some are done.
struct Transfer {
    is_write: bool,
    first: usize,
    data: SgList,
    count: usize,
    done: usize,
}

pub(super) type Shared = Arc<Mutex<World>>;

impl World {
    pub(super) fn new(settings: Settings, random: Random) -> Self {
        Self {
            now: 0,
            settings,
            random,
            faults: true,
            blocks: std::array::from_fn(|block| block as u64 + 1),
            commands: Vec::new(),
            functions: Vec::new(),
            sights: Vec::new(),
            changes: Vec::new(),
            is_quiet: false,
            is_protected: false,
            size: BLOCKS,
            memories: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    pub(super) fn tick(&mut self) -> Time {
        self.now += 1;
        self.now
    }

    /// Whose memory this is; the engine's own belongs to nobody.
    fn owner(&self, seg: Seg) -> Option<usize> {
        let address = seg.address() as usize;
        let (start, (length, command)) = self.memories.range(..=address).next_back()?;
        (address < start + length).then_some(*command)
    }

    /// Nothing touches the memory of a command that has ended.
    fn touch(&mut self, data: &SgList) {
        let now = self.tick();
        for seg in data.as_sg().iter() {
            if let Some(command) = self.owner(seg) {
                let command = &mut self.commands[command];
                assert!(
                    command.ended.is_none(),
                    "memory of a command that has ended is touched: {:?}",
                    command.kind
                );
                command.begun.get_or_insert(now);
            }
        }
    }

    /// There is no room for what a command wants.
    fn refuse(&mut self, data: &SgList) {
        let now = self.tick();
        let owner = data.as_sg().iter().next().and_then(|seg| self.owner(seg));
        if let Some(command) = owner {
            self.commands[command].refused.get_or_insert(now);
        }
    }

    /// Moves one block.
    fn advance(&mut self, transfer: &mut Transfer) {
        assert!(!self.is_quiet, "something happens though the unit is quiet");
        assert!(!(transfer.is_write && self.is_protected), "something is written that must not be");
        assert!(transfer.first + transfer.count <= self.size, "something happens beyond the end");
        self.touch(&transfer.data);
        let (block, at) = (transfer.first + transfer.done, (transfer.done * BLOCK) as u64);
        if transfer.is_write {
            let mut bytes = [0; BLOCK];
            transfer.data.as_sg().copy_out(at, &mut bytes);
            self.blocks[block] = u64::from_be_bytes(bytes);
        } else {
            transfer.data.as_sg().copy_in(at, &self.blocks[block].to_be_bytes());
        }
        transfer.done += 1;
    }

    fn submit(&mut self, op: Op<'_>, reactor: ReactorId, id: IoId) -> Submit {
        let (is_write, offset, sg) = match op {
            Op::Read { offset, to } => (false, offset, to),
            Op::Write { offset, from, .. } => (true, offset, from),
            _ => return Submit::Done(Ok(0)),
        };
        let mut data = SgList::new();
        data.assign(sg);
        let (first, count) = (offset as usize / BLOCK, sg.len() as usize / BLOCK);
        let mut transfer = Transfer { is_write, first, data, count, done: 0 };
        assert!(!self.is_quiet, "something begins though the unit is quiet");
        if self.faults && (self.pending.len() >= 6 || self.random.chance(4)) {
            self.refuse(&transfer.data);
            return Submit::Full;
        }
        self.touch(&transfer.data);
        if self.random.chance(20) {
            while transfer.done < count {
                self.advance(&mut transfer);
            }
            return Submit::Done(Ok(sg.len()));
        }
        self.pending.push(Pending { reactor, id, transfer });
        Submit::Queued
    }

    /// An operation goes on. What is to be reported, if it has come to its end.
    pub(super) fn go_on(&mut self) -> Option<(ReactorId, IoId, IoResult)> {
        if self.pending.is_empty() {
            return None;
        }
        let at = self.random.below(self.pending.len());
        let mut pending = self.pending.swap_remove(at);
        if self.faults && self.random.chance(5) {
            return Some((pending.reactor, pending.id, Err(IoError::Os(5))));
        }
        if pending.transfer.done < pending.transfer.count {
            self.advance(&mut pending.transfer);
            self.pending.push(pending);
            return None;
        }
        Some((pending.reactor, pending.id, Ok((pending.transfer.count * BLOCK) as u64)))
    }

    /// The operator wants something. Which change that is.
    pub(super) fn ask(&mut self, wish: Wish) -> usize {
        let asked = self.tick();
        if wish == Wish::ReadOnly(false) {
            self.is_protected = false;
        }
        self.changes.push(Change { wish, asked, done: None });
        self.changes.len() - 1
    }

    /// It is done, or not.
    pub(super) fn changed(&mut self, change: usize, succeeded: bool) {
        let now = self.tick();
        let wish = self.changes[change].wish;
        assert!(self.changes[change].done.is_none(), "a change is done twice");
        self.changes[change].done = Some((now, succeeded));
        // He may have asked for the contrary since.
        let is_last = |of: fn(Wish) -> bool| self.changes[change + 1..].iter().all(|later| !of(later.wish));
        match wish {
            Wish::Quiesce if succeeded => {
                assert!(self.pending.is_empty(), "a unit that is quiet has the store at work");
                self.is_quiet = true;
            }
            Wish::ReadOnly(true) if succeeded && is_last(|wish| matches!(wish, Wish::ReadOnly(_))) => {
                self.is_protected = true;
            }
            _ => {}
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }
}

/// The store: it delays, reorders, refuses and fails.
pub(super) struct Medium {
    pub(super) caps: Caps,
    pub(super) world: Shared,
}

impl Medium {
    pub(super) fn new(world: Shared) -> Self {
        let size = (BLOCKS * BLOCK) as u64;
        let caps = Caps {
            size: size.into(),
            read_only: false,
            logical_block: BLOCK as u32,
            physical_block: BLOCK as u32,
            max_transfer: size,
            volatile_cache: false,
            discard: None,
            fast_zero: false,
            rotational: false,
        };
        Self { caps, world }
    }
}

struct Handle(Caps, Shared);

impl Backing for Medium {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn is_resizable(&self) -> bool {
        true
    }

    fn resize(&self, size: u64) -> Result<(), IoError> {
        let mut world = lock(&self.world);
        world.size = size as usize / BLOCK;
        let beyond = |pending: &Pending| pending.transfer.first + pending.transfer.count > world.size;
        assert!(!world.pending.iter().any(beyond), "something is under way where the store ends");
        self.caps.size.set(size);
        Ok(())
    }

    fn attach(&self, _: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(Handle(self.caps.clone(), self.world.clone()))
    }
}

impl Store for Handle {
    fn caps(&self) -> &Caps {
        &self.0
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        lock(&self.1).submit(op, cx.reactor(), id)
    }
}

pub(super) fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
