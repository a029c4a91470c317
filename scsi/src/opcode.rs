//! Operation codes and service actions of SPC-5 and SBC-4.

use crate::codes::codes;

codes! {
    /// OPERATION CODE: the first byte of a CDB (SPC-5 4.2.5.1).
    ///
    /// Named here are the commands of every device type (SPC) and of disks (SBC); values that
    /// other device types use differently carry the disk's name.
    pub struct Opcode(u8);
    TEST_UNIT_READY = 0x00, "TEST UNIT READY";
    REQUEST_SENSE = 0x03, "REQUEST SENSE";
    FORMAT_UNIT = 0x04, "FORMAT UNIT";
    REASSIGN_BLOCKS = 0x07, "REASSIGN BLOCKS";
    READ_6 = 0x08, "READ(6)";
    WRITE_6 = 0x0a, "WRITE(6)";
    SEEK_6 = 0x0b, "SEEK(6)";
    INQUIRY = 0x12, "INQUIRY";
    MODE_SELECT_6 = 0x15, "MODE SELECT(6)";
    RESERVE_6 = 0x16, "RESERVE(6)";
    RELEASE_6 = 0x17, "RELEASE(6)";
    MODE_SENSE_6 = 0x1a, "MODE SENSE(6)";
    START_STOP_UNIT = 0x1b, "START STOP UNIT";
    RECEIVE_DIAGNOSTIC_RESULTS = 0x1c, "RECEIVE DIAGNOSTIC RESULTS";
    SEND_DIAGNOSTIC = 0x1d, "SEND DIAGNOSTIC";
    PREVENT_ALLOW_MEDIUM_REMOVAL = 0x1e, "PREVENT ALLOW MEDIUM REMOVAL";
    READ_FORMAT_CAPACITIES = 0x23, "READ FORMAT CAPACITIES";
    READ_CAPACITY_10 = 0x25, "READ CAPACITY(10)";
    READ_10 = 0x28, "READ(10)";
    WRITE_10 = 0x2a, "WRITE(10)";
    SEEK_10 = 0x2b, "SEEK(10)";
    WRITE_AND_VERIFY_10 = 0x2e, "WRITE AND VERIFY(10)";
    VERIFY_10 = 0x2f, "VERIFY(10)";
    PRE_FETCH_10 = 0x34, "PRE-FETCH(10)";
    SYNCHRONIZE_CACHE_10 = 0x35, "SYNCHRONIZE CACHE(10)";
    READ_DEFECT_DATA_10 = 0x37, "READ DEFECT DATA(10)";
    WRITE_BUFFER = 0x3b, "WRITE BUFFER";
    READ_BUFFER_10 = 0x3c, "READ BUFFER(10)";
    READ_LONG_10 = 0x3e, "READ LONG(10)";
    WRITE_LONG_10 = 0x3f, "WRITE LONG(10)";
    WRITE_SAME_10 = 0x41, "WRITE SAME(10)";
    UNMAP = 0x42, "UNMAP";
    SANITIZE = 0x48, "SANITIZE";
    LOG_SELECT = 0x4c, "LOG SELECT";
    LOG_SENSE = 0x4d, "LOG SENSE";
    XDWRITEREAD_10 = 0x53, "XDWRITEREAD(10)";
    MODE_SELECT_10 = 0x55, "MODE SELECT(10)";
    RESERVE_10 = 0x56, "RESERVE(10)";
    RELEASE_10 = 0x57, "RELEASE(10)";
    MODE_SENSE_10 = 0x5a, "MODE SENSE(10)";
    PERSISTENT_RESERVE_IN = 0x5e, "PERSISTENT RESERVE IN";
    PERSISTENT_RESERVE_OUT = 0x5f, "PERSISTENT RESERVE OUT";
    EXTENDED_CDB = 0x7e, "extended CDB";
    VARIABLE_LENGTH_CDB = 0x7f, "variable length CDB";
    THIRD_PARTY_COPY_OUT = 0x83, "THIRD-PARTY COPY OUT";
    THIRD_PARTY_COPY_IN = 0x84, "THIRD-PARTY COPY IN";
    ATA_PASS_THROUGH_16 = 0x85, "ATA PASS-THROUGH(16)";
    READ_16 = 0x88, "READ(16)";
    COMPARE_AND_WRITE = 0x89, "COMPARE AND WRITE";
    WRITE_16 = 0x8a, "WRITE(16)";
    ORWRITE_16 = 0x8b, "ORWRITE(16)";
    READ_ATTRIBUTE = 0x8c, "READ ATTRIBUTE";
    WRITE_ATTRIBUTE = 0x8d, "WRITE ATTRIBUTE";
    WRITE_AND_VERIFY_16 = 0x8e, "WRITE AND VERIFY(16)";
    VERIFY_16 = 0x8f, "VERIFY(16)";
    PRE_FETCH_16 = 0x90, "PRE-FETCH(16)";
    SYNCHRONIZE_CACHE_16 = 0x91, "SYNCHRONIZE CACHE(16)";
    WRITE_SAME_16 = 0x93, "WRITE SAME(16)";
    ZBC_OUT = 0x94, "ZBC OUT";
    ZBC_IN = 0x95, "ZBC IN";
    WRITE_STREAM_16 = 0x9a, "WRITE STREAM(16)";
    READ_BUFFER_16 = 0x9b, "READ BUFFER(16)";
    WRITE_ATOMIC_16 = 0x9c, "WRITE ATOMIC(16)";
    SERVICE_ACTION_BIDIRECTIONAL = 0x9d, "SERVICE ACTION BIDIRECTIONAL";
    SERVICE_ACTION_IN_16 = 0x9e, "SERVICE ACTION IN(16)";
    SERVICE_ACTION_OUT_16 = 0x9f, "SERVICE ACTION OUT(16)";
    REPORT_LUNS = 0xa0, "REPORT LUNS";
    ATA_PASS_THROUGH_12 = 0xa1, "ATA PASS-THROUGH(12)";
    SECURITY_PROTOCOL_IN = 0xa2, "SECURITY PROTOCOL IN";
    MAINTENANCE_IN = 0xa3, "MAINTENANCE IN";
    MAINTENANCE_OUT = 0xa4, "MAINTENANCE OUT";
    READ_12 = 0xa8, "READ(12)";
    SERVICE_ACTION_OUT_12 = 0xa9, "SERVICE ACTION OUT(12)";
    WRITE_12 = 0xaa, "WRITE(12)";
    SERVICE_ACTION_IN_12 = 0xab, "SERVICE ACTION IN(12)";
    WRITE_AND_VERIFY_12 = 0xae, "WRITE AND VERIFY(12)";
    VERIFY_12 = 0xaf, "VERIFY(12)";
    SECURITY_PROTOCOL_OUT = 0xb5, "SECURITY PROTOCOL OUT";
    READ_DEFECT_DATA_12 = 0xb7, "READ DEFECT DATA(12)";
}

