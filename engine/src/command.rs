//! The command table: one row per opcode, from which everything else about commands is derived.

use crate::{Access, CommandFilter, LogicalUnit, Nexus, Plan};
use lunette_scsi::{Cdb, Opcode, Sense, command_name};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Which way a command's data goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// No data.
    None,
    /// From the device to the initiator.
    In,
    /// From the initiator to the device.
    Out,
    /// Both: a bidirectional command (SAM-5 5.4.1).
    Both,
}

/// What a pending unit attention condition does to a command (SAM-5 5.14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attention {
    /// The command ends with the unit attention.
    Reported,
    /// The command is processed and the condition stays (INQUIRY, REPORT LUNS).
    Kept,
    /// The command itself returns the condition as data (REQUEST SENSE).
    Delivered,
}

/// What reservations of other I_T nexuses do to a command (SPC-4 5.12, SBC-4 4.17; for RESERVE, SPC-2 5.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reservation {
    /// Processed whatever the reservation.
    Exempt,
    /// Processed under persistent reservations; RESERVE excludes it.
    Allowed,
    /// Processed unless the reservation excludes reading.
    Read,
    /// Processed unless the reservation excludes writing.
    Write,
}

/// What a command needs of its logical unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// Nothing: it is processed also while the unit is not ready.
    Nothing,
    /// A unit that no background operation keeps busy, though it may have stopped or have no medium. One whose kept state
    /// cannot be used is none: the medium may be somebody's by a reservation.
    Idle,
    /// A unit that is ready: one with a medium, that no background operation keeps busy.
    Ready,
}

/// How long a command takes, as REPORT SUPPORTED OPERATION CODES says it (SPC-4 6.35.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// Usual longest time.
    pub nominal: Duration,
    /// Time after which an initiator should give up.
    pub recommended: Duration,
}

impl Timeouts {
    /// Commands that touch no medium.
    pub const SHORT: Self = Self::seconds(1, 10);
    /// Commands that move data.
    pub const DATA: Self = Self::seconds(10, 30);
    /// Commands that may work on a whole medium.
    pub const LONG: Self = Self::seconds(60, 600);

    const fn seconds(nominal: u64, recommended: u64) -> Self {
        Self { nominal: Duration::from_secs(nominal), recommended: Duration::from_secs(recommended) }
    }
}

/// Everything about one command except what it does.
#[derive(Clone, Debug)]
pub struct CommandSpec {
    /// Operation code.
    pub opcode: Opcode,
    /// Service action, for operation codes that have them.
    pub service_action: Option<u16>,
    /// The standard's name for it.
    pub name: &'static str,
    /// CDB usage data (SPC-4 6.35.3): the operation code, then a one for each bit that is evaluated. A CDB with any
    /// other bit set is refused, except for NACA, which every command has. Its length is the CDB's. With a CDB of
    /// variable length, the additional length and the service action stand here as they are.
    pub usage: &'static [u8],
    /// Data direction.
    pub direction: Direction,
    /// What a pending unit attention does to it.
    pub attention: Attention,
    /// What a reservation of another nexus does to it, at most.
    pub reservation: Reservation,
    /// The same where it depends on the CDB.
    pub reservation_by: Option<fn(&Cdb) -> Reservation>,
    /// What it needs of its logical unit.
    pub needs: Needs,
    /// How well the unit has to be accessible through the port by which it comes.
    pub access: Access,
    /// Time-outs.
    pub timeouts: Timeouts,
    /// Whether it takes from the [limits](crate::Limit) of its nexus.
    pub limited: bool,
    /// Whether it may be carried out a second time, though nobody knows whether it was before: it then does and says what it
    /// would have done and said if it had only now been carried out for the first time. So what was asked for once more by a
    /// transport that has lost the answer is answered truly.
    pub repeatable: bool,
}

impl CommandSpec {
    /// A command that steers or asks, takes little time and must not be carried out twice; the rest of the row is said by what
    /// follows.
    ///
    /// # Panics
    /// If the operation code has no name.
    pub const fn new(opcode: Opcode, usage: &'static [u8], direction: Direction) -> Self {
        let Some(name) = command_name(opcode, None) else { panic!("a command without a name") };
        Self {
            opcode,
            service_action: None,
            name,
            usage,
            direction,
            attention: Attention::Reported,
            reservation: Reservation::Allowed,
            reservation_by: None,
            needs: Needs::Nothing,
            access: Access::Active,
            timeouts: Timeouts::SHORT,
            limited: false,
            repeatable: false,
        }
    }

    /// CDB usage data as REPORT SUPPORTED OPERATION CODES gives it, with NACA.
    pub fn usage_data(&self) -> Vec<u8> {
        let mut usage = self.usage.to_vec();
        usage[self.control_at()] |= NACA;
        usage
    }

    /// Where CONTROL is in its CDB.
    const fn control_at(&self) -> usize {
        match self.opcode {
            Opcode::VARIABLE_LENGTH_CDB => 1,
            _ => self.usage.len() - 1,
        }
    }

