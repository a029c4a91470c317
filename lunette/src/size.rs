//! Sizes as people write them.

/// Parses `512`, `64K`, `1G`, `2TiB`: bytes, with an optional binary unit.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        "P" | "PIB" => 50,
        _ => {
            return Err(format!(
                "`{text}` is not a size: write a number of bytes, or one with K, M, G, T or P"
            ));
        }
    };
    let number: u64 =
        number.parse().map_err(|_| format!("`{text}` is not a size: it begins with no number"))?;
    number
        .checked_mul(1 << shift)
        .filter(|size| *size > 0)
        .ok_or_else(|| format!("`{text}` is no possible size"))
}

/// The other way: the largest binary unit that leaves a whole number.
pub(crate) fn show(bytes: u64) -> String {
    let units = [(50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift)) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

/// The other way, so that it can be parsed.
pub(crate) fn exact(bytes: u64) -> String {
    let units = [(50, "P"), (40, "T"), (30, "G"), (20, "M"), (10, "K")];
    match units.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift)) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in
            [("512", 512), ("64k", 65536), ("1G", 1 << 30), ("3TiB", 3 << 40), ("8MiB", 8 << 20)]
        {
            assert_eq!(parse(text), Ok(bytes));
            assert_eq!(parse(&exact(bytes)), Ok(bytes));
        }
        for text in ["", "G", "1X", "0", "-1", "1.5G", "99999P", "18446744073709551616"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(show(1 << 30), "1 GiB");
        assert_eq!(show(3 << 9), "1536 bytes");
        assert_eq!(show(0), "0 bytes");
    }
}
