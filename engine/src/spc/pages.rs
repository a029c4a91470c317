//! Mode pages that every device has: Disconnect-Reconnect, Control, Power Condition, Informational Exceptions Control
//! (SPC-4 7.5).

use crate::ModePageSpec;
use crate::priority::INITIAL_PRIORITY;
use lunette_scsi::mode::{
    Control, ControlExtension, DisconnectReconnect, InformationalExceptions, PowerCondition,
};

/// The definitions.
pub(crate) fn mode_pages() -> Vec<ModePageSpec> {
    vec![
        disconnect_reconnect(),
        control(),
        control_extension(),
        power_condition(),
        informational_exceptions(),
    ]
}

/// No limits: those of a transport are agreed by itself.
fn disconnect_reconnect() -> ModePageSpec {
    ModePageSpec::fixed(&DisconnectReconnect::default().encode(false))
}

/// One task set for all nexuses (TST 0), and commands reordered as one likes: that is what concurrent I/O does.
fn control() -> ModePageSpec {
    let default =
        Control { queue_algorithm_modifier: 1, busy_timeout_period: u16::MAX, ..Control::default() };
    let changeable = Control {
        descriptor_sense: true,
        queue_error_management: 0b11,
        software_write_protect: true,
        task_aborted_status: true,
        ..Control::default()
    };
    ModePageSpec::new(&default.encode(false), &changeable.encode(false))
}

/// The program sets the clock when it starts, and SET TIMESTAMP outranks it. It may change the access to ports.
fn control_extension() -> ModePageSpec {
    let page = ControlExtension {
        timestamp_changeable: true,
        scsi_precedence: true,
        implicit_asymmetric_access: true,
        initial_command_priority: INITIAL_PRIORITY,
        ..ControlExtension::default()
    };
    ModePageSpec::fixed(&page.encode(false))
}

/// No timer runs.
fn power_condition() -> ModePageSpec {
    ModePageSpec::fixed(&PowerCondition::default().encode(false))
}

/// Nothing is predicted: MRIE 0.
fn informational_exceptions() -> ModePageSpec {
    let page = InformationalExceptions { disable_exception_control: true, ..Default::default() };
    ModePageSpec::fixed(&page.encode(false))
}
