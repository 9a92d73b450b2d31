//! What an admitted client may do: the rules of `[[acl]]`, compiled for one connection.
//!
//! Invariants:
//! - The first rule that decides wins; what none decides is denied; without any rule all is allowed.
//! - A user name or client identifier never widens a rule: where `%u` or `%c` would bring a wildcard, a
//!   level or a `$` into the filter, a rule that allows does not match, and one that denies holds for
//!   everything that it could mean.
//! - A subscription is granted only if one rule that allows covers all topics that it can match, apart
//!   from those that an earlier rule denies: these are held back when they are delivered.
//! - Nothing is remembered about topics: the cost of a check is the number of the connection's rules.

mod filter;
mod rights;

use std::sync::Arc;

use codec::{TopicFilter, TopicName};

use crate::config::{AclRule, Actions, Permission, Who};
use crate::connection::Connection;
use crate::count::{self, AclAction};
use crate::pattern::is_like;

pub(crate) use rights::{Grant, Rights};

/// Whom the rules are about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// The user name that the client has shown to be.
    pub(crate) user: Option<&'a str>,
    /// Its client identifier.
    pub(crate) client_id: &'a str,
    /// What its token says.
    pub(crate) groups: &'a [String],
}

impl Connection {
    /// Whether the rules let the client publish to a topic.
    pub(crate) fn may_publish(&self, topic: &TopicName) -> bool {
        let rights = &self.client.rights;
        !rights.are_limited() || count::acl_check(AclAction::Publish, rights.may_publish(topic))
    }

    /// Whether the rules let the client have messages of a topic. Looked at only if something of what
    /// it subscribed to is not allowed.
    pub(crate) fn may_receive(&self, topic: &TopicName) -> bool {
        !self.holds_back
            || count::acl_check(AclAction::Receive, self.client.rights.may_receive(topic))
    }
}

/// A rule for one connection.
#[derive(Debug)]
struct Rule {
    permission: Permission,
    actions: Actions,
    filters: Arc<[Box<str>]>,
}

/// The rules that are about a client, in order.
fn compile(rules: &[AclRule], subject: Subject<'_>) -> Box<[Rule]> {
    let about = rules.iter().filter(|rule| is_about(&rule.who, subject));
    about
        .map(|rule| Rule {
            permission: rule.permission,
            actions: rule.actions,
            filters: filters(rule, subject),
        })
        .filter(|rule| !rule.filters.is_empty())
        .collect()
}

fn is_about(who: &Who, subject: Subject<'_>) -> bool {
    match who {
        Who::All => true,
        Who::User(pattern) => subject.user.is_some_and(|user| is_like(pattern, user)),
        Who::Client(pattern) => is_like(pattern, subject.client_id),
        Who::Group(name) => subject.groups.contains(name),
    }
}

/// The filters of a rule for one client. Shared by all clients unless they name one.
fn filters(rule: &AclRule, subject: Subject<'_>) -> Arc<[Box<str>]> {
    let names_a_client = |topic: &str| topic.contains("%u") || topic.contains("%c");
    if !rule.topics.iter().any(|topic| names_a_client(topic)) {
        return Arc::clone(&rule.topics);
    }
    let own = rule.topics.iter().filter_map(|topic| {
        if !names_a_client(topic) {
            return Some(topic.clone());
        }
        let own = substituted(topic, subject);
        match rule.permission {
            Permission::Allow => own,
            Permission::Deny => own.or_else(|| Some(whatever_it_means(topic))),
        }
    });
    own.collect()
}

/// A filter with the names in the place of `%u` and `%c`; `None`: there is no such name, or it is not
/// one level's text.
fn substituted(topic: &str, subject: Subject<'_>) -> Option<Box<str>> {
    let mut filter = String::with_capacity(topic.len());
    let mut rest = topic;
    // In one pass: a name may contain the text "%c".
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        filter.push_str(before);
        let name = if from.starts_with("%u") {
            subject.user?
        } else if from.starts_with("%c") {
            subject.client_id
        } else {
            filter.push('%');
            rest = from.strip_prefix('%').unwrap_or_default();
            continue;
        };
        if name.is_empty() || name.contains(['+', '#', '/']) {
            return None;
        }
        filter.push_str(name);
        rest = from.get(2..).unwrap_or_default();
    }
    filter.push_str(rest);
    // A name that begins with `$` opens `$SYS` and the like only where the rule itself does.
    let is_ordinary = !filter.starts_with('$') || topic.starts_with('$');
    (is_ordinary && TopicFilter::try_from(filter.as_str()).is_ok()).then(|| filter.into())
}

/// All topics that a filter with `%u` or `%c` can mean.
fn whatever_it_means(topic: &str) -> Box<str> {
    let levels = topic.split('/');
    let fixed = levels.take_while(|level| !level.contains("%u") && !level.contains("%c"));
    let levels: Vec<&str> = fixed.chain(["#"]).collect();
    levels.join("/").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject<'a>(user: Option<&'a str>, client_id: &'a str) -> Subject<'a> {
        Subject {
            user,
            client_id,
            groups: &[],
        }
    }

    #[test]
    fn names_are_put_in_literally_or_not_at_all() {
        let whole = |user, client_id| substituted("a/%u-%c/100%/#", subject(user, client_id));
        assert_eq!(whole(Some("u"), "c").as_deref(), Some("a/u-c/100%/#"));
        assert_eq!(whole(Some("%c"), "c").as_deref(), Some("a/%c-c/100%/#"));
        assert_eq!(whole(Some("ü"), "c").as_deref(), Some("a/ü-c/100%/#"));
        assert_eq!(whole(None, "c"), None);
        for name in ["+", "#", "a/b", "", "x+"] {
            assert_eq!(whole(Some(name), "c"), None, "{name}");
            assert_eq!(whole(Some("u"), name), None, "{name}");
        }
        let first = |name| substituted("%u/#", subject(Some(name), "c"));
        assert_eq!(first("$SYS"), None);
        assert_eq!(first("$share"), None);
        let opened = substituted("$SYS/%u", subject(Some("$x"), "c"));
        assert_eq!(opened.as_deref(), Some("$SYS/$x"));
    }

    #[test]
    fn what_cannot_be_put_in_is_denied_as_a_whole() {
        for (topic, expected) in [
            ("a/%u/b", "a/#"),
            ("%c", "#"),
            ("a/b/x-%u", "a/b/#"),
            ("a/+/%c/#", "a/+/#"),
        ] {
            assert_eq!(&*whatever_it_means(topic), expected);
        }
    }
}