    /// The service action of it that this row is about.
    ///
    /// # Panics
    /// If it has no name.
    pub const fn action(self, action: u16) -> Self {
        let Some(name) = command_name(self.opcode, Some(action)) else {
            panic!("a service action without a name")
        };
        Self { service_action: Some(action), name, ..self }
    }

    /// What a pending unit attention does to it.
    pub const fn attention(self, attention: Attention) -> Self {
        Self { attention, ..self }
    }

    /// What a reservation of another nexus does to it.
    pub const fn reservation(self, reservation: Reservation) -> Self {
        Self { reservation, ..self }
    }

    /// What a reservation of another nexus does to it depends on the CDB; `reservation` is the most that it does.
    pub const fn reservation_by(self, reservation: Reservation, by: fn(&Cdb) -> Reservation) -> Self {
        Self { reservation, reservation_by: Some(by), ..self }
    }

    /// What a reservation of another nexus does to `cdb`.
    pub fn reservation_of(&self, cdb: &Cdb) -> Reservation {
        self.reservation_by.map_or(self.reservation, |by| by(cdb))
    }

    /// It needs a unit that no background operation keeps busy.
    pub const fn when_idle(self) -> Self {
        Self { needs: Needs::Idle, ..self }
    }

    /// It needs a unit that is ready.
    pub const fn when_ready(self) -> Self {
        Self { needs: Needs::Ready, ..self }
    }

    /// How well the unit has to be accessible through the port by which it comes, if not as an active port makes it.
    pub const fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// How long it takes.
    pub const fn timeouts(self, timeouts: Timeouts) -> Self {
        Self { timeouts, ..self }
    }

    /// It takes from the [limits](crate::Limit) of its nexus, as what reads or writes the medium does.
    pub const fn limited(self) -> Self {
        Self { limited: true, ..self }
    }

    /// It is [repeatable](field@Self::repeatable).
    pub const fn repeatable(self) -> Self {
        Self { repeatable: true, ..self }
    }

    /// It is not [repeatable](field@Self::repeatable), for the reason that stands beside the row.
    pub const fn once(self) -> Self {
        Self { repeatable: false, ..self }
    }
}

/// A command as a device crate writes it: the row beside the function that decodes it for a `T`.
#[derive(Debug)]
pub struct Command<T: ?Sized + 'static> {
    /// The row.
    pub spec: CommandSpec,
    /// Checks the CDB and says what is to be done. Pure: no I/O, no waiting.
    pub decode: fn(&T, &Request<'_>) -> Decoded,
}

/// What decoding a CDB yields.
pub type Decoded = Result<Plan, Sense>;

/// A command on its way to the function that decodes it.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The command descriptor block; its reserved bits have been checked.
    pub cdb: &'a Cdb,
    /// How many bytes the initiator means to send. Most commands take what they want of them and leave the rest to the
    /// transport, which tells the initiator of the residual.
    pub data_out: u64,
    /// Command priority, 0 to 15, as it came.
    pub priority: u8,
    /// Command reference number, as it came.
    pub reference_number: u8,
    /// The logical unit it is for.
    pub unit: &'a Arc<LogicalUnit>,
    /// The I_T nexus it came by.
    pub nexus: &'a Arc<Nexus>,
}

/// The commands of one logical unit, found by operation code.
#[derive(Debug)]
pub(crate) struct CommandTable {
    rows: Vec<Row>,
    /// For each operation code the rows that have it.
    by_opcode: [(u16, u16); 256],
    /// Commands that a filter has taken out.
    refused: Vec<(u8, Option<u16>)>,
}

/// Who decodes a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// `spc::COMMANDS` at this index.
    Primary(usize),
    /// The device's own table at this index.
    Device(usize),
}

/// Why there is no row for a CDB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unknown {
    OperationCode,
    ServiceAction,
}

#[derive(Debug)]
pub(crate) struct Row {
    /// Its place in the table.
    pub(crate) index: u16,
    pub(crate) spec: &'static CommandSpec,
    pub(crate) owner: Owner,
    /// Bits of the first 16 CDB bytes that must be zero.
    reserved: u128,
    /// Bytes of the CDB.
    length: usize,
    /// The operation code says it all.
    is_whole: bool,
}

impl CommandTable {
    /// Builds the table; a device's row takes the place of a primary row for the same command.
    pub(crate) fn new(
        primary: impl Iterator<Item = &'static CommandSpec>,
        device: impl Iterator<Item = &'static CommandSpec>,
        filter: &CommandFilter,
    ) -> Self {
        let mut rows: Vec<Row> =
            device.enumerate().map(|(n, spec)| Row::new(spec, Owner::Device(n))).collect();
        for (n, spec) in primary.enumerate() {
            if !rows.iter().any(|row| row.key() == (spec.opcode.0, spec.service_action)) {
                rows.push(Row::new(spec, Owner::Primary(n)));
            }
        }
        let passes = |row: &Row| filter.passes(row.spec.opcode, row.spec.service_action);
        let refused = rows.extract_if(.., |row| !passes(row)).map(|row| row.key()).collect();
        rows.sort_by_key(Row::key);
        (0..).zip(&mut rows).for_each(|(index, row)| row.index = index);
        let by_opcode = std::array::from_fn(|opcode| {
            let first = rows.partition_point(|row| usize::from(row.spec.opcode.0) < opcode);
            let end = rows.partition_point(|row| usize::from(row.spec.opcode.0) <= opcode);
            (first as u16, end as u16)
        });
        Self { rows, by_opcode, refused }
    }

