//! Mode pages of a disk. Bytes count from the start of the page, as in the standard's tables.

use super::{ModePageCode, ModePageHeader};
use crate::error::ParseError;
use crate::layout::layout;

/// Gives a fixed layout, which includes the header, the methods of a page.
macro_rules! mode_page {
    ($type:ident, $page:literal, $subpage:literal) => {
        impl $type {
            /// PAGE CODE and SUBPAGE CODE.
            pub const CODE: ModePageCode = ModePageCode::subpage($page, $subpage);
            /// The length of the whole page.
            pub const LENGTH: usize = Self::SIZE;

            /// The whole page; `savable` sets PS. Set every bit of a field to build the page of
            /// changeable values.
            pub fn encode(&self, savable: bool) -> [u8; Self::LENGTH] {
                let mut out = [0; Self::SIZE];
                self.put(&mut out);
                let mut header = ModePageHeader { savable, code: Self::CODE, length: 0 };
                header.length = (Self::SIZE - header.size()) as u16;
                header.write(&mut out);
                out
            }

            /// Decodes a whole page of this code; fields past its end are zero.
            pub fn decode(bytes: &[u8]) -> Result<Self, ParseError> {
                let header = ModePageHeader::parse(bytes)?;
                if header.code != Self::CODE {
                    return Err(ParseError::Invalid {
                        what: "mode page",
                        byte: 0,
                        reason: "another page code",
                    });
                }
                let end = header.size() + usize::from(header.length);
                Ok(Self::get(&bytes[..bytes.len().min(end)]))
            }
        }
    };
}

layout! {
    /// Read-Write Error Recovery (01h) (SBC-4 6.5).
    pub struct ReadWriteErrorRecovery[12] {
        /// AWRE: bad blocks are reassigned on writing.
        automatic_write_reallocation: flag(2, 7),
        /// ARRE: bad blocks are reassigned on reading.
        automatic_read_reallocation: flag(2, 6),
        /// TB: blocks with errors are transferred as well as can be.
        transfer_block: flag(2, 5),
        /// RC: data are delivered without pauses for recovery.
        read_continuous: flag(2, 4),
        /// EER: the quickest recovery first (obsolete).
        enable_early_recovery: flag(2, 3),
        /// PER: recovered errors are reported.
        post_error: flag(2, 2),
        /// DTE: a recovered error ends the transfer.
        data_terminate_on_error: flag(2, 1),
        /// DCR: no correction by error-correcting codes (obsolete).
        disable_correction: flag(2, 0),
        /// READ RETRY COUNT.
        read_retry_count: byte(3),
        /// LBPERE: threshold and provisioning errors are reported.
        provisioning_error_reporting: flag(7, 7),
        /// MWR, 2 bits: misaligned writes are reported.
        misaligned_write_reporting: bits(7, 6, 2),
        /// WRITE RETRY COUNT.
        write_retry_count: byte(8),
        /// RECOVERY TIME LIMIT in milliseconds.
        recovery_time_limit: be16(10),
    }
}

mode_page!(ReadWriteErrorRecovery, 0x01, 0);

layout! {
    /// Disconnect-Reconnect (02h); what the fields mean is said by each transport (SPC-4 7.5).
    pub struct DisconnectReconnect[16] {
        /// BUFFER FULL RATIO.
        buffer_full_ratio: byte(2),
        /// BUFFER EMPTY RATIO.
        buffer_empty_ratio: byte(3),
        /// BUS INACTIVITY LIMIT.
        bus_inactivity_limit: be16(4),
        /// DISCONNECT TIME LIMIT.
        disconnect_time_limit: be16(6),
        /// CONNECT TIME LIMIT.
        connect_time_limit: be16(8),
        /// MAXIMUM BURST SIZE in 512 bytes; zero: no limit.
        maximum_burst_size: be16(10),
        /// EMDP: data may be transferred out of order.
        enable_modify_data_pointers: flag(12, 7),
        /// FIRST BURST SIZE in 512 bytes; zero: no limit.
        first_burst_size: be16(14),
    }
}

mode_page!(DisconnectReconnect, 0x02, 0);

layout! {
    /// Verify Error Recovery (07h) (SBC-4 6.5).
    pub struct VerifyErrorRecovery[12] {
        /// EER: the quickest recovery first (obsolete).
        enable_early_recovery: flag(2, 3),
        /// PER: recovered errors are reported.
        post_error: flag(2, 2),
        /// DTE: a recovered error ends the command.
        data_terminate_on_error: flag(2, 1),
        /// DCR: no correction by error-correcting codes (obsolete).
        disable_correction: flag(2, 0),
        /// VERIFY RETRY COUNT.
        verify_retry_count: byte(3),
        /// VERIFY RECOVERY TIME LIMIT in milliseconds.
        verify_recovery_time_limit: be16(10),
    }
}

