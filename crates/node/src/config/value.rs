//! Untyped configuration values that remember where they were written.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml_edit::{Document, Item};

use super::error::Problem;

/// Where a value was written, the answer to "which line do I change?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody wrote it: the built-in default.
    Default,
    /// A line of the configuration file, counted from 1.
    File(Arc<Path>, usize),
    /// An environment variable, by name.
    Environment(String),
    /// A flag of the command line, as written.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "command line {flag}"),
        }
    }
}

/// The keys of one table, in alphabetical order.
pub(super) type Table = BTreeMap<String, Value>;

/// One value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) kind: Kind,
    pub(super) origin: Origin,
}

/// What a value looks like before a key gives it a meaning.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// From the environment or a flag: the key decides what it means.
    Untyped(String),
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    List(Vec<Value>),
    Table(Table),
}

impl Value {
    /// The value on one line, as TOML writes it.
    pub(super) fn show(&self) -> String {
        match &self.kind {
            Kind::Untyped(text) | Kind::String(text) => quote(text),
            Kind::Integer(number) => number.to_string(),
            Kind::Float(number) => number.to_string(),
            Kind::Boolean(value) => value.to_string(),
            Kind::Datetime(text) => text.clone(),
            Kind::List(items) => {
                let items: Vec<String> = items.iter().map(Self::show).collect();
                format!("[{}]", items.join(", "))
            }
            Kind::Table(table) => {
                let pairs: Vec<String> = table
                    .iter()
                    .map(|(key, value)| format!("{key} = {}", value.show()))
                    .collect();
                format!("{{ {} }}", pairs.join(", "))
            }
        }
    }

    /// What kind of value it is, for "expected …, got …".
    pub(super) fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Untyped(_) => "a text",
            Kind::String(_) => "a string",
            Kind::Integer(_) => "an integer",
            Kind::Float(_) => "a fraction",
            Kind::Boolean(_) => "a boolean",
            Kind::Datetime(_) => "a date",
            Kind::List(_) => "a list",
            Kind::Table(_) => "a table",
        }
    }
}

/// Quotes a text as a TOML basic string.
pub(super) fn quote(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

/// Reads a whole file into a table whose values know their line.
pub(super) fn parse_file(path: &Path, text: &str) -> Result<Table, Problem> {
    let lines = Lines {
        path: Arc::from(path),
        text,
    };
    let document = Document::parse(text).map_err(|error| Problem {
        origin: lines.origin(error.span()),
        key: String::new(),
        value: None,
        message: format!(
            "not valid TOML: {}",
            error.message().trim().replace('\n', ", ")
        ),
    })?;
    Ok(document
        .iter()
        .map(|(key, item)| (key.to_owned(), lines.value(item)))
        .collect())
}

/// Reads one TOML value that was written in an environment variable or a flag, e.g. a list.
pub(super) fn parse_inline(text: &str, origin: &Origin) -> Option<Value> {
    let lines = Lines {
        path: Arc::from(PathBuf::new()),
        text,
    };
    let value: toml_edit::Value = text.parse().ok()?;
    let mut value = lines.inline(&value);
    relocate(&mut value, origin);
    Some(value)
}

/// Gives a value and all in it the origin of the variable or flag that held it.
fn relocate(value: &mut Value, origin: &Origin) {
    value.origin = origin.clone();
    match &mut value.kind {
        Kind::List(items) => items.iter_mut().for_each(|item| relocate(item, origin)),
        Kind::Table(table) => table.values_mut().for_each(|item| relocate(item, origin)),
        Kind::Untyped(_)
        | Kind::String(_)
        | Kind::Integer(_)
        | Kind::Float(_)
        | Kind::Boolean(_)
        | Kind::Datetime(_) => {}
    }
}

/// Turns byte offsets of a file into line numbers.
struct Lines<'a> {
    path: Arc<Path>,
    text: &'a str,
}

