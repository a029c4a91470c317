//! Temperature, as a log page (SPC-4 7.3).

use lunette_scsi::log::LogParameter;

/// Parameter codes: the temperature, and that at which the device works as specified.
const TEMPERATURES: [u16; 2] = [0x0000, 0x0001];
/// It is not known.
const UNKNOWN: u8 = 0xff;

/// A store has no thermometer.
pub(crate) fn page() -> Vec<LogParameter> {
    TEMPERATURES.map(|code| LogParameter::binary(code, [0, UNKNOWN])).into()
}
