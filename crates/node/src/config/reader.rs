//! Reads typed values out of an untyped table, and remembers what was asked for.
//!
//! Every access names a key, so that the set of all keys needs no second list: a key of the table
//! that nobody asked for is unknown. Problems are collected, so that an operator sees all of them
//! at once; a value that is wrong reads as its default until then.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::Problem;
use super::units::{parse_duration, parse_size, show_duration, show_size};
use super::value::{Kind, Origin, Table, Value, parse_inline, quote};

/// Sections and keys that look alike enough to be meant (0 nothing alike, 1 the same).
const ALIKE_MIN: f64 = 0.75;

/// A key with the value that is in force and who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The section, e.g. `cluster.tls`, or `listener.0` for a place in a list.
    pub section: String,
    /// The key inside its section.
    pub key: &'static str,
    /// The value as TOML.
    pub value: String,
    /// Who wrote it.
    pub origin: Origin,
}

impl Entry {
    /// Full key, e.g. `listener.0.bind`.
    pub fn full_key(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }
}

/// What reading has found so far.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) entries: Vec<Entry>,
    pub(super) problems: Vec<Problem>,
    /// Keys that nobody asked for, until all known keys are known.
    strangers: Vec<(String, Value)>,
    /// Sections and lists by full name.
    groups: BTreeSet<String>,
}

impl Reader {
    /// Opens a section; an absent one reads as all defaults.
    pub(super) fn section(&mut self, root: &mut Table, name: &str) -> Section<'_> {
        let table = self.table(name, root.remove(name));
        self.open(name.to_owned(), table)
    }

    /// Opens a section whose table was already taken out.
    pub(super) fn open(&mut self, name: String, table: Table) -> Section<'_> {
        self.groups.insert(name.clone());
        Section {
            reader: self,
            name,
            table,
        }
    }

    /// Takes a list of tables such as `[[listener]]`, each with the place where it begins; empty
    /// when nobody wrote one.
    pub(super) fn list(&mut self, root: &mut Table, name: &str) -> Vec<(Origin, Table)> {
        self.groups.insert(name.to_owned());
        let Some(value) = root.remove(name) else {
            return Vec::new();
        };
        let Value {
            kind: Kind::List(items),
            ..
        } = value
        else {
            let kind = value.kind_name();
            let message = format!("expected a list of tables, written [[{name}]], got {kind}");
            self.complain(name, &value, message);
            return Vec::new();
        };
        let item = |(index, item): (usize, Value)| {
            (
                item.origin.clone(),
                self.table(&format!("{name}.{index}"), Some(item)),
            )
        };
        items.into_iter().enumerate().map(item).collect()
    }

    fn table(&mut self, name: &str, value: Option<Value>) -> Table {
        match value {
            None => Table::new(),
            Some(Value {
                kind: Kind::Table(table),
                ..
            }) => table,
            Some(value) => {
                let message = format!(
                    "expected a table, written [{name}], got {}",
                    value.kind_name()
                );
                self.complain(name, &value, message);
                Table::new()
            }
        }
    }

    /// Adds a problem with a value that was written somewhere.
    pub(super) fn complain(&mut self, key: &str, value: &Value, message: String) {
        self.problems.push(Problem {
            origin: value.origin.clone(),
            key: key.to_owned(),
            value: Some(value.show()),
            message,
        });
    }

    /// The value in force of a key that was read.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .rev()
            .find(|entry| entry.full_key() == key)
    }

    /// Adds a problem that lies in several keys together. It is put where the last of them was
    /// written by somebody; the message should name the values of the others.
    pub(super) fn conflict(&mut self, keys: &[&str], message: &str) {
        let entries: Vec<&Entry> = keys.iter().filter_map(|key| self.entry(key)).collect();
        let blamed = entries
            .iter()
            .rev()
            .find(|entry| entry.origin != Origin::Default)
            .or_else(|| entries.last());
        let Some(blamed) = blamed else { return };
        let others: Vec<String> = entries
            .iter()
            .filter(|entry| entry.full_key() != blamed.full_key())
            .map(|entry| format!("{} = {} ({})", entry.full_key(), entry.value, entry.origin))
            .collect();
        let with = if others.is_empty() {
            String::new()
        } else {
            format!("; here {}", others.join(", "))
        };
        self.problems.push(Problem {
            origin: blamed.origin.clone(),
            key: blamed.full_key(),
            value: Some(blamed.value.clone()),
            message: format!("{message}{with}"),
        });
    }

    /// Adds a problem for each key that nobody asked for, with the nearest one that exists.
    pub(super) fn finish(&mut self, root: Table) {
        for (key, value) in root {
            self.strangers.push((key, value));
        }
        let known = self.known_keys();
        for (key, value) in std::mem::take(&mut self.strangers) {
            let message = match nearest(&key, &known, &self.groups) {
                Some(near) => format!("unknown key; did you mean {near}?"),
                None => "unknown key; `holdfast config print --effective` lists the known ones"
                    .to_owned(),
            };
            self.complain(&key, &value, message);
        }
    }

    /// Full names of all keys that were asked for.
    pub(super) fn known_keys(&self) -> BTreeSet<String> {
        self.entries.iter().map(Entry::full_key).collect()
    }
}