impl Lines<'_> {
    fn origin(&self, span: Option<std::ops::Range<usize>>) -> Origin {
        let offset = span.map_or(0, |span| span.start);
        let line = 1 + self
            .text
            .bytes()
            .take(offset)
            .filter(|byte| *byte == b'\n')
            .count();
        Origin::File(Arc::clone(&self.path), line)
    }

    fn value(&self, item: &Item) -> Value {
        let origin = self.origin(item.span());
        let kind = match item {
            Item::None => Kind::Table(Table::new()),
            Item::Value(value) => return self.inline(value),
            Item::Table(table) => Kind::Table(
                table
                    .iter()
                    .map(|(key, item)| (key.to_owned(), self.value(item)))
                    .collect(),
            ),
            Item::ArrayOfTables(tables) => Kind::List(
                tables
                    .iter()
                    .map(|table| Value {
                        origin: self.origin(table.span()),
                        kind: Kind::Table(
                            table
                                .iter()
                                .map(|(key, item)| (key.to_owned(), self.value(item)))
                                .collect(),
                        ),
                    })
                    .collect(),
            ),
        };
        Value { kind, origin }
    }

    fn inline(&self, value: &toml_edit::Value) -> Value {
        let kind = match value {
            toml_edit::Value::String(text) => Kind::String(text.value().clone()),
            toml_edit::Value::Integer(number) => Kind::Integer(*number.value()),
            toml_edit::Value::Float(number) => Kind::Float(*number.value()),
            toml_edit::Value::Boolean(value) => Kind::Boolean(*value.value()),
            toml_edit::Value::Datetime(date) => Kind::Datetime(date.value().to_string()),
            toml_edit::Value::Array(items) => {
                Kind::List(items.iter().map(|item| self.inline(item)).collect())
            }
            toml_edit::Value::InlineTable(table) => Kind::Table(
                table
                    .iter()
                    .map(|(key, item)| (key.to_owned(), self.inline(item)))
                    .collect(),
            ),
        };
        Value {
            kind,
            origin: self.origin(value.span()),
        }
    }
}

/// Puts a value at a path such as `listener.0.bind`, over whatever a weaker source said.
///
/// A number addresses a list: an existing place, or the one just behind the last.
///
/// # Errors
/// A sentence when the path runs through a value that is no table, or leaves a gap in a list.
pub(super) fn put(table: &mut Table, path: &[&str], value: Value) -> Result<(), String> {
    let Some((key, rest)) = path.split_first() else {
        return Err("the key is empty".to_owned());
    };
    if rest.is_empty() {
        table.insert((*key).to_owned(), value);
        return Ok(());
    }
    let child = table.entry((*key).to_owned()).or_insert_with(|| Value {
        kind: if is_index(rest) {
            Kind::List(Vec::new())
        } else {
            Kind::Table(Table::new())
        },
        origin: value.origin.clone(),
    });
    put_below(child, key, rest, value)
}

/// Puts a value into a table or a list that already exists (or was just made) at `key`.
fn put_below(parent: &mut Value, key: &str, path: &[&str], value: Value) -> Result<(), String> {
    match &mut parent.kind {
        Kind::Table(table) => put(table, path, value),
        Kind::List(items) => {
            let Some((index_text, rest)) = path.split_first() else {
                return Err(format!("{key} needs the number of a place in the list"));
            };
            let Ok(index) = index_text.parse::<usize>() else {
                return Err(format!(
                    "{key} is a list: {index_text} must be the number of a place in it"
                ));
            };
            let count = items.len();
            if index == count {
                items.push(Value {
                    kind: Kind::Table(Table::new()),
                    origin: value.origin.clone(),
                });
            }
            let Some(place) = items.get_mut(index) else {
                return Err(format!(
                    "{key} has {count} places: the next is {key}.{count}"
                ));
            };
            if rest.is_empty() {
                *place = value;
                return Ok(());
            }
            put_below(place, index_text, rest, value)
        }
        Kind::Untyped(_)
        | Kind::String(_)
        | Kind::Integer(_)
        | Kind::Float(_)
        | Kind::Boolean(_)
        | Kind::Datetime(_) => Err(format!("{key} is no table")),
    }
}

/// Whether the next step of a path addresses a place in a list.
fn is_index(path: &[&str]) -> bool {
    path.first()
        .is_some_and(|step| !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit()))
}
