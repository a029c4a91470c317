//! Task attributes, task management functions and their answers.

use std::fmt;

/// How a task is ordered against others of its task set (SAM-5 8.6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TaskAttribute {
    /// SIMPLE: may run beside other SIMPLE tasks, in any order.
    #[default]
    Simple,
    /// ORDERED: after everything older, before everything younger.
    Ordered,
    /// HEAD OF QUEUE: before anything that waits.
    HeadOfQueue,
    /// ACA: while an auto contingent allegiance condition exists.
    Aca,
}

/// A task management function (SAM-5 7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TaskManagementFunction {
    /// ABORT TASK (SAM-5 7.2).
    AbortTask,
    /// ABORT TASK SET: all tasks of this nexus (SAM-5 7.3).
    AbortTaskSet,
    /// CLEAR ACA (SAM-5 7.4).
    ClearAca,
    /// CLEAR TASK SET: all tasks of all nexuses (SAM-5 7.5).
    ClearTaskSet,
    /// I_T NEXUS RESET (SAM-5 7.6).
    ITNexusReset,
    /// LOGICAL UNIT RESET (SAM-5 7.7).
    LogicalUnitReset,
    /// QUERY TASK (SAM-5 7.8).
    QueryTask,
    /// QUERY TASK SET (SAM-5 7.9).
    QueryTaskSet,
    /// QUERY ASYNCHRONOUS EVENT (SAM-5 7.10).
    QueryAsynchronousEvent,
    /// TARGET RESET, kept by iSCSI as TARGET WARM RESET (SAM-3 7.8, RFC 7143 11.5.1).
    TargetWarmReset,
    /// TARGET COLD RESET, which also ends the sessions (RFC 7143 11.5.1).
    TargetColdReset,
}

impl TaskManagementFunction {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::AbortTask,
        Self::AbortTaskSet,
        Self::ClearAca,
        Self::ClearTaskSet,
        Self::ITNexusReset,
        Self::LogicalUnitReset,
        Self::QueryTask,
        Self::QueryTaskSet,
        Self::QueryAsynchronousEvent,
        Self::TargetWarmReset,
        Self::TargetColdReset,
    ];

    /// The standard's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AbortTask => "ABORT TASK",
            Self::AbortTaskSet => "ABORT TASK SET",
            Self::ClearAca => "CLEAR ACA",
            Self::ClearTaskSet => "CLEAR TASK SET",
            Self::ITNexusReset => "I_T NEXUS RESET",
            Self::LogicalUnitReset => "LOGICAL UNIT RESET",
            Self::QueryTask => "QUERY TASK",
            Self::QueryTaskSet => "QUERY TASK SET",
            Self::QueryAsynchronousEvent => "QUERY ASYNCHRONOUS EVENT",
            Self::TargetWarmReset => "TARGET WARM RESET",
            Self::TargetColdReset => "TARGET COLD RESET",
        }
    }
}

impl fmt::Display for TaskManagementFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a task management function ended (SAM-5 7.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ServiceResponse {
    /// FUNCTION COMPLETE. For a query: no, there is no such task or event.
    FunctionComplete,
    /// FUNCTION SUCCEEDED: the answer of a query is yes.
    FunctionSucceeded {
        /// Additional Response Information of QUERY ASYNCHRONOUS EVENT (SAM-5 7.10): the sense
        /// key with the depth of the queue, ASC and ASCQ; zero for the other queries.
        additional: [u8; 3],
    },
    /// FUNCTION REJECTED: not supported.
    FunctionRejected,
    /// INCORRECT LOGICAL UNIT NUMBER.
    IncorrectLogicalUnitNumber,
    /// SERVICE DELIVERY OR TARGET FAILURE.
    ServiceDeliveryOrTargetFailure,
}