/// The known name that is most like `key`: in the same section, else the same key of another
/// section, else a section.
fn nearest(key: &str, known: &BTreeSet<String>, groups: &BTreeSet<String>) -> Option<String> {
    let (section, last) = key.rsplit_once('.').unwrap_or(("", key));
    let same_section = known.iter().filter(|name| {
        name.rsplit_once('.')
            .is_some_and(|(head, _)| head == section)
    });
    let by_likeness = |name: &&String| {
        let tail = name
            .rsplit_once('.')
            .map_or(name.as_str(), |(_, tail)| tail);
        likeness(last, tail)
    };
    best(same_section, by_likeness)
        .or_else(|| {
            known
                .iter()
                .find(|name| name.rsplit_once('.').is_some_and(|(_, tail)| tail == last))
                .cloned()
        })
        .or_else(|| best(groups.iter(), |name| likeness(key, name)))
        .or_else(|| best(known.iter(), by_likeness))
}

fn best<'k>(
    names: impl Iterator<Item = &'k String>,
    score: impl Fn(&&'k String) -> f64,
) -> Option<String> {
    names
        .map(|name| (score(&name), name))
        .filter(|(score, _)| *score >= ALIKE_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name.clone())
}

fn likeness(written: &str, known: &str) -> f64 {
    strsim::jaro_winkler(&written.to_lowercase(), known)
        .max(strsim::normalized_damerau_levenshtein(written, known))
}

/// One table of the configuration while it is read.
pub(super) struct Section<'r> {
    pub(super) reader: &'r mut Reader,
    pub(super) name: String,
    table: Table,
}

impl Section<'_> {
    /// Opens a table inside this one, e.g. `[cluster.tls]`.
    pub(super) fn sub(&mut self, key: &'static str) -> Section<'_> {
        let name = format!("{}.{key}", self.name);
        let table = self.reader.table(&name, self.table.remove(key));
        self.reader.open(name, table)
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        for (key, value) in self.table {
            self.reader
                .strangers
                .push((format!("{}.{key}", self.name), value));
        }
    }

    /// Whether somebody wrote this key.
    pub(super) fn is_written(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Reads a key with a rule of its own. `read` gets the value as written and says what is
    /// expected when it is no good.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        default: (T, String),
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> T {
        let (default, default_shown) = default;
        let (value, shown, origin) = match self.table.remove(key) {
            None => (default, default_shown, Origin::Default),
            Some(written) => match read(&written) {
                Ok(value) => (value, canonical(&written, &default_shown), written.origin),
                Err(message) => {
                    let full_key = format!("{}.{key}", self.name);
                    self.reader.complain(&full_key, &written, message);
                    (default, default_shown, Origin::Default)
                }
            },
        };
        self.reader.entries.push(Entry {
            section: self.name.clone(),
            key,
            value: shown,
            origin,
        });
        value
    }

    /// Reads a text that `parse` understands; `expected` completes "expected …".
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        default: (T, &str),
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> T {
        self.read(key, (default.0, quote(default.1)), |value| {
            parse(text(value, expected)?).ok_or_else(|| format!("expected {expected}"))
        })
    }

    /// Reads one of several words.
    pub(super) fn choice<T: Clone>(
        &mut self,
        key: &'static str,
        default: &str,
        choices: &[(&str, T)],
        fallback: T,
    ) -> T {
        let words: Vec<String> = choices.iter().map(|(word, _)| quote(word)).collect();
        let expected = format!("one of {}", words.join(", "));
        self.parsed(key, (fallback, default), &expected, |text| {
            choices
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, choice)| choice.clone())
        })
    }

    /// Reads true or false.
    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        self.read(key, (default, default.to_string()), |value| {
            boolean(value)
                .ok_or_else(|| format!("expected true or false, got {}", value.kind_name()))
        })
    }

    /// Reads a whole number within a range.
    pub(super) fn integer<T>(
        &mut self,
        key: &'static str,
        default: T,
        range: RangeInclusive<T>,
    ) -> T
    where
        T: TryFrom<i64> + PartialOrd + Display + Copy,
    {
        self.read(key, (default, default.to_string()), |value| {
            let expected = format!(
                "expected a whole number from {} to {}",
                range.start(),
                range.end()
            );
            let number = whole_number(value)
                .ok_or_else(|| format!("{expected}, got {}", value.kind_name()))?;
            T::try_from(number)
                .ok()
                .filter(|number| range.contains(number))
                .ok_or(expected)
        })
    }

    /// Reads a duration within a range.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        self.read(key, (default, quote(&show_duration(default))), |value| {
            duration(value, &range)
        })
    }

    /// Reads a size in bytes within a range.
    pub(super) fn size(
        &mut self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        self.read(key, (default, quote(&show_size(default))), |value| {
            let (least, most) = (show_size(*range.start()), show_size(*range.end()));
            let expected = format!(
                "expected a size from {least} to {most}, such as \"64KiB\", \"1MiB\" or bytes"
            );
            let bytes = match &value.kind {
                Kind::Integer(bytes) => u64::try_from(*bytes).ok(),
                Kind::Untyped(text) | Kind::String(text) => parse_size(text),
                Kind::Float(_)
                | Kind::Boolean(_)
                | Kind::Datetime(_)
                | Kind::List(_)
                | Kind::Table(_) => None,
            };
            bytes.filter(|bytes| range.contains(bytes)).ok_or(expected)
        })
    }

    /// Reads a list of texts, each understood by `parse`.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        default: (Vec<T>, &[&str]),
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let quoted: Vec<String> = default.1.iter().map(|text| quote(text)).collect();
        let shown = format!("[{}]", quoted.join(", "));
        self.read(key, (default.0, shown), |value| {
            texts(value)?.iter().map(|text| parse(text)).collect()
        })
    }
}

