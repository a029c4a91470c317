//! The vhost-user-scsi way in: virtqueues, guest memory and the virtio-scsi device.
