//! Scripts that run at the same time on one broker do not meet: client ids, first topic levels and
//! the names of groups begin with something that no other run has.

use std::sync::atomic::{AtomicU32, Ordering};

/// What is put before names when sent, and taken off when received.
#[derive(Clone, Debug)]
pub struct Prefix(String);

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Prefix {
    /// One that no other run of this process has. Short: a client id may have 23 bytes in 3.1.
    pub fn next() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(format!("{number:x}."))
    }

    /// For scripts that run alone.
    pub fn none() -> Self {
        Self(String::new())
    }

    /// As it stands before names.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A client id. The empty one stays: the broker assigns one.
    pub fn id(&self, id: &[u8]) -> Vec<u8> {
        if id.is_empty() {
            return Vec::new();
        }
        self.before(id)
    }

    /// A topic. What begins with `$` stays, and the empty one.
    pub fn topic(&self, topic: &[u8]) -> Vec<u8> {
        match topic.first() {
            None | Some(b'$') => topic.to_vec(),
            Some(_) => self.before(topic),
        }
    }

    /// A filter, also a shared one.
    ///
    /// # Errors
    /// It begins with a wildcard, which no prefix can be put before.
    pub fn filter(&self, filter: &[u8]) -> Result<Vec<u8>, String> {
        if let Some(share) = filter.strip_prefix(b"$share/") {
            let slash = share.iter().position(|byte| *byte == b'/');
            let (group, inner) = share.split_at(slash.unwrap_or(share.len()));
            let mut out = b"$share/".to_vec();
            out.extend(self.id(group));
            if let Some(inner) = inner.strip_prefix(b"/") {
                out.push(b'/');
                out.extend(self.filter(inner)?);
            }
            return Ok(out);
        }
        let is_wild = matches!(filter, [b'#' | b'+'] | [b'+', b'/', ..]);
        if is_wild && !self.0.is_empty() {
            return Err("a filter that begins with a wildcard needs `# alone`".to_owned());
        }
        Ok(self.topic(filter))
    }

    /// A topic as the script says it.
    pub fn off<'a>(&self, topic: &'a [u8]) -> &'a [u8] {
        topic.strip_prefix(self.0.as_bytes()).unwrap_or(topic)
    }

    fn before(&self, name: &[u8]) -> Vec<u8> {
        [self.0.as_bytes(), name].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_prefixed_and_the_prefix_taken_off() {
        let prefix = Prefix("7.".to_owned());
        for (filter, prefixed) in [
            ("a/#", "7.a/#"),
            ("/a", "7./a"),
            ("$SYS/#", "$SYS/#"),
            ("$share/g/a/+", "$share/7.g/7.a/+"),
            ("$share//a", "$share//7.a"),
            ("$share/g", "$share/7.g"),
            ("", ""),
        ] {
            assert_eq!(
                prefix.filter(filter.as_bytes()).unwrap(),
                prefixed.as_bytes()
            );
        }
        assert!(prefix.filter(b"+/a").is_err());
        assert!(prefix.filter(b"$share/g/#").is_err());
        assert_eq!(prefix.off(b"7.a/b"), b"a/b");
        assert_eq!(prefix.off(b"$SYS/x"), b"$SYS/x");
    }
}
