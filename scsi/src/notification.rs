//! Notification classes: what a logical unit may tell of without being asked (MMC-6 6.7, GET EVENT STATUS NOTIFICATION).

use std::ops::BitAnd;

/// A set of notification classes, as the bits of Notification Class Request.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NotificationClasses(pub u8);

impl NotificationClasses {
    /// None.
    pub const NONE: Self = Self(0);
    /// Operational change: the unit works otherwise than it did, and what was learnt of it should be asked for again.
    pub const OPERATIONAL_CHANGE: Self = Self(1 << 1);
    /// Power management.
    pub const POWER_MANAGEMENT: Self = Self(1 << 2);
    /// External request, such as a button.
    pub const EXTERNAL_REQUEST: Self = Self(1 << 3);
    /// Media: inserted, removed, to be ejected.
    pub const MEDIA: Self = Self(1 << 4);
    /// Multi-host: another host wants the unit.
    pub const MULTI_HOST: Self = Self(1 << 5);
    /// Device busy: a command takes long.
    pub const DEVICE_BUSY: Self = Self(1 << 6);

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitAnd for NotificationClasses {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}
