//! The SCSI language: CDBs, sense data, LUN addresses, designators, VPD and mode pages.
