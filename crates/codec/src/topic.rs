//! Topic Names and Topic Filters: validated once, then trusted (section 4.7).
//!
//! All of them borrow from the buffer they were read from; what is kept for long is first
//! [`detached`](TopicFilter::detached).

use std::fmt;
use std::str::Split;

use bytes::Bytes;

use crate::error::DecodeError;
use crate::primitive::Utf8;

/// Start of the Topic Filter of a shared subscription [MQTT-4.8.2-1].
const SHARE_PREFIX: &str = "$share/";

/// A Topic Name: at least one byte [MQTT-4.7.3-1], no wildcard [MQTT-3.3.2-2].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Utf8);

impl TopicName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The text as bytes; cheaper than [`as_str`](Self::as_str).
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The text as bytes that share the buffer, at the cost of one atomic increment.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.0.to_bytes()
    }

    /// The topic levels, in order; `a//b` has an empty one in the middle. A name has up to 65,536
    /// levels: do not recurse over them.
    #[must_use]
    pub fn levels(&self) -> Split<'_, char> {
        self.as_str().split('/')
    }

    /// Whether filters that start with a wildcard do not match it [MQTT-4.7.2-1].
    #[must_use]
    pub fn starts_with_dollar(&self) -> bool {
        self.as_bytes().first() == Some(&b'$')
    }

    /// A copy that does not pin the read buffer.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(self.0.detached())
    }

    /// The same name in another buffer, of which `bytes` must be a slice that equals it.
    pub(crate) fn moved_to(&self, bytes: Bytes) -> Self {
        Self(self.0.moved_to(bytes))
    }
}

impl TryFrom<Utf8> for TopicName {
    type Error = DecodeError;

    fn try_from(text: Utf8) -> Result<Self, DecodeError> {
        if text.as_bytes().is_empty() {
            return Err(DecodeError::TopicNameEmpty);
        }
        if text.as_bytes().iter().any(|&byte| is_wildcard(byte)) {
            return Err(DecodeError::TopicNameWildcard);
        }
        Ok(Self(text))
    }
}

impl TryFrom<Bytes> for TopicName {
    type Error = DecodeError;

    fn try_from(bytes: Bytes) -> Result<Self, DecodeError> {
        Self::try_from(Utf8::try_from(bytes)?)
    }
}

impl TryFrom<&str> for TopicName {
    type Error = DecodeError;

    fn try_from(text: &str) -> Result<Self, DecodeError> {
        Self::try_from(Utf8::try_from(text)?)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A Topic Filter: at least one byte, wildcards only as whole levels, `#` only last.
///
/// A filter that starts with `$share/` is a shared subscription and is checked as such in every
/// protocol version: one without a legal ShareName and filter cannot be built [MQTT-4.8.2-2].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter(Utf8);

impl TopicFilter {
    /// The text, with `$share/…/` if it has that.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The text as bytes; cheaper than [`as_str`](Self::as_str).
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The text as bytes that share the buffer, at the cost of one atomic increment.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.0.to_bytes()
    }

    /// The levels of the whole text. Take [`share`](Self::share) apart first.
    #[must_use]
    pub fn levels(&self) -> Split<'_, char> {
        self.as_str().split('/')
    }

    /// Whether a level is `+` or `#`.
    #[must_use]
    pub fn has_wildcards(&self) -> bool {
        self.as_bytes().iter().any(|&byte| is_wildcard(byte))
    }

    /// Whether this is a shared subscription.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.as_bytes().starts_with(SHARE_PREFIX.as_bytes())
    }

    /// ShareName and filter of a shared subscription; `None` for any other. Copies nothing.
    #[must_use]
    pub fn share(&self) -> Option<(ShareName, Self)> {
        let (name, filter) = split_share(self.as_str())?;
        Some((ShareName(self.0.subset(name)), Self(self.0.subset(filter?))))
    }

    /// A copy that does not pin the read buffer.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(self.0.detached())
    }
}

impl TryFrom<Utf8> for TopicFilter {
    type Error = DecodeError;

    fn try_from(text: Utf8) -> Result<Self, DecodeError> {
        match split_share(text.as_str()) {
            Some((name, filter)) => {
                check_share_name(name)?;
                let filter = filter.filter(|filter| !filter.is_empty());
                check_levels(filter.ok_or(DecodeError::ShareFilterMissing)?)?;
            }
            None => check_levels(text.as_str())?,
        }
        Ok(Self(text))
    }
}

impl TryFrom<Bytes> for TopicFilter {
    type Error = DecodeError;

    fn try_from(bytes: Bytes) -> Result<Self, DecodeError> {
        Self::try_from(Utf8::try_from(bytes)?)
    }
}

impl TryFrom<&str> for TopicFilter {
    type Error = DecodeError;

    fn try_from(text: &str) -> Result<Self, DecodeError> {
        Self::try_from(Utf8::try_from(text)?)
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The name of a group of shared subscriptions: at least one byte, without `/`, `+` and `#`
/// [MQTT-4.8.2-1] [MQTT-4.8.2-2].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareName(Utf8);

impl ShareName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// A copy that does not pin the read buffer.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(self.0.detached())
    }
}

