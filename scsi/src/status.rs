//! SCSI status codes.

use crate::codes::codes;

codes! {
    /// The status a logical unit returns when a command ends (SAM-5 5.3.1).
    pub struct Status(u8);
    GOOD = 0x00, "GOOD";
    CHECK_CONDITION = 0x02, "CHECK CONDITION";
    CONDITION_MET = 0x04, "CONDITION MET";
    BUSY = 0x08, "BUSY";
    RESERVATION_CONFLICT = 0x18, "RESERVATION CONFLICT";
    TASK_SET_FULL = 0x28, "TASK SET FULL";
    ACA_ACTIVE = 0x30, "ACA ACTIVE";
    TASK_ABORTED = 0x40, "TASK ABORTED";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_values_survive() {
        assert_eq!(format!("{:?}", Status(0x22)), "Status(0x22)");
        assert_eq!(Status(0x18).to_string(), "RESERVATION CONFLICT");
        assert_eq!(Status::default(), Status::GOOD);
    }
}
