//! What one connection may do.

use codec::{TopicFilter, TopicName};

use super::filter::{covers, overlap};
use super::{Rule, Subject, compile};
use crate::config::{AclRule, Actions, Permission};

/// What one connection may do, for as long as the rules are the same.
#[derive(Debug)]
pub(crate) struct Rights {
    /// `None`: there are no rules, and it may do everything.
    rules: Option<Box<[Rule]>>,
}

/// What becomes of a SUBSCRIBE's filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// Whatever it matches may be delivered.
    Whole,
    /// Some of what it matches may not be delivered, and is held back.
    InPart,
    /// It is refused.
    Denied,
}

impl Rights {
    /// Those of a client under these rules.
    pub(crate) fn new(rules: &[AclRule], subject: Subject<'_>) -> Self {
        Self {
            rules: (!rules.is_empty()).then(|| compile(rules, subject)),
        }
    }

    /// There is something to check.
    pub(crate) fn are_limited(&self) -> bool {
        self.rules.is_some()
    }

    /// Whether it may publish to a topic, also by its will.
    pub(crate) fn may_publish(&self, topic: &TopicName) -> bool {
        self.may(topic, |actions| actions.publish)
    }

    /// Whether it may get messages of a topic.
    pub(crate) fn may_receive(&self, topic: &TopicName) -> bool {
        self.may(topic, |actions| actions.subscribe)
    }

    fn may(&self, topic: &TopicName, is_meant: impl Fn(Actions) -> bool) -> bool {
        let Some(rules) = &self.rules else {
            return true;
        };
        let topic = topic.as_str();
        let decides = |rule: &&Rule| {
            is_meant(rule.actions) && rule.filters.iter().any(|filter| covers(filter, topic))
        };
        rules
            .iter()
            .find(decides)
            .is_some_and(|rule| rule.permission == Permission::Allow)
    }

