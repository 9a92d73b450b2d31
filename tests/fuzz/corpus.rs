//! The corpora of `tests/fuzz/corpus`, for the tests that replay them.

use std::panic::catch_unwind;
use std::path::Path;

/// Runs a check on every input that a fuzzer found worth keeping. Panics with each that fails.
pub(crate) fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
    let path = folder.join(target).with_extension("hex");
    let text = std::fs::read_to_string(&path).expect("the corpus is in the repository");
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let inputs: Vec<&str> = lines.collect();
    assert!(inputs.len() > 50, "{target} has {} inputs", inputs.len());
    let fails = |hex: &&&str| catch_unwind(|| check(&from_hex(hex))).is_err();
    let failed: Vec<_> = inputs.iter().filter(fails).collect();
    assert!(failed.is_empty(), "{target} fails with {failed:#?}");
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digits = hex
        .as_bytes()
        .chunks(2)
        .map(|two| std::str::from_utf8(two).ok());
    digits
        .map(|two| u8::from_str_radix(two?, 16).ok())
        .collect::<Option<_>>()
        .expect("the corpus is hexadecimal")
}