impl Opcode {
    /// The length its group code implies (SPC-5 4.2.5.1): `None` for variable-length and
    /// vendor-specific groups.
    pub const fn cdb_length(self) -> Option<usize> {
        match self.0 >> 5 {
            0 => Some(6),
            1 | 2 => Some(10),
            4 => Some(16),
            5 => Some(12),
            _ => None,
        }
    }

    /// Where a CDB with data-out of this opcode says how many bytes or blocks are sent: the first byte, and how many. `None`
    /// where only the parameter list says it.
    pub const fn data_out_length_at(self) -> Option<(usize, usize)> {
        match (self, self.cdb_length()) {
            (Self::FORMAT_UNIT | Self::REASSIGN_BLOCKS, _) => None,
            (Self::SEND_DIAGNOSTIC, _) => Some((3, 2)),
            (Self::PERSISTENT_RESERVE_OUT, _) => Some((5, 4)),
            (Self::WRITE_BUFFER, _) => Some((6, 3)),
            (Self::WRITE_ATOMIC_16, _) => Some((12, 2)),
            (Self::COMPARE_AND_WRITE, _) => Some((13, 1)),
            (_, Some(6)) => Some((4, 1)),
            (_, Some(10)) => Some((7, 2)),
            (_, Some(12)) => Some((6, 4)),
            (_, Some(16)) => Some((10, 4)),
            _ => None,
        }
    }