/// The value as it is printed: what came as text takes the type that its default has.
fn canonical(written: &Value, default_shown: &str) -> String {
    let Kind::Untyped(text) = &written.kind else {
        return written.show();
    };
    if default_shown.starts_with('[') {
        return texts(written).map_or_else(
            |_| written.show(),
            |texts| {
                format!(
                    "[{}]",
                    texts
                        .iter()
                        .map(|text| quote(text))
                        .collect::<Vec<_>>()
                        .join(", ")
                )
            },
        );
    }
    let is_bare = text.trim().parse::<f64>().is_ok() || text.trim().parse::<bool>().is_ok();
    if default_shown.starts_with('"') || !is_bare {
        quote(text)
    } else {
        text.trim().to_owned()
    }
}

/// The text of a value that is one.
pub(super) fn text<'v>(value: &'v Value, expected: &str) -> Result<&'v str, String> {
    match &value.kind {
        Kind::Untyped(text) | Kind::String(text) => Ok(text),
        Kind::Integer(_)
        | Kind::Float(_)
        | Kind::Boolean(_)
        | Kind::Datetime(_)
        | Kind::List(_)
        | Kind::Table(_) => Err(format!("expected {expected}, got {}", value.kind_name())),
    }
}

/// The number of a value that is a whole one.
pub(super) fn whole_number(value: &Value) -> Option<i64> {
    match &value.kind {
        Kind::Integer(number) => Some(*number),
        Kind::Untyped(text) => text.trim().parse().ok(),
        Kind::String(_)
        | Kind::Float(_)
        | Kind::Boolean(_)
        | Kind::Datetime(_)
        | Kind::List(_)
        | Kind::Table(_) => None,
    }
}

/// The truth of a value that has one.
pub(super) fn boolean(value: &Value) -> Option<bool> {
    match &value.kind {
        Kind::Boolean(value) => Some(*value),
        Kind::Untyped(text) => text.trim().parse().ok(),
        Kind::String(_)
        | Kind::Integer(_)
        | Kind::Float(_)
        | Kind::Datetime(_)
        | Kind::List(_)
        | Kind::Table(_) => None,
    }
}

fn duration(value: &Value, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let expected = || {
        let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
        format!(
            "a duration from {least} to {most}, such as \"100ms\", \"2s\", \"5m\", \"1h\" or \"7d\""
        )
    };
    parse_duration(text(value, &expected())?)
        .filter(|duration| range.contains(duration))
        .ok_or_else(|| format!("expected {}", expected()))
}

/// The texts of a list: as TOML, or from the environment also `a,b`.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    match &value.kind {
        Kind::List(items) => items
            .iter()
            .map(|item| text(item, "strings in the list").map(str::to_owned))
            .collect(),
        Kind::Untyped(text) if text.trim_start().starts_with('[') => {
            let list = parse_inline(text, &value.origin)
                .ok_or("expected a list such as [\"a\", \"b\"]: this is not valid TOML")?;
            texts(&list)
        }
        Kind::Untyped(text) if text.trim().is_empty() => Ok(Vec::new()),
        Kind::Untyped(text) => Ok(text.split(',').map(|item| item.trim().to_owned()).collect()),
        Kind::String(_)
        | Kind::Integer(_)
        | Kind::Float(_)
        | Kind::Boolean(_)
        | Kind::Datetime(_)
        | Kind::Table(_) => Err(format!(
            "expected a list of strings, got {}",
            value.kind_name()
        )),
    }
}
