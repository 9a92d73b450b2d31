//! Keys of features that this version does not have yet.
//!
//! They are known, so that a configuration file never needs two spellings; they may be absent, at
//! their default, or off. Anything else is refused, because a broker that silently ignores
//! `cert = …` is worse than one that does not start. When a feature is built, its keys move from
//! here to the section that uses them.

use super::reader::{Reader, Section, boolean};
use super::units::{parse_duration, parse_size};
use super::value::{Kind, Table, Value};

const MISSING: &str = "not available in this version";

impl Section<'_> {
    /// A key that takes only its default and whatever means "off", as TOML literals.
    fn later(&mut self, key: &'static str, default: &str, off: &[&str]) {
        let accepted: Vec<&str> = std::iter::once(default)
            .chain(off.iter().copied())
            .collect();
        self.read(key, ((), default.to_owned()), |value| {
            if accepted.iter().any(|literal| means(value, literal)) {
                return Ok(());
            }
            Err(format!(
                "{MISSING}: leave it out, or at {}",
                accepted.join(" or ")
            ))
        });
    }
}

/// Whether a value says the same as a TOML literal: `0`, `"0"`, `"0B"` are one size.
fn means(value: &Value, literal: &str) -> bool {
    let unquoted = literal.trim_matches('"');
    match &value.kind {
        Kind::Untyped(text) | Kind::String(text) => {
            text == unquoted
                || parse_duration(text)
                    .is_some_and(|duration| parse_duration(unquoted) == Some(duration))
                || parse_size(text).is_some_and(|bytes| parse_size(unquoted) == Some(bytes))
                || (boolean(value).is_some() && boolean(value) == unquoted.parse().ok())
        }
        Kind::Integer(number) => {
            u64::try_from(*number).is_ok_and(|number| parse_size(unquoted) == Some(number))
        }
        Kind::Boolean(_) => boolean(value) == unquoted.parse().ok(),
        Kind::Float(number) => unquoted.parse().ok() == Some(*number),
        Kind::List(items) => items.is_empty() && literal == "[]",
        Kind::Datetime(_) | Kind::Table(_) => false,
    }
}

/// An empty path or name: the feature is off.
const OFF: &str = r#""""#;

/// Keys of `[auth]`.
pub(super) fn auth(section: &mut Section<'_>) {
    let mut http = section.sub("http");
    http.later("url", OFF, &[]);
    http.later("timeout", r#""2s""#, &[]);
    http.later("cache", r#""60s""#, &[]);
    http.finish();
}

/// Keys of `[admin]`: there is no page yet.
pub(super) fn admin(section: &mut Section<'_>) {
    section.later("ui", "true", &["false"]);
}

/// Sections that belong to later features altogether.
pub(super) fn sections(reader: &mut Reader, root: &mut Table) {
    let mut otlp = reader.section(root, "otlp");
    otlp.later("endpoint", OFF, &[]);
    otlp.later("sample", "0.01", &[]);
    otlp.finish();
    refuse_list(reader, root, "bridge");
}

/// Refuses `[[bridge]]`: one line, whatever is in them.
fn refuse_list(reader: &mut Reader, root: &mut Table, name: &str) {
    let first = root.get(name).and_then(|value| match &value.kind {
        Kind::List(items) => items.first().cloned(),
        Kind::Untyped(_)
        | Kind::String(_)
        | Kind::Integer(_)
        | Kind::Float(_)
        | Kind::Boolean(_)
        | Kind::Datetime(_)
        | Kind::Table(_) => None,
    });
    reader.list(root, name);
    if let Some(first) = first {
        reader.complain(name, &first, format!("{MISSING}: leave it out"));
    }
}