    /// Whether its CDBs carry a service action (SPC-5 4.2.5.2).
    pub const fn has_service_action(self) -> bool {
        matches!(
            self,
            Self::SANITIZE
                | Self::PERSISTENT_RESERVE_IN
                | Self::PERSISTENT_RESERVE_OUT
                | Self::VARIABLE_LENGTH_CDB
                | Self::THIRD_PARTY_COPY_OUT
                | Self::THIRD_PARTY_COPY_IN
                | Self::READ_ATTRIBUTE
                | Self::ZBC_OUT
                | Self::ZBC_IN
                | Self::SERVICE_ACTION_BIDIRECTIONAL
                | Self::SERVICE_ACTION_IN_16
                | Self::SERVICE_ACTION_OUT_16
                | Self::MAINTENANCE_IN
                | Self::MAINTENANCE_OUT
                | Self::SERVICE_ACTION_IN_12
                | Self::SERVICE_ACTION_OUT_12
        )
    }
}

macro_rules! service_actions {
    ($($opcode:ident { $($action:ident = $value:literal, $text:literal;)* })*) => {
        $($(
            #[doc = concat!($text, ": service action ", stringify!($value), " of [`Opcode::", stringify!($opcode), "`].")]
            pub const $action: u16 = $value;
        )*)*

        pub(super) const fn name(opcode: Opcode, service_action: u16) -> Option<&'static str> {
            match (opcode, service_action) {
                $($((Opcode::$opcode, $value) => Some($text),)*)*
                _ => None,
            }
        }
    };
}

/// Service actions, by name of the command they make.
pub mod service_action {
    use super::Opcode;