    /// What becomes of a subscription; a shared one is checked by the filter behind its name. Of a
    /// shared one nothing can be held back: the message would be lost for the other members.
    pub(crate) fn grant(&self, filter: &TopicFilter) -> Grant {
        let Some(rules) = &self.rules else {
            return Grant::Whole;
        };
        let inner = filter.share().map(|(_, inner)| inner);
        let is_shared = inner.is_some();
        let filter = inner.as_ref().unwrap_or(filter).as_str();
        let mut granted = Grant::Whole;
        for rule in rules.iter().filter(|rule| rule.actions.subscribe) {
            let is_covered = rule.filters.iter().any(|own| covers(own, filter));
            match rule.permission {
                Permission::Allow if is_covered => {
                    let is_refused = is_shared && granted == Grant::InPart;
                    return if is_refused { Grant::Denied } else { granted };
                }
                Permission::Deny if is_covered => return Grant::Denied,
                Permission::Deny if rule.filters.iter().any(|own| overlap(own, filter)) => {
                    granted = Grant::InPart;
                }
                Permission::Allow | Permission::Deny => {}
            }
        }
        Grant::Denied
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Who;

    fn rule(permission: Permission, who: Who, actions: &str, topics: &[&str]) -> AclRule {
        AclRule {
            who,
            permission,
            actions: Actions {
                publish: actions.contains('p'),
                subscribe: actions.contains('s'),
            },
            topics: topics.iter().map(|topic| Box::from(*topic)).collect(),
        }
    }

    fn rights(rules: &[AclRule], user: Option<&str>, groups: &[&str]) -> Rights {
        let groups: Vec<String> = groups.iter().map(|name| (*name).to_owned()).collect();
        let subject = Subject {
            user,
            client_id: "c1",
            groups: &groups,
        };
        Rights::new(rules, subject)
    }

    fn topic(text: &str) -> TopicName {
        TopicName::try_from(text).unwrap()
    }

    fn grant(rights: &Rights, filter: &str) -> Grant {
        rights.grant(&TopicFilter::try_from(filter).unwrap())
    }

    use Permission::{Allow, Deny};

    #[test]
    fn without_rules_everything_is_allowed_and_with_one_nothing_else() {
        let open = rights(&[], None, &[]);
        assert!(!open.are_limited() && open.may_publish(&topic("a")));
        assert_eq!(grant(&open, "#"), Grant::Whole);
        let rules = [rule(Allow, Who::User("alice".to_owned()), "p", &["a/#"])];
        let alice = rights(&rules, Some("alice"), &[]);
        assert!(alice.may_publish(&topic("a/b")) && !alice.may_publish(&topic("b")));
        assert!(!alice.may_receive(&topic("a/b")));
        assert_eq!(grant(&alice, "a/b"), Grant::Denied);
        for other in [Some("bob"), None] {
            assert!(!rights(&rules, other, &[]).may_publish(&topic("a/b")));
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = [
            rule(Deny, Who::All, "ps", &["a/secret/#"]),
            rule(Allow, Who::All, "ps", &["a/#"]),
            rule(Deny, Who::All, "ps", &["a/late"]),
        ];
        let rights = rights(&rules, None, &[]);
        assert!(!rights.may_publish(&topic("a/secret/x")));
        assert!(rights.may_publish(&topic("a/x")) && rights.may_publish(&topic("a/late")));
        assert!(!rights.may_receive(&topic("a/secret")) && rights.may_receive(&topic("a")));
        for (filter, expected) in [
            ("a/x", Grant::Whole),
            ("a/late", Grant::Whole),
            ("a/+", Grant::InPart),
            ("a/#", Grant::InPart),
            ("a/secret/+", Grant::Denied),
            ("#", Grant::Denied),
            ("$share/g/a/x", Grant::Whole),
            ("$share/g/a/#", Grant::Denied),
            ("$share/g/a/secret/x", Grant::Denied),
        ] {
            assert_eq!(grant(&rights, filter), expected, "{filter}");
        }
    }

    #[test]
    fn rules_are_about_users_clients_and_groups() {
        let rules = [
            rule(Allow, Who::User("s-*".to_owned()), "ps", &["of/%u/#"]),
            rule(Allow, Who::Client("c*".to_owned()), "p", &["clients/%c"]),
            rule(Allow, Who::Group("ops".to_owned()), "s", &["#", "$SYS/#"]),
        ];
        let sensor = rights(&rules, Some("s-1"), &[]);
        assert!(sensor.may_publish(&topic("of/s-1/t")) && !sensor.may_publish(&topic("of/s-2/t")));
        assert!(sensor.may_publish(&topic("clients/c1")));
        assert_eq!(grant(&sensor, "of/s-1/#"), Grant::Whole);
        assert_eq!(grant(&sensor, "of/+/t"), Grant::Denied);
        let operator = rights(&rules, Some("olga"), &["dev", "ops"]);
        assert_eq!(grant(&operator, "#"), Grant::Whole);
        assert_eq!(grant(&operator, "$SYS/broker/#"), Grant::Whole);
        assert_eq!(grant(&sensor, "$SYS/broker/#"), Grant::Denied);
        // A name that would be a wildcard is a name like any other, and matches nothing.
        let sly = rights(&rules, Some("s-+"), &[]);
        assert!(!sly.may_publish(&topic("of/s-1x/t")) && !sly.may_publish(&topic("of/s-1/t")));
        assert_eq!(grant(&sly, "of/+/t"), Grant::Denied);
    }

    #[test]
    fn a_denial_that_cannot_name_the_client_denies_all_that_it_could_mean() {
        let rules = [
            rule(Deny, Who::All, "ps", &["private/%u/#"]),
            rule(Allow, Who::All, "ps", &["#"]),
        ];
        let sly = rights(&rules, Some("a/b"), &[]);
        assert!(!sly.may_receive(&topic("private/a/b")) && !sly.may_receive(&topic("private/x")));
        assert!(sly.may_receive(&topic("public")));
        let alice = rights(&rules, Some("alice"), &[]);
        assert!(
            !alice.may_receive(&topic("private/alice")) && alice.may_receive(&topic("private/x"))
        );
    }
}
