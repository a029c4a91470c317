//! The requests and responses of a virtio-scsi device (VIRTIO 1.2 5.6.6). All numbers are little-endian.
//!
//! # Response codes
//!
//! A command that has a status is answered with OK, whatever the status is: drivers look at status and sense data beside no
//! other code. So the engine's own TASK SET FULL and BUSY, sense data for a store that has failed or gone, and a CDB that
//! is too long for its field all come with OK. The other codes stand for commands that have no status:
//!
//! | code | when |
//! |---|---|
//! | OVERRUN | GOOD, but the CDB asked for more data than the buffers hold |
//! | ABORTED | aborted by a function of the driver's own |
//! | BAD_TARGET | the address is in no known form, or names a target that is not there |
//! | RESET | ended by a reset of the unit, the target or the I_T nexus |
//! | BUSY | cleared by another initiator: sending it again is likely to work |
//! | FAILURE | data in both directions without VIRTIO_SCSI_F_INOUT |
//!
//! TRANSPORT_FAILURE and NEXUS_FAILURE do not occur: between us and our targets there is no link that could be severed and
//! no nexus that could fail alone.
//!
//! A task management function is answered with OK for FUNCTION COMPLETE, with FUNCTION SUCCEEDED, FUNCTION REJECTED (also for
//! those that are not known), INCORRECT LUN or BAD_TARGET; TARGET_FAILURE is SERVICE DELIVERY OR TARGET FAILURE.

use crate::ring::RingError;
use lunette_engine::Aborted;
use lunette_scsi::{Lun, NotificationClasses, ServiceResponse, TaskManagementFunction};
use lunette_store::Sg;

mod command;
mod config;

pub(crate) use command::{Command, Expected, ResponseField, Sizes};
pub(crate) use config::ConfigSpace;

/// A response code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Response(pub(crate) u8);

impl Response {
    /// The command ended with a status; for task management, FUNCTION COMPLETE.
    pub(crate) const OK: Self = Self(0);
    /// The CDB asks for more data than the buffers hold.
    pub(crate) const OVERRUN: Self = Self(1);
    /// Ended by a task management function.
    pub(crate) const ABORTED: Self = Self(2);
    /// There is no such target.
    pub(crate) const BAD_TARGET: Self = Self(3);
    /// Ended by a reset.
    pub(crate) const RESET: Self = Self(4);
    /// It has failed, but is likely to work when it is sent again.
    pub(crate) const BUSY: Self = Self(5);
    /// The target has failed.
    pub(crate) const TARGET_FAILURE: Self = Self(7);
    /// Any other failure.
    pub(crate) const FAILURE: Self = Self(9);
    /// FUNCTION SUCCEEDED.
    pub(crate) const FUNCTION_SUCCEEDED: Self = Self(10);
    /// FUNCTION REJECTED.
    pub(crate) const FUNCTION_REJECTED: Self = Self(11);
    /// INCORRECT LOGICAL UNIT NUMBER.
    pub(crate) const INCORRECT_LUN: Self = Self(12);
}

impl From<ServiceResponse> for Response {
    fn from(response: ServiceResponse) -> Self {
        match response {
            ServiceResponse::FunctionComplete => Self::OK,
            ServiceResponse::FunctionSucceeded { .. } => Self::FUNCTION_SUCCEEDED,
            ServiceResponse::FunctionRejected => Self::FUNCTION_REJECTED,
            ServiceResponse::IncorrectLogicalUnitNumber => Self::INCORRECT_LUN,
            ServiceResponse::ServiceDeliveryOrTargetFailure => Self::TARGET_FAILURE,
        }
    }
}

impl From<Aborted> for Response {
    fn from(aborted: Aborted) -> Self {
        match aborted {
            Aborted::ByItsNexus => Self::ABORTED,
            Aborted::ByAnotherNexus => Self::BUSY,
            Aborted::ByReset | Aborted::NexusLost => Self::RESET,
        }
    }
}

/// What a request addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    /// `None`: the device as a whole, for which any target may speak.
    pub(crate) target: Option<u8>,
    /// A logical unit of the target.
    pub(crate) lun: Lun,
}

impl Address {
    /// Reads the 8-byte address of a request: 01h, the target and a single-level LUN; or the REPORT LUNS well-known
    /// logical unit by itself.
    fn read(bytes: [u8; 8]) -> Option<Self> {
        match bytes {
            [1, target, ..] => {
                let lun = (u64::from_be_bytes(bytes) << 16).to_be_bytes();
                Some(Self { target: Some(target), lun: Lun::from_bytes(lun) })
            }
            _ if Lun::from_bytes(bytes) == Lun::REPORT_LUNS_WLUN => {
                Some(Self { target: None, lun: Lun::REPORT_LUNS_WLUN })
            }
            _ => None,
        }
    }
}

/// A request on the control queue.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum ControlRequest {
    /// A task management function.
    Manage {
        /// `None`: unknown.
        function: Option<TaskManagementFunction>,
        address: Option<Address>,
        tag: u64,
    },
    /// Query of, or subscription to, asynchronous notifications.
    Notifications { subscribe: bool, address: Option<Address>, classes: NotificationClasses },
}

impl ControlRequest {
    pub(crate) const NOTIFICATIONS_RESPONSE: usize = 5;
    const MANAGE_RESPONSE: usize = 1;

