//! The configuration in force, as TOML with the place each value came from.

use std::fmt::Write as _;

use super::reader::Entry;
use super::value::Origin;

/// Which values to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Printed {
    /// What somebody wrote.
    Written,
    /// All values in force, defaults included.
    Effective,
}

/// Prints entries as a TOML file that reads back as the same configuration.
pub fn print(entries: &[Entry], printed: Printed) -> String {
    let mut text = String::new();
    let mut section = "";
    let shown = |entry: &&Entry| match printed {
        Printed::Effective => true,
        Printed::Written => entry.origin != Origin::Default,
    };
    let mut entries: Vec<&Entry> = entries.iter().filter(shown).collect();
    // Stable, so that keys keep their order: the keys of a section come before its inner tables.
    entries.sort_by(|a, b| a.section.cmp(&b.section));
    for entry in entries {
        if entry.section != section {
            section = &entry.section;
            // Writing to a String cannot fail.
            writeln!(text, "{}", header(section)).ok();
        }
        writeln!(text, "{} = {}  # {}", entry.key, entry.value, entry.origin).ok();
    }
    text
}

/// `[cluster.tls]`, or `[[listener]]` for a place in a list.
fn header(section: &str) -> String {
    match section.rsplit_once('.') {
        Some((list, place)) if place.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("[[{list}]]")
        }
        _ => format!("[{section}]"),
    }
}

/// The same entries as a JSON list of key, value (as TOML) and origin.
pub fn as_json(entries: &[Entry], printed: Printed) -> serde_json::Value {
    let is_shown =
        |entry: &&Entry| printed == Printed::Effective || entry.origin != Origin::Default;
    let object = |entry: &Entry| serde_json::json!({ "key": entry.full_key(), "value": entry.value, "origin": entry.origin.to_string() });
    entries.iter().filter(is_shown).map(object).collect()
}
