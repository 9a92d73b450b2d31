//! `[[acl]]`: which clients may publish and subscribe where.

use std::sync::Arc;

use codec::TopicFilter;

use super::error::Problem;
use super::reader::{Reader, Section};
use super::value::{Origin, Table, quote};

/// One `[[acl]]`. The first that matches decides. None at all: an admitted client may do everything; one
/// or more: what no rule allows is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclRule {
    /// `who`: the clients that it is about. Required.
    pub who: Who,
    /// Whether it allows or denies: exactly one of `allow` and `deny` is written.
    pub permission: Permission,
    /// `allow` or `deny`: what it is about, `"publish"`, `"subscribe"` or both.
    pub actions: Actions,
    /// `topics`: Topic Filters, in which `%u` stands for the user name and `%c` for the client
    /// identifier. Required.
    pub topics: Arc<[Box<str>]>,
}

/// The clients that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// `"all"`.
    All,
    /// `"user:PATTERN"`: those with a user name that matches; `*` is any text.
    User(String),
    /// `"client:PATTERN"`: those whose client identifier matches.
    Client(String),
    /// `"group:NAME"`: those whose token has this name in its claim `groups`.
    Group(String),
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Yes.
    Allow,
    /// No.
    Deny,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actions {
    /// PUBLISH, and the will of CONNECT.
    pub publish: bool,
    /// SUBSCRIBE, and what is delivered.
    pub subscribe: bool,
}

const WHO: &str = "\"user:PATTERN\", \"client:PATTERN\", \"group:NAME\" or \"all\"";

pub(super) fn read(reader: &mut Reader, root: &mut Table) -> Vec<AclRule> {
    let tables = reader.list(root, "acl");
    let rules = tables.into_iter().enumerate();
    rules
        .filter_map(|(place, (origin, table))| rule(reader, place, origin, table))
        .collect()
}

/// Makes the keys of a rule known where there is none.
pub(super) fn know_keys(reader: &mut Reader) {
    rule(reader, 0, Origin::Default, Table::new());
}

/// Groups come from tokens alone: a rule for one would never match without.
pub(super) fn check_groups(reader: &mut Reader, rules: &[AclRule], has_tokens: bool) {
    for (place, rule) in rules.iter().enumerate() {
        if matches!(rule.who, Who::Group(_)) && !has_tokens {
            reader.conflict(
                &[&format!("acl.{place}.who")],
                "groups are what the claim \"groups\" of a token says: set auth.jwt.jwks_file or auth.jwt.key_file",
            );
        }
    }
}

/// Reads one rule; `None` when it lacks something.
fn rule(reader: &mut Reader, place: usize, origin: Origin, table: Table) -> Option<AclRule> {
    let mut section = reader.open(format!("acl.{place}"), table);
    let who_is_missing = !section.is_written("who");
    let who = section.parsed("who", (None, ""), WHO, |text| who(text).map(Some));
    let allow = actions(&mut section, "allow");
    let deny = actions(&mut section, "deny");
    let topics = section.list("topics", (Vec::new(), &[]), topic);
    section.finish();
    let mut missing = |keys: &[&str], message: String| {
        let keys: Vec<String> = keys
            .iter()
            .map(|key| format!("acl.{place}.{key}"))
            .collect();
        // What is there and wrong has been said.
        if reader
            .problems
            .iter()
            .any(|problem| keys.iter().any(|key| problem.key() == key))
        {
            return;
        }
        let Some(key) = keys.into_iter().next() else {
            return;
        };
        reader.problems.push(Problem {
            origin: origin.clone(),
            key,
            value: None,
            message,
        });
    };
    if who_is_missing {
        missing(&["who"], format!("missing: expected {WHO}"));
    }
    if topics.is_empty() {
        let example = "missing: expected Topic Filters such as [\"sensors/%u/#\"]";
        missing(&["topics"], example.to_owned());
    }
    let (permission, actions) = match (allow, deny) {
        (Some(actions), None) => (Permission::Allow, actions),
        (None, Some(actions)) => (Permission::Deny, actions),
        (Some(_), Some(_)) | (None, None) => {
            let message = "expected one of allow = [...] and deny = [...], with \"publish\", \"subscribe\" or both";
            missing(&["allow", "deny"], message.to_owned());
            return None;
        }
    };
    if topics.is_empty() {
        return None;
    }
    Some(AclRule {
        who: who?,
        permission,
        actions,
        topics: topics.into(),
    })
}

/// The actions of a list; `None`: it is empty, which is as if it were not there.
fn actions(section: &mut Section<'_>, key: &'static str) -> Option<Actions> {
    let words = section.list(key, (Vec::new(), &[]), |text| match text {
        "publish" | "subscribe" => Ok(text == "publish"),
        _ => Err(format!(
            "expected \"publish\" and \"subscribe\", got {}",
            quote(text)
        )),
    });
    (!words.is_empty()).then(|| Actions {
        publish: words.contains(&true),
        subscribe: words.contains(&false),
    })
}

fn who(text: &str) -> Option<Who> {
    if text == "all" {
        return Some(Who::All);
    }
    let (kind, name) = text.split_once(':')?;
    if name.is_empty() {
        return None;
    }
    match kind {
        "user" => Some(Who::User(name.to_owned())),
        "client" => Some(Who::Client(name.to_owned())),
        "group" => Some(Who::Group(name.to_owned())),
        _ => None,
    }
}

/// A Topic Filter once `%u` and `%c` are replaced by something without wildcards.
fn topic(text: &str) -> Result<Box<str>, String> {
    let example = text.replace("%u", "u").replace("%c", "c");
    match TopicFilter::try_from(example.as_str()) {
        Ok(filter) if filter.is_shared() => Err(format!(
            "{} is a shared subscription: name the filter behind $share/NAME/, it is what is checked",
            quote(text)
        )),
        Ok(_) => Ok(text.into()),
        Err(error) => Err(format!("{} is no Topic Filter: {error}", quote(text))),
    }
}
