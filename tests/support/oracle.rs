//! What a subscriber must have seen of one publisher's numbered messages.

use std::collections::BTreeSet;

/// The number at the end of a payload `PREFIX/NUMBER`.
#[must_use]
pub fn sequence_of(payload: &str, prefix: &str) -> Option<u64> {
    payload
        .strip_prefix(prefix)?
        .strip_prefix('/')?
        .parse()
        .ok()
}

/// Exactly once and in order (G3, G4): `seen` is 0, 1, 2, ... up to `count`.
///
/// # Errors
/// What is wrong.
pub fn exactly_once(seen: &[u64], count: u64) -> Result<(), String> {
    let expected: Vec<u64> = (0..count).collect();
    if seen == expected {
        return Ok(());
    }
    let lost: Vec<u64> = missing(seen, &expected);
    let repeated = repeated(seen);
    let disorder = seen.windows(2).find(|pair| pair[0] > pair[1]);
    Err(format!(
        "of {count} messages: lost {lost:?}, repeated {repeated:?}, first disorder {disorder:?}"
    ))
}

/// At least once and in order of first sight (G1, G4): all of `acknowledged` were seen.
///
/// # Errors
/// What is wrong.
pub fn at_least_once(seen: &[u64], acknowledged: &[u64]) -> Result<(), String> {
    let lost = missing(seen, acknowledged);
    if !lost.is_empty() {
        return Err(format!("acknowledged and lost: {lost:?}"));
    }
    let mut known = BTreeSet::new();
    let first_sights: Vec<u64> = seen
        .iter()
        .copied()
        .filter(|number| known.insert(*number))
        .collect();
    match first_sights.windows(2).find(|pair| pair[0] > pair[1]) {
        Some(pair) => Err(format!("{} was seen first before {}", pair[0], pair[1])),
        None => Ok(()),
    }
}

/// Not twice and in order (G3, G4), whatever is missing.
///
/// # Errors
/// What is wrong.
pub fn at_most_once(seen: &[u64]) -> Result<(), String> {
    match seen.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => Err(format!(
            "{} was followed by {}; repeated {:?}",
            pair[0],
            pair[1],
            repeated(seen)
        )),
        None => Ok(()),
    }
}

fn missing(seen: &[u64], expected: &[u64]) -> Vec<u64> {
    let seen: BTreeSet<u64> = seen.iter().copied().collect();
    expected
        .iter()
        .copied()
        .filter(|number| !seen.contains(number))
        .collect()
}

fn repeated(seen: &[u64]) -> Vec<u64> {
    let mut known = BTreeSet::new();
    seen.iter()
        .copied()
        .filter(|number| !known.insert(*number))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_once_sees_loss_repetition_and_disorder() {
        assert_eq!(exactly_once(&[0, 1, 2], 3), Ok(()));
        assert!(exactly_once(&[0, 2], 3).is_err_and(|text| text.contains("lost [1]")));
        assert!(exactly_once(&[0, 1, 1, 2], 3).is_err_and(|text| text.contains("repeated [1]")));
        assert!(
            exactly_once(&[0, 2, 1], 3).is_err_and(|text| text.contains("disorder Some([2, 1])"))
        );
        assert!(
            exactly_once(&[0, 1, 2, 3], 3).is_err(),
            "more than were sent"
        );
    }

    #[test]
    fn at_least_once_allows_repetition_but_neither_loss_nor_disorder() {
        assert_eq!(at_least_once(&[0, 1, 2, 1, 2, 3], &[0, 1, 2]), Ok(()));
        assert!(at_least_once(&[0, 2], &[0, 1]).is_err());
        assert!(at_least_once(&[0, 2, 1], &[0]).is_err());
    }

    #[test]
    fn at_most_once_allows_loss_but_neither_repetition_nor_disorder() {
        assert_eq!(at_most_once(&[0, 2, 5]), Ok(()));
        assert!(at_most_once(&[0, 2, 2]).is_err());
        assert!(at_most_once(&[2, 0]).is_err());
    }

    #[test]
    fn the_number_is_read_off_the_payload() {
        assert_eq!(sequence_of("pub-1/17", "pub-1"), Some(17));
        assert_eq!(sequence_of("pub-11/17", "pub-1"), None);
        assert_eq!(sequence_of("pub-1/x", "pub-1"), None);
    }
}