    /// The same, but one table for all that have the same rows: it takes more memory than all else of an idle unit.
    pub(crate) fn shared(
        primary: impl Iterator<Item = &'static CommandSpec>,
        device: impl Iterator<Item = &'static CommandSpec>,
        filter: &CommandFilter,
    ) -> Arc<Self> {
        /// So many at most: filters may all differ.
        const MOST: usize = 64;
        static TABLES: Mutex<Vec<Weak<CommandTable>>> = Mutex::new(Vec::new());
        let table = Self::new(primary, device, filter);
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = tables.iter().filter_map(Weak::upgrade).find(|other| other.is_same(&table)) {
            return same;
        }
        tables.retain(|other| other.strong_count() > 0);
        let table = Arc::new(table);
        if tables.len() < MOST {
            tables.push(Arc::downgrade(&table));
        }
        table
    }

    fn is_same(&self, other: &Self) -> bool {
        let same = |(a, b): (&Row, &Row)| std::ptr::eq(a.spec, b.spec) && a.owner == b.owner;
        self.rows.len() == other.rows.len()
            && self.rows.iter().zip(&other.rows).all(same)
            && self.refused == other.refused
    }

    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The rows of an operation code, by service action.
    pub(crate) fn rows_of(&self, opcode: u8) -> &[Row] {
        let (first, end) = self.by_opcode[usize::from(opcode)];
        &self.rows[usize::from(first)..usize::from(end)]
    }

    /// The row for `cdb`, or which part of it is unknown.
    #[inline]
    pub(crate) fn find(&self, cdb: &Cdb) -> Result<&Row, Unknown> {
        match self.rows_of(cdb.opcode().0) {
            [row] if row.is_whole => Ok(row),
            rows => self.find_action(rows, cdb),
        }
    }

    /// The one of `rows` for the service action of `cdb`.
    fn find_action<'a>(&self, rows: &'a [Row], cdb: &Cdb) -> Result<&'a Row, Unknown> {
        if rows.is_empty() {
            return Err(Unknown::OperationCode);
        }
        let action = cdb.service_action();
        let row = rows.iter().find(|row| row.spec.service_action == action);
        row.ok_or_else(|| match self.refused.contains(&(cdb.opcode().0, action)) {
            true => Unknown::OperationCode,
            false => Unknown::ServiceAction,
        })
    }
}

/// The bit of CONTROL that asks for an auto contingent allegiance (SAM-5 5.2).
const NACA: u8 = 0x04;

/// Where a CDB of variable length has ADDITIONAL CDB LENGTH.
const ADDITIONAL_LENGTH: usize = 7;

impl Row {
    fn new(spec: &'static CommandSpec, owner: Owner) -> Self {
        debug_assert_eq!(spec.usage[0], spec.opcode.0, "{}", spec.name);
        let mut mask = [0; 16];
        for (mask, usage) in mask.iter_mut().zip(spec.usage_data()) {
            *mask = !usage;
        }
        mask[0] = 0;
        let reserved = u128::from_be_bytes(mask);
        let is_whole = spec.service_action.is_none();
        Self { index: 0, spec, owner, reserved, length: spec.usage.len(), is_whole }
    }

    fn key(&self) -> (u8, Option<u16>) {
        (self.spec.opcode.0, self.spec.service_action)
    }

    /// Refuses a CDB of the wrong length or with a bit set that the command does not know, pointing at the first.
    pub(crate) fn check(&self, cdb: &Cdb) -> Result<(), Sense> {
        let bytes = cdb.as_bytes();
        let head = u128::from_be_bytes(cdb.first_16());
        if head & self.reserved == 0 && bytes.len() >= self.length && self.length <= 16 {
            return Ok(());
        }
        self.check_bytes(bytes)
    }

    #[cold]
    fn check_bytes(&self, bytes: &[u8]) -> Result<(), Sense> {
        let wanted = self.spec.usage.len();
        // A CDB of variable length names its length, and has to have that of its command (SPC-5 4.2.5.5).
        if self.spec.opcode == Opcode::VARIABLE_LENGTH_CDB
            && (bytes.len() < wanted || bytes[ADDITIONAL_LENGTH] != self.spec.usage[ADDITIONAL_LENGTH])
        {
            return Err(Sense::invalid_field_in_cdb(ADDITIONAL_LENGTH as u16, None));
        }
        if bytes.len() < wanted {
            return Err(Sense::invalid_field_in_cdb(bytes.len() as u16, None));
        }
        for (at, (byte, usage)) in bytes.iter().zip(self.spec.usage_data()).enumerate().skip(1) {
            let wrong = byte & !usage;
            if wrong != 0 {
                return Err(Sense::invalid_field_in_cdb(at as u16, Some(7 - wrong.leading_zeros() as u8)));
            }
        }
        Ok(())
    }
}
