//! Serial number arithmetic of CmdSN, StatSN and their kin (RFC 1982).

/// `a` comes before `b`.
pub(crate) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::before;

    #[test]
    fn order_survives_the_wrap() {
        assert!(before(1, 2));
        assert!(before(u32::MAX, 0));
        assert!(!before(0, u32::MAX));
        assert!(!before(7, 7));
    }
}
