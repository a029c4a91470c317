//! The direct-access block device (SBC-4).
