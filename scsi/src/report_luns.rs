//! REPORT LUNS (SPC-4 6.33).

use crate::bytes::{array_at, u32_at};
use crate::codes::codes;
use crate::error::ParseError;
use crate::lun::Lun;

codes! {
    /// SELECT REPORT: which logical units are asked for.
    pub struct SelectReport(u8);
    ADDRESSABLE = 0x00, "logical units without well-known ones";
    WELL_KNOWN = 0x01, "well-known logical units only";
    ALL = 0x02, "all logical units";
    ADMINISTRATIVE = 0x10, "administrative logical units";
    ADMINISTRATIVE_AND_OTHERS = 0x11, "administrative and ordinary logical units";
    SUBSIDIARY = 0x12, "subsidiaries of an administrative logical unit";
}

const HEADER: usize = 8;
const LUN_SIZE: usize = 8;

/// The whole parameter data; the device server cuts them to the allocation length.
pub fn encode_report_luns(luns: &[Lun]) -> Vec<u8> {
    let length = u32::try_from(luns.len() * LUN_SIZE).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(HEADER + luns.len() * LUN_SIZE);
    out.extend(length.to_be_bytes());
    out.extend([0; 4]);
    out.extend(luns.iter().flat_map(|lun| lun.to_bytes()));
    out
}

/// The LUNs that are in `bytes`, which may have been cut short.
pub fn parse_report_luns(bytes: &[u8]) -> Result<Vec<Lun>, ParseError> {
    ParseError::check_length("REPORT LUNS data", bytes, HEADER)?;
    let announced = usize::try_from(u32_at(bytes, 0)).unwrap_or(usize::MAX);
    let list = &bytes[HEADER..];
    let list = &list[..list.len().min(announced)];
    Ok(list.chunks_exact(LUN_SIZE).map(|lun| Lun::from_bytes(array_at(lun, 0))).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn layout() {
        let bytes = encode_report_luns(&[Lun::from_index(0), Lun::from_index(300)]);
        assert_eq!(bytes, [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0x2c, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse_report_luns(&bytes[..20]), Ok(vec![Lun::from_index(0)]), "cut in the second");
    }

    proptest! {
        #[test]
        fn round_trip(luns in prop::collection::vec(any::<u64>().prop_map(Lun), 0..40)) {
            prop_assert_eq!(parse_report_luns(&encode_report_luns(&luns)), Ok(luns));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_report_luns(&bytes);
        }
    }
}
