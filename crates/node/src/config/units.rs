//! Durations and sizes as an operator writes them: `"100ms"`, `"7d"`, `"1MiB"`.
//!
//! One number and one unit, no spaces, no fractions: whatever is written is also what is printed.

use std::time::Duration;

/// The duration units, largest first, with their length in milliseconds.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// The size units, largest first, with their length in bytes.
const SIZE_UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Splits `"100ms"` into its number and its unit. `None`: it does not start with digits, or the
/// number does not fit.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit))
}

/// Reads a duration: a whole number and one of ms, s, m, h, d.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let (_, unit_ms) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
    Some(Duration::from_millis(number.checked_mul(*unit_ms)?))
}

/// Reads a size: bytes, or a whole number and one of B, KiB, MiB, GiB.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    if unit.is_empty() {
        return Some(number);
    }
    let (_, unit_bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*unit_bytes)
}

/// Writes a duration in the largest unit that keeps it whole.
pub(super) fn show_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    show(ms, &DURATION_UNITS, "0s")
}

/// Writes a size in the largest unit that keeps it whole.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZE_UNITS, "0")
}

/// Writes `amount` in the largest unit that divides it.
fn show(amount: u64, units: &[(&str, u64)], zero: &str) -> String {
    if amount == 0 {
        return zero.to_owned();
    }
    units
        .iter()
        .find(|(_, length)| amount.is_multiple_of(*length))
        .map_or_else(
            || amount.to_string(),
            |(unit, length)| format!("{}{unit}", amount / length),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_one_number_and_one_unit() {
        assert_eq!(parse_duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(parse_duration("7d"), Some(Duration::from_secs(604_800)));
        assert_eq!(parse_duration("0s"), Some(Duration::ZERO));
        for bad in [
            "",
            "5",
            "ms",
            "1.5s",
            "-1s",
            "1 s",
            "1h30m",
            "99999999999999999999s",
            "18446744073709551615d",
            "１s",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_take_bytes_or_a_binary_unit() {
        assert_eq!(parse_size("0"), Some(0));
        assert_eq!(parse_size("12B"), Some(12));
        assert_eq!(parse_size("1MiB"), Some(1 << 20));
        for bad in ["", "MiB", "1MB", "1mib", "-1", "18446744073709551615GiB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same_value() {
        for ms in [0, 1, 999, 1_000, 1_500, 60_000, 90_000, 604_800_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }
        for bytes in [0, 1, 1_023, 1_024, 3 << 20, 1 << 30] {
            assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
    }
}