    service_actions! {
        SANITIZE {
            SANITIZE_OVERWRITE = 0x01, "SANITIZE OVERWRITE";
            SANITIZE_BLOCK_ERASE = 0x02, "SANITIZE BLOCK ERASE";
            SANITIZE_CRYPTOGRAPHIC_ERASE = 0x03, "SANITIZE CRYPTOGRAPHIC ERASE";
            SANITIZE_EXIT_FAILURE_MODE = 0x1f, "SANITIZE EXIT FAILURE MODE";
        }
        PERSISTENT_RESERVE_IN {
            READ_KEYS = 0x00, "PERSISTENT RESERVE IN READ KEYS";
            READ_RESERVATION = 0x01, "PERSISTENT RESERVE IN READ RESERVATION";
            REPORT_CAPABILITIES = 0x02, "PERSISTENT RESERVE IN REPORT CAPABILITIES";
            READ_FULL_STATUS = 0x03, "PERSISTENT RESERVE IN READ FULL STATUS";
        }
        PERSISTENT_RESERVE_OUT {
            REGISTER = 0x00, "PERSISTENT RESERVE OUT REGISTER";
            RESERVE = 0x01, "PERSISTENT RESERVE OUT RESERVE";
            RELEASE = 0x02, "PERSISTENT RESERVE OUT RELEASE";
            CLEAR = 0x03, "PERSISTENT RESERVE OUT CLEAR";
            PREEMPT = 0x04, "PERSISTENT RESERVE OUT PREEMPT";
            PREEMPT_AND_ABORT = 0x05, "PERSISTENT RESERVE OUT PREEMPT AND ABORT";
            REGISTER_AND_IGNORE_EXISTING_KEY = 0x06, "PERSISTENT RESERVE OUT REGISTER AND IGNORE EXISTING KEY";
            REGISTER_AND_MOVE = 0x07, "PERSISTENT RESERVE OUT REGISTER AND MOVE";
            REPLACE_LOST_RESERVATION = 0x08, "PERSISTENT RESERVE OUT REPLACE LOST RESERVATION";
        }
        VARIABLE_LENGTH_CDB {
            XDREAD_32 = 0x0003, "XDREAD(32)";
            XDWRITE_32 = 0x0004, "XDWRITE(32)";
            XPWRITE_32 = 0x0006, "XPWRITE(32)";
            XDWRITEREAD_32 = 0x0007, "XDWRITEREAD(32)";
            READ_32 = 0x0009, "READ(32)";
            VERIFY_32 = 0x000a, "VERIFY(32)";
            WRITE_32 = 0x000b, "WRITE(32)";
            WRITE_AND_VERIFY_32 = 0x000c, "WRITE AND VERIFY(32)";
            WRITE_SAME_32 = 0x000d, "WRITE SAME(32)";
            ORWRITE_32 = 0x000e, "ORWRITE(32)";
            WRITE_ATOMIC_32 = 0x000f, "WRITE ATOMIC(32)";
            WRITE_STREAM_32 = 0x0010, "WRITE STREAM(32)";
            WRITE_SCATTERED_32 = 0x0011, "WRITE SCATTERED(32)";
            GET_LBA_STATUS_32 = 0x0012, "GET LBA STATUS(32)";
        }
        THIRD_PARTY_COPY_OUT {
            EXTENDED_COPY_LID1 = 0x00, "EXTENDED COPY(LID1)";
            EXTENDED_COPY_LID4 = 0x01, "EXTENDED COPY(LID4)";
            POPULATE_TOKEN = 0x10, "POPULATE TOKEN";
            WRITE_USING_TOKEN = 0x11, "WRITE USING TOKEN";
            COPY_OPERATION_ABORT = 0x1c, "COPY OPERATION ABORT";
        }
        THIRD_PARTY_COPY_IN {
            RECEIVE_COPY_STATUS_LID1 = 0x00, "RECEIVE COPY STATUS(LID1)";
            RECEIVE_COPY_DATA_LID1 = 0x01, "RECEIVE COPY DATA(LID1)";
            RECEIVE_COPY_OPERATING_PARAMETERS = 0x03, "RECEIVE COPY OPERATING PARAMETERS";
            RECEIVE_COPY_FAILURE_DETAILS_LID1 = 0x04, "RECEIVE COPY FAILURE DETAILS(LID1)";
            RECEIVE_COPY_STATUS_LID4 = 0x05, "RECEIVE COPY STATUS(LID4)";
            RECEIVE_COPY_DATA_LID4 = 0x06, "RECEIVE COPY DATA(LID4)";
            RECEIVE_ROD_TOKEN_INFORMATION = 0x07, "RECEIVE ROD TOKEN INFORMATION";
            REPORT_ALL_ROD_TOKENS = 0x08, "REPORT ALL ROD TOKENS";
        }
        ZBC_OUT {
            CLOSE_ZONE = 0x01, "CLOSE ZONE";
            FINISH_ZONE = 0x02, "FINISH ZONE";
            OPEN_ZONE = 0x03, "OPEN ZONE";
            RESET_WRITE_POINTER = 0x04, "RESET WRITE POINTER";
        }
        ZBC_IN {
            REPORT_ZONES = 0x00, "REPORT ZONES";
        }
        SERVICE_ACTION_IN_16 {
            READ_CAPACITY_16 = 0x10, "READ CAPACITY(16)";
            READ_LONG_16 = 0x11, "READ LONG(16)";
            GET_LBA_STATUS_16 = 0x12, "GET LBA STATUS(16)";
            REPORT_REFERRALS = 0x13, "REPORT REFERRALS";
            STREAM_CONTROL = 0x14, "STREAM CONTROL";
            BACKGROUND_CONTROL = 0x15, "BACKGROUND CONTROL";
            GET_STREAM_STATUS = 0x16, "GET STREAM STATUS";
            GET_PHYSICAL_ELEMENT_STATUS = 0x17, "GET PHYSICAL ELEMENT STATUS";
            REMOVE_ELEMENT_AND_TRUNCATE = 0x18, "REMOVE ELEMENT AND TRUNCATE";
        }
        SERVICE_ACTION_OUT_16 {
            WRITE_LONG_16 = 0x11, "WRITE LONG(16)";
            WRITE_SCATTERED_16 = 0x12, "WRITE SCATTERED(16)";
        }
        MAINTENANCE_IN {
            REPORT_IDENTIFYING_INFORMATION = 0x05, "REPORT IDENTIFYING INFORMATION";
            REPORT_TARGET_PORT_GROUPS = 0x0a, "REPORT TARGET PORT GROUPS";
            REPORT_ALIASES = 0x0b, "REPORT ALIASES";
            REPORT_SUPPORTED_OPERATION_CODES = 0x0c, "REPORT SUPPORTED OPERATION CODES";
            REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS = 0x0d, "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS";
            REPORT_PRIORITY = 0x0e, "REPORT PRIORITY";
            REPORT_TIMESTAMP = 0x0f, "REPORT TIMESTAMP";
            MANAGEMENT_PROTOCOL_IN = 0x10, "MANAGEMENT PROTOCOL IN";
        }
        MAINTENANCE_OUT {
            SET_IDENTIFYING_INFORMATION = 0x06, "SET IDENTIFYING INFORMATION";
            SET_TARGET_PORT_GROUPS = 0x0a, "SET TARGET PORT GROUPS";
            CHANGE_ALIASES = 0x0b, "CHANGE ALIASES";
            REMOVE_I_T_NEXUS = 0x0c, "REMOVE I_T NEXUS";
            SET_PRIORITY = 0x0e, "SET PRIORITY";
            SET_TIMESTAMP = 0x0f, "SET TIMESTAMP";
            MANAGEMENT_PROTOCOL_OUT = 0x10, "MANAGEMENT PROTOCOL OUT";
        }
        SERVICE_ACTION_IN_12 {
            READ_MEDIA_SERIAL_NUMBER = 0x01, "READ MEDIA SERIAL NUMBER";
        }
    }
}

