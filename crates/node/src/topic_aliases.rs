//! The topic aliases of one connection, in both directions. They end with it [MQTT-3.3.2-7].

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use codec::{TopicForm, TopicName};
use lru::LruCache;

/// Aliases that the client has defined.
#[derive(Debug, Default)]
pub(crate) struct InboundAliases(BTreeMap<NonZeroU16, TopicName>);

impl InboundAliases {
    /// The alias means this topic from now on; at most as many as the alias may be large.
    pub(crate) fn define(&mut self, alias: NonZeroU16, topic: &TopicName) {
        self.0.insert(alias, topic.detached());
    }

    /// What it means.
    pub(crate) fn topic(&self, alias: NonZeroU16) -> Option<&TopicName> {
        self.0.get(&alias)
    }
}

/// Aliases that the broker has defined. When all are in use, the topic that was not sent for the longest
/// time loses its own.
#[derive(Debug, Default)]
pub(crate) struct OutboundAliases(Option<Box<LruCache<TopicName, NonZeroU16>>>);

impl OutboundAliases {
    /// At most `max` aliases [MQTT-3.1.2-26]; 0: none [MQTT-3.1.2-27].
    pub(crate) fn new(max: u16) -> Self {
        Self(NonZeroU16::new(max).map(|max| Box::new(LruCache::new(max.into()))))
    }

    /// How the topic would be sent. Nothing is remembered before [`sent`](Self::sent).
    pub(crate) fn form(&self, topic: &TopicName) -> TopicForm {
        let Some(aliases) = &self.0 else {
            return TopicForm::Name;
        };
        if let Some(alias) = aliases.peek(topic) {
            return TopicForm::Alias(*alias);
        }
        let used = u16::try_from(aliases.len()).unwrap_or(u16::MAX);
        let free = NonZeroU16::MIN.saturating_add(used);
        let oldest = || aliases.peek_lru().map(|(_, alias)| *alias);
        let is_full = aliases.len() >= aliases.cap().get();
        let alias = if is_full { oldest() } else { Some(free) };
        alias.map_or(TopicForm::Name, TopicForm::DefineAlias)
    }

    /// The topic was sent in this form.
    pub(crate) fn sent(&mut self, topic: &TopicName, form: TopicForm) {
        let Some(aliases) = &mut self.0 else { return };
        match form {
            TopicForm::Name => {}
            TopicForm::Alias(_) => {
                aliases.promote(topic);
            }
            TopicForm::DefineAlias(alias) => {
                aliases.push(topic.detached(), alias);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> TopicName {
        TopicName::try_from(name).unwrap()
    }

    fn alias(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).unwrap()
    }

    fn send(aliases: &mut OutboundAliases, name: &str) -> TopicForm {
        let form = aliases.form(&topic(name));
        aliases.sent(&topic(name), form);
        form
    }

    #[test]
    fn a_topic_is_named_once() {
        let mut aliases = OutboundAliases::new(2);
        assert_eq!(send(&mut aliases, "a"), TopicForm::DefineAlias(alias(1)));
        assert_eq!(send(&mut aliases, "b"), TopicForm::DefineAlias(alias(2)));
        assert_eq!(send(&mut aliases, "a"), TopicForm::Alias(alias(1)));
        assert_eq!(send(&mut aliases, "b"), TopicForm::Alias(alias(2)));
    }

    #[test]
    fn the_topic_that_was_not_sent_for_the_longest_time_gives_its_alias_up() {
        let mut aliases = OutboundAliases::new(2);
        send(&mut aliases, "a");
        send(&mut aliases, "b");
        send(&mut aliases, "a");
        assert_eq!(send(&mut aliases, "c"), TopicForm::DefineAlias(alias(2)));
        assert_eq!(send(&mut aliases, "a"), TopicForm::Alias(alias(1)));
        assert_eq!(send(&mut aliases, "b"), TopicForm::DefineAlias(alias(2)));
    }

    #[test]
    fn without_a_maximum_there_is_none() {
        let mut aliases = OutboundAliases::new(0);
        assert_eq!(send(&mut aliases, "a"), TopicForm::Name);
        assert_eq!(send(&mut aliases, "a"), TopicForm::Name);
    }

    /// A packet that turns out too large is not sent, and defines nothing.
    #[test]
    fn what_is_not_sent_defines_nothing() {
        let mut aliases = OutboundAliases::new(1);
        assert_eq!(aliases.form(&topic("a")), TopicForm::DefineAlias(alias(1)));
        assert_eq!(send(&mut aliases, "b"), TopicForm::DefineAlias(alias(1)));
        assert_eq!(aliases.form(&topic("a")), TopicForm::DefineAlias(alias(1)));
    }

    #[test]
    fn the_largest_maximum_is_possible() {
        let mut aliases = OutboundAliases::new(u16::MAX);
        for number in 1..=u16::MAX {
            let form = send(&mut aliases, &format!("t/{number}"));
            assert_eq!(form, TopicForm::DefineAlias(alias(number)));
        }
        assert_eq!(send(&mut aliases, "t/1"), TopicForm::Alias(alias(1)));
        assert_eq!(send(&mut aliases, "u"), TopicForm::DefineAlias(alias(2)));
    }
}