mode_page!(VerifyErrorRecovery, 0x07, 0);

layout! {
    /// Caching (08h) (SBC-4 6.5).
    pub struct Caching[20] {
        /// IC: NUMBER OF CACHE SEGMENTS or CACHE SEGMENT SIZE is obeyed.
        initiator_control: flag(2, 7),
        /// ABPF: a read ahead is broken off for another command.
        abort_pre_fetch: flag(2, 6),
        /// CAP: caching analysis permitted.
        caching_analysis_permitted: flag(2, 5),
        /// DISC: read ahead across discontinuities.
        discontinuity: flag(2, 4),
        /// SIZE: segments are controlled by size, not number.
        size_enable: flag(2, 3),
        /// WCE: writes may complete in the volatile cache.
        write_cache_enabled: flag(2, 2),
        /// MF: prefetch numbers are multipliers.
        multiplication_factor: flag(2, 1),
        /// RCD: reads go to the medium.
        read_cache_disabled: flag(2, 0),
        /// DEMAND READ RETENTION PRIORITY, 4 bits.
        demand_read_retention_priority: bits(3, 7, 4),
        /// WRITE RETENTION PRIORITY, 4 bits.
        write_retention_priority: bits(3, 3, 4),
        /// DISABLE PRE-FETCH TRANSFER LENGTH.
        disable_pre_fetch_transfer_length: be16(4),
        /// MINIMUM PRE-FETCH.
        minimum_pre_fetch: be16(6),
        /// MAXIMUM PRE-FETCH.
        maximum_pre_fetch: be16(8),
        /// MAXIMUM PRE-FETCH CEILING.
        maximum_pre_fetch_ceiling: be16(10),
        /// FSW: writes go to the medium in ascending order.
        force_sequential_write: flag(12, 7),
        /// LBCSS: CACHE SEGMENT SIZE counts blocks.
        block_cache_segment_size: flag(12, 6),
        /// DRA: no read ahead.
        disable_read_ahead: flag(12, 5),
        /// SYNC_PROG, 2 bits: progress of SYNCHRONIZE CACHE is reported.
        synchronize_progress: bits(12, 2, 2),
        /// NV_DIS: the non-volatile cache is off.
        nonvolatile_cache_disabled: flag(12, 0),
        /// NUMBER OF CACHE SEGMENTS.
        cache_segments: byte(13),
        /// CACHE SEGMENT SIZE.
        cache_segment_size: be16(14),
    }
}

mode_page!(Caching, 0x08, 0);

layout! {
    /// Control (0Ah) (SPC-4 7.5.8).
    pub struct Control[12] {
        /// TST, 3 bits: 000b one task set for all nexuses, 001b one for each.
        task_set_type: bits(2, 7, 3),
        /// TMF_ONLY: during ACA only task management may abort.
        task_management_only: flag(2, 4),
        /// DPICZ: no protection check when the protect field is zero.
        disable_protection_check_if_zero: flag(2, 3),
        /// D_SENSE: sense data come in descriptor format.
        descriptor_sense: flag(2, 2),
        /// GLTSD: log parameters are not saved.
        log_target_save_disabled: flag(2, 1),
        /// RLEC: log exception conditions are reported.
        report_log_exceptions: flag(2, 0),
        /// QUEUE ALGORITHM MODIFIER, 4 bits: 0h restricted, 1h unrestricted reordering.
        queue_algorithm_modifier: bits(3, 7, 4),
        /// NUAR: no unit attention on release.
        no_unit_attention_on_release: flag(3, 3),
        /// QERR, 2 bits: which commands an error aborts: 00b none, 01b all, 11b those of the nexus.
        queue_error_management: bits(3, 2, 2),
        /// RAC: report a check condition rather than BUSY.
        report_a_check: flag(4, 6),
        /// UA_INTLCK_CTRL, 2 bits.
        unit_attention_interlock: bits(4, 5, 2),
        /// SWP: software write protect.
        software_write_protect: flag(4, 3),
        /// ATO: the application tag belongs to the application client.
        application_tag_owner: flag(5, 7),
        /// TAS: aborted commands of other nexuses end with TASK ABORTED.
        task_aborted_status: flag(5, 6),
        /// ATMPE: the application tag mode page is in force.
        application_tag_mode_page: flag(5, 5),
        /// RWWP: writes without protection information are refused.
        reject_write_without_protection: flag(5, 4),
        /// AUTOLOAD MODE, 3 bits.
        autoload_mode: bits(5, 2, 3),
        /// BUSY TIMEOUT PERIOD in 100 ms; FFFFh without limit.
        busy_timeout_period: be16(8),
        /// EXTENDED SELF-TEST COMPLETION TIME in seconds.
        extended_self_test_seconds: be16(10),
    }
}