/// The name of a command: that of its service action where it has a named one, else of its opcode.
pub const fn command_name(opcode: Opcode, service_action: Option<u16>) -> Option<&'static str> {
    match service_action {
        Some(action) => match service_action::name(opcode, action) {
            Some(name) => Some(name),
            None => opcode.name(),
        },
        None => opcode.name(),
    }
}

/// The standard and clause that define a command of disks, as far as it is one.
///
/// SPC-4 defines most that every device has, SPC-2 the reservations before the persistent ones, and SBC-4 clause 5 all that
/// is about blocks.
pub const fn command_clause(opcode: Opcode, action: Option<u16>) -> &'static str {
    use service_action as sa;
    match (opcode, action) {
        (Opcode::THIRD_PARTY_COPY_OUT, Some(sa::EXTENDED_COPY_LID1)) => "SPC-4 6.5",
        (Opcode::INQUIRY, _) => "SPC-4 6.6",
        (Opcode::LOG_SELECT, _) => "SPC-4 6.7",
        (Opcode::LOG_SENSE, _) => "SPC-4 6.8",
        (Opcode::MODE_SELECT_6, _) => "SPC-4 6.11",
        (Opcode::MODE_SELECT_10, _) => "SPC-4 6.12",
        (Opcode::MODE_SENSE_6, _) => "SPC-4 6.13",
        (Opcode::MODE_SENSE_10, _) => "SPC-4 6.14",
        (Opcode::PERSISTENT_RESERVE_IN, _) => "SPC-4 6.15",
        (Opcode::PERSISTENT_RESERVE_OUT, _) => "SPC-4 6.16",
        (Opcode::READ_BUFFER_10, _) => "SPC-4 6.18",
        (Opcode::THIRD_PARTY_COPY_IN, Some(sa::RECEIVE_COPY_OPERATING_PARAMETERS)) => "SPC-4 6.22",
        (Opcode::THIRD_PARTY_COPY_IN, Some(sa::RECEIVE_COPY_FAILURE_DETAILS_LID1)) => "SPC-4 6.23",
        (Opcode::THIRD_PARTY_COPY_IN, Some(sa::RECEIVE_COPY_STATUS_LID1)) => "SPC-4 6.25",
        (Opcode::RECEIVE_DIAGNOSTIC_RESULTS, _) => "SPC-4 6.28",
        (Opcode::MAINTENANCE_IN, Some(sa::REPORT_IDENTIFYING_INFORMATION)) => "SPC-4 6.32",
        (Opcode::REPORT_LUNS, _) => "SPC-4 6.33",
        (Opcode::MAINTENANCE_IN, Some(sa::REPORT_PRIORITY)) => "SPC-4 6.34",
        (Opcode::MAINTENANCE_IN, Some(sa::REPORT_SUPPORTED_OPERATION_CODES)) => "SPC-4 6.35",
        (Opcode::MAINTENANCE_IN, Some(sa::REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS)) => "SPC-4 6.36",
        (Opcode::MAINTENANCE_IN, Some(sa::REPORT_TARGET_PORT_GROUPS)) => "SPC-4 6.37",
        (Opcode::MAINTENANCE_IN, Some(sa::REPORT_TIMESTAMP)) => "SPC-4 6.38",
        (Opcode::REQUEST_SENSE, _) => "SPC-4 6.39",
        (Opcode::SECURITY_PROTOCOL_IN, _) => "SPC-4 6.40",
        (Opcode::SECURITY_PROTOCOL_OUT, _) => "SPC-4 6.41",
        (Opcode::SEND_DIAGNOSTIC, _) => "SPC-4 6.42",
        (Opcode::MAINTENANCE_OUT, Some(sa::SET_IDENTIFYING_INFORMATION)) => "SPC-4 6.43",
        (Opcode::MAINTENANCE_OUT, Some(sa::SET_PRIORITY)) => "SPC-4 6.44",
        (Opcode::MAINTENANCE_OUT, Some(sa::SET_TARGET_PORT_GROUPS)) => "SPC-4 6.45",
        (Opcode::MAINTENANCE_OUT, Some(sa::SET_TIMESTAMP)) => "SPC-4 6.46",
        (Opcode::TEST_UNIT_READY, _) => "SPC-4 6.47",
        (Opcode::WRITE_BUFFER, _) => "SPC-4 6.49",
        (Opcode::THIRD_PARTY_COPY_OUT | Opcode::THIRD_PARTY_COPY_IN, _) => "SPC-4 6",
        (Opcode::RESERVE_6 | Opcode::RELEASE_6 | Opcode::RESERVE_10 | Opcode::RELEASE_10, _) => "SPC-2 7",
        (Opcode::XDWRITEREAD_10, _) => "SBC-3 5",
        _ => "SBC-4 5",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(Opcode(0x28).name(), Some("READ(10)"));
        assert_eq!(Opcode(0xc0).to_string(), "0xc0");
        assert_eq!(command_name(Opcode(0x9e), Some(0x10)), Some("READ CAPACITY(16)"));
        assert_eq!(command_name(Opcode(0xa3), Some(0x1f)), Some("MAINTENANCE IN"));
        assert_eq!(command_name(Opcode(0x12), None), Some("INQUIRY"));
    }

    #[test]
    fn where_data_out_is_counted() {
        let fields = [
            (Opcode::FORMAT_UNIT, None),
            (Opcode::MODE_SELECT_6, Some((4, 1))),
            (Opcode::UNMAP, Some((7, 2))),
            (Opcode::MAINTENANCE_OUT, Some((6, 4))),
            (Opcode::THIRD_PARTY_COPY_OUT, Some((10, 4))),
            (Opcode::COMPARE_AND_WRITE, Some((13, 1))),
        ];
        for (opcode, field) in fields {
            assert_eq!(opcode.data_out_length_at(), field, "{opcode}");
        }
    }

    #[test]
    fn lengths_follow_the_group_code() {
        let lengths = [
            (0x12, Some(6)),
            (0x28, Some(10)),
            (0x5a, Some(10)),
            (0x7f, None),
            (0x88, Some(16)),
            (0xa0, Some(12)),
            (0xc1, None),
        ];
        for (opcode, length) in lengths {
            assert_eq!(Opcode(opcode).cdb_length(), length, "{opcode:#x}");
        }
    }
}
