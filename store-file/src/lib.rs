//! Files and block devices as backing stores.