    /// Reads a request, for whose response there must be room.
    pub(crate) fn read(readable: &Sg<'_>, writable: &Sg<'_>) -> Result<Self, RingError> {
        let mut bytes = [0; 24];
        let there = readable.copy_out(0, &mut bytes);
        let require = |read, written| match there >= read && writable.len() >= written as u64 {
            true => Ok(()),
            false => Err(RingError::TooShort { readable: readable.len(), writable: writable.len() }),
        };
        require(4, 0)?;
        match u32::from_le_bytes(array(&bytes, 0)) {
            0 => {
                require(24, Self::MANAGE_RESPONSE)?;
                Ok(Self::Manage {
                    function: function(u32::from_le_bytes(array(&bytes, 4))),
                    address: Address::read(array(&bytes, 8)),
                    tag: u64::from_le_bytes(array(&bytes, 16)),
                })
            }
            kind @ (1 | 2) => {
                require(16, Self::NOTIFICATIONS_RESPONSE)?;
                Ok(Self::Notifications {
                    subscribe: kind == 2,
                    address: Address::read(array(&bytes, 4)),
                    // The bits above are of no class.
                    classes: NotificationClasses(bytes[12]),
                })
            }
            other => Err(RingError::ControlType(other)),
        }
    }

    /// The response to a query or subscription.
    pub(crate) fn notifications(
        actual: NotificationClasses,
        response: Response,
    ) -> [u8; Self::NOTIFICATIONS_RESPONSE] {
        [actual.0, 0, 0, 0, response.0]
    }
}

fn function(subtype: u32) -> Option<TaskManagementFunction> {
    Some(match subtype {
        0 => TaskManagementFunction::AbortTask,
        1 => TaskManagementFunction::AbortTaskSet,
        2 => TaskManagementFunction::ClearAca,
        3 => TaskManagementFunction::ClearTaskSet,
        4 => TaskManagementFunction::ITNexusReset,
        5 => TaskManagementFunction::LogicalUnitReset,
        6 => TaskManagementFunction::QueryTask,
        7 => TaskManagementFunction::QueryTaskSet,
        _ => return None,
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a range of N bytes")
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_store::Memory;

    #[test]
    fn addresses() {
        let read = |[a, b, c, d]: [u8; 4]| Address::read([a, b, c, d, 0, 0, 0, 0]);
        let unit = |bytes| read(bytes).map(|address| (address.target, address.lun.index()));
        assert_eq!(unit([1, 0, 0x40, 5]), Some((Some(0), Some(5))));
        assert_eq!(unit([1, 7, 0, 5]), Some((Some(7), Some(5))));
        assert_eq!(unit([1, 255, 0x7f, 0xff]), Some((Some(255), Some(16383))));
        let well_known = |target| Some(Address { target, lun: Lun::REPORT_LUNS_WLUN });
        assert_eq!(read([0xc1, 1, 0, 0]), well_known(None));
        assert_eq!(read([1, 3, 0xc1, 1]), well_known(Some(3)));
        assert_eq!(read([0, 0, 0, 0]), None);
        assert_eq!(read([0xc1, 2, 0, 0]), None);
        let more = Address::read([1, 0, 0x40, 5, 1, 0, 0, 0]);
        assert_eq!(more.map(|address| address.lun.index()), Some(None));
    }

    #[test]
    fn control_requests() {
        let read = |words: &[u32], readable: usize, writable: usize| {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.resize(readable, 0);
            let (from, to) = (Memory::from_bytes(&bytes), Memory::zeroed(writable));
            ControlRequest::read(&Sg::new(&[from.seg()]), &Sg::new(&[to.seg()]))
        };
        let unit = u32::from_le_bytes([1, 9, 0x40, 2]);
        let address = Some(Address { target: Some(9), lun: Lun(0x4002 << 48) });
        assert_eq!(
            read(&[0, 5, unit, 0, 7], 24, 1),
            Ok(ControlRequest::Manage {
                function: Some(TaskManagementFunction::LogicalUnitReset),
                address,
                tag: 7,
            })
        );
        assert!(matches!(read(&[0, 8], 24, 1), Ok(ControlRequest::Manage { function: None, .. })));
        let notifications = |subscribe, address, classes| {
            let classes = NotificationClasses(classes);
            Ok(ControlRequest::Notifications { subscribe, address, classes })
        };
        assert_eq!(read(&[1, unit, 0, u32::MAX], 16, 5), notifications(false, address, 0xff));
        assert_eq!(read(&[2, 0, 0, 2], 16, 5), notifications(true, None, 2));
        assert_eq!(read(&[3], 24, 8), Err(RingError::ControlType(3)));
        for (kind, readable, writable) in
            [(0, 23, 1), (0, 24, 0), (1, 15, 5), (2, 16, 4), (0, 3, 9), (0, 0, 0)]
        {
            assert_eq!(
                read(&[kind], readable, writable),
                Err(RingError::TooShort { readable: readable as u64, writable: writable as u64 })
            );
        }
    }

    #[test]
    fn why_a_command_has_no_status() {
        let all = [Aborted::ByItsNexus, Aborted::ByAnotherNexus, Aborted::ByReset, Aborted::NexusLost];
        let expected = [Response::ABORTED, Response::BUSY, Response::RESET, Response::RESET];
        assert_eq!(all.map(Response::from), expected);
    }
}
