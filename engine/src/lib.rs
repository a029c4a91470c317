//! The SCSI engine: ports, nexuses, logical units, task sets, task management and the command table.