impl TryFrom<&str> for ShareName {
    type Error = DecodeError;

    fn try_from(text: &str) -> Result<Self, DecodeError> {
        check_share_name(text)?;
        Ok(Self(Utf8::try_from(text)?))
    }
}

impl fmt::Display for ShareName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ShareName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

const fn is_wildcard(byte: u8) -> bool {
    matches!(byte, b'+' | b'#')
}

/// `$share/name/filter` as name and filter; the filter is `None` when its separator is missing.
fn split_share(text: &str) -> Option<(&str, Option<&str>)> {
    let rest = text.strip_prefix(SHARE_PREFIX)?;
    match rest.split_once('/') {
        Some((name, filter)) => Some((name, Some(filter))),
        None => Some((rest, None)),
    }
}

fn check_share_name(name: &str) -> Result<(), DecodeError> {
    if name.is_empty() {
        return Err(DecodeError::ShareNameEmpty);
    }
    if name.contains(['+', '#', '/']) {
        return Err(DecodeError::ShareNameInvalid);
    }
    Ok(())
}

fn check_levels(filter: &str) -> Result<(), DecodeError> {
    if filter.is_empty() {
        return Err(DecodeError::TopicFilterEmpty);
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(DecodeError::MultiLevelWildcardMisplaced);
        }
        if level.contains('+') && level != "+" {
            return Err(DecodeError::SingleLevelWildcardMisplaced);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Result<TopicFilter, DecodeError> {
        TopicFilter::try_from(text)
    }

    /// [MQTT-4.7.1-1] [MQTT-4.7.1-2]
    #[test]
    fn wildcards_fill_a_whole_level_and_the_hash_is_last() {
        for good in ["#", "+", "a/#", "+/+/#", "/", "/+", "a//b", "$SYS/#", " "] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["a#", "a/#/b", "#/a", "##", "a/b#", "#/"] {
            assert_eq!(
                filter(bad),
                Err(DecodeError::MultiLevelWildcardMisplaced),
                "{bad}"
            );
        }
        for bad in ["a+", "+a/b", "a/+b", "++", "a/++/b"] {
            assert_eq!(
                filter(bad),
                Err(DecodeError::SingleLevelWildcardMisplaced),
                "{bad}"
            );
        }
        assert_eq!(filter(""), Err(DecodeError::TopicFilterEmpty));
    }

    /// [MQTT-4.8.2-1] [MQTT-4.8.2-2]
    #[test]
    fn a_shared_filter_has_a_share_name_and_a_filter() {
        let share = |text: &str| filter(text).unwrap().share();
        let (name, inner) = share("$share/g/a/+").unwrap();
        assert_eq!((name.as_str(), inner.as_str()), ("g", "a/+"));
        let (name, inner) = share("$share/g//t").unwrap();
        assert_eq!((name.as_str(), inner.as_str()), ("g", "/t"));
        for ordinary in ["$Share/g/t", "$share", "share/g/t", "$sharex/g/t"] {
            assert_eq!(share(ordinary), None, "{ordinary}");
        }
        assert_eq!(filter("$share//t"), Err(DecodeError::ShareNameEmpty));
        assert_eq!(filter("$share/"), Err(DecodeError::ShareNameEmpty));
        assert_eq!(filter("$share/g"), Err(DecodeError::ShareFilterMissing));
        assert_eq!(filter("$share/g/"), Err(DecodeError::ShareFilterMissing));
        assert_eq!(filter("$share/g+/t"), Err(DecodeError::ShareNameInvalid));
        assert_eq!(filter("$share/#/t"), Err(DecodeError::ShareNameInvalid));
        assert_eq!(
            filter("$share/g/a#"),
            Err(DecodeError::MultiLevelWildcardMisplaced)
        );
    }

    /// [MQTT-3.3.2-2] [MQTT-4.7.3-1]
    #[test]
    fn a_topic_name_is_not_empty_and_has_no_wildcard() {
        assert_eq!(TopicName::try_from(""), Err(DecodeError::TopicNameEmpty));
        for bad in ["a/+", "#", "a#b"] {
            assert_eq!(
                TopicName::try_from(bad),
                Err(DecodeError::TopicNameWildcard)
            );
        }
        let topic = TopicName::try_from("$SYS//x").unwrap();
        assert!(topic.starts_with_dollar());
        assert_eq!(topic.levels().collect::<Vec<_>>(), ["$SYS", "", "x"]);
    }

    #[test]
    fn a_detached_copy_does_not_share_the_buffer() {
        let buffer = Bytes::from_static(b"a/b");
        let topic = TopicName::try_from(buffer.clone()).unwrap();
        assert_eq!(topic.as_bytes().as_ptr(), buffer.as_ptr());
        assert_ne!(topic.detached().as_bytes().as_ptr(), buffer.as_ptr());
        assert_eq!(topic.detached(), topic);
    }
}