mode_page!(Control, 0x0a, 0);

layout! {
    /// Control Extension (0Ah/01h) (SPC-4 7.5.9).
    pub struct ControlExtension[32] {
        /// DLC: device life control.
        device_life_control: flag(4, 3),
        /// TCMOS: the timestamp can be set by other means.
        timestamp_changeable: flag(4, 2),
        /// SCSIP: SET TIMESTAMP outranks other means.
        scsi_precedence: flag(4, 1),
        /// IALUAE: implicit asymmetric access changes are allowed.
        implicit_asymmetric_access: flag(4, 0),
        /// INITIAL COMMAND PRIORITY, 4 bits.
        initial_command_priority: bits(5, 3, 4),
        /// MAXIMUM SENSE DATA LENGTH; zero: no limit.
        maximum_sense_length: byte(6),
    }
}

mode_page!(ControlExtension, 0x0a, 0x01);

layout! {
    /// Power Condition (1Ah), timers in 100 ms (SPC-4 7.5).
    pub struct PowerCondition[40] {
        /// PM_BG_PRECEDENCE, 2 bits.
        background_precedence: bits(2, 7, 2),
        /// STANDBY_Y: its timer runs.
        standby_y: flag(2, 0),
        /// IDLE_C: its timer runs.
        idle_c: flag(3, 3),
        /// IDLE_B: its timer runs.
        idle_b: flag(3, 2),
        /// IDLE_A: its timer runs.
        idle_a: flag(3, 1),
        /// STANDBY_Z: its timer runs.
        standby_z: flag(3, 0),
        /// IDLE_A CONDITION TIMER.
        idle_a_timer: be32(4),
        /// STANDBY_Z CONDITION TIMER.
        standby_z_timer: be32(8),
        /// IDLE_B CONDITION TIMER.
        idle_b_timer: be32(12),
        /// IDLE_C CONDITION TIMER.
        idle_c_timer: be32(16),
        /// STANDBY_Y CONDITION TIMER.
        standby_y_timer: be32(20),
        /// CCF IDLE, 2 bits.
        check_condition_from_idle: bits(39, 7, 2),
        /// CCF STANDBY, 2 bits.
        check_condition_from_standby: bits(39, 5, 2),
        /// CCF STOPPED, 2 bits.
        check_condition_from_stopped: bits(39, 3, 2),
    }
}

mode_page!(PowerCondition, 0x1a, 0);

layout! {
    /// Informational Exceptions Control (1Ch) (SPC-4 7.5).
    pub struct InformationalExceptions[12] {
        /// PERF: nothing that delays commands.
        performance: flag(2, 7),
        /// EBF: background functions are enabled.
        enable_background_function: flag(2, 5),
        /// EWASC: warnings are reported.
        enable_warning: flag(2, 4),
        /// DEXCPT: failure predictions are not reported.
        disable_exception_control: flag(2, 3),
        /// TEST: make a false failure prediction.
        test: flag(2, 2),
        /// EBACKERR: background errors are reported.
        enable_background_error: flag(2, 1),
        /// LOGERR: exceptions are logged.
        log_errors: flag(2, 0),
        /// MRIE, 4 bits: method of reporting.
        method_of_reporting: bits(3, 3, 4),
        /// INTERVAL TIMER in 100 ms.
        interval_timer: be32(4),
        /// REPORT COUNT; zero: no limit.
        report_count: be32(8),
    }
}

mode_page!(InformationalExceptions, 0x1c, 0);

layout! {
    /// Logical Block Provisioning (1Ch/02h), with one threshold descriptor (SBC-4 6.5).
    pub struct ProvisioningThreshold[24] {
        /// SITUA: only one initiator is told.
        single_initiator: flag(4, 0),
        /// ENABLED.
        enabled: flag(16, 7),
        /// THRESHOLD TYPE, 3 bits: 000b a soft threshold, 001b one in per cent.
        threshold_type: bits(16, 5, 3),
        /// THRESHOLD ARMING, 3 bits: 000b reached when the resource decreases, 001b when it increases.
        arming: bits(16, 2, 3),
        /// THRESHOLD RESOURCE: the code of a parameter of the log page, 01h: what is available.
        resource: byte(17),
        /// THRESHOLD COUNT, in threshold sets.
        count: be32(20),
    }
}

mode_page!(ProvisioningThreshold, 0x1c, 0x02);
