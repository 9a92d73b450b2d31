//! The comments at the head of a conformance script: which statements it shows, and how it is run.
//!
//! ```text
//! # 3.1.1: MQTT-3.1.2-6
//! # 5.0: MQTT-3.1.2-4
//! # alone
//! # Clean Start ends the former session: nothing of it is left.
//! ```

use std::collections::BTreeMap;

/// The versions that a script can be for, as it names them.
pub const LABELS: [&str; 3] = ["3.1", "3.1.1", "5.0"];

/// What a script says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Version → the statements that the script shows there. It runs with these versions.
    pub ids: BTreeMap<&'static str, Vec<String>>,
    /// Duties without an id.
    pub also: Vec<String>,
    /// A broker that is configured like this; `None`: the default.
    pub config: Option<String>,
    /// Nothing else may run on the broker.
    pub is_alone: bool,
    /// The one form in which it makes sense, and why.
    pub only: Option<(String, String)>,
    /// It also runs against sessions without sockets.
    pub is_pure: bool,
    /// What it shows.
    pub title: String,
}

impl Header {
    /// Reads the comments at the head of a script.
    ///
    /// # Errors
    /// A sentence with the number of the line that cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut header = Self::default();
        for (index, line) in text.lines().enumerate() {
            let Some(comment) = line.trim().strip_prefix('#') else {
                break;
            };
            header
                .add(comment.trim())
                .map_err(|why| format!("line {}: {why}", index + 1))?;
        }
        if header.title.is_empty() {
            return Err("no sentence says what is shown".to_owned());
        }
        Ok(header)
    }

    fn add(&mut self, comment: &str) -> Result<(), String> {
        match comment {
            "alone" => self.is_alone = true,
            "pure" => self.is_pure = true,
            _ => match comment.split_once(':') {
                Some((key, value)) => self.add_value(key, value.trim(), comment)?,
                None => self.add_to_title(comment),
            },
        }
        Ok(())
    }

    fn add_value(&mut self, key: &str, value: &str, comment: &str) -> Result<(), String> {
        if let Some(label) = LABELS.into_iter().find(|label| *label == key) {
            self.ids.entry(label).or_default().extend(parse_ids(value)?);
            return Ok(());
        }
        match key {
            "also" => self.also.push(value.to_owned()),
            "config" => self.config = Some(value.to_owned()),
            "only" => {
                let (form, reason) = value.split_once(' ').unwrap_or((value, ""));
                let reason = reason.trim_start_matches(['-', ' ']);
                if !["single", "cluster"].contains(&form) || reason.is_empty() {
                    return Err("`only: FORM - REASON`, FORM is single or cluster".to_owned());
                }
                self.only = Some((form.to_owned(), reason.to_owned()));
            }
            _ => self.add_to_title(comment),
        }
        Ok(())
    }

    fn add_to_title(&mut self, comment: &str) {
        if !self.title.is_empty() {
            self.title.push(' ');
        }
        self.title.push_str(comment);
    }
}

/// A version and its statements: `5.0: MQTT-3.1.2-22, MQTT-3.1.2-24`.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_version(text: &str) -> Result<(&'static str, Vec<String>), String> {
    let (key, value) = text.split_once(':').ok_or("no version")?;
    let label = LABELS.into_iter().find(|label| *label == key);
    let label = label.ok_or_else(|| format!("{key:?} is no version"))?;
    Ok((label, parse_ids(value)?))
}

/// `MQTT-…, MQTT-…`; may be empty.
fn parse_ids(text: &str) -> Result<Vec<String>, String> {
    let ids = text.split(',').map(str::trim).filter(|id| !id.is_empty());
    ids.map(|id| {
        if id.starts_with("MQTT-") && !id.contains(' ') {
            Ok(id.to_owned())
        } else {
            Err(format!("{id:?} is no id"))
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read() {
        let text = "# 3.1.1: @3.1.2-6\n# 5.0: @3.1.2-4, @3.1.2-5\n# alone\n# also: a duty\n\
            # only: cluster - it is about two nodes\n# It shows: this\n# and that.\n\na> PINGREQ\n# x: y\n";
        let header = Header::parse(&text.replace('@', "MQTT-")).unwrap();
        assert_eq!(header.ids["3.1.1"].len(), 1);
        assert_eq!(header.ids["5.0"].len(), 2);
        assert!(header.is_alone && !header.is_pure);
        assert_eq!(header.also, ["a duty"]);
        assert_eq!(header.only.unwrap().1, "it is about two nodes");
        assert_eq!(header.title, "It shows: this and that.");
    }

    #[test]
    fn a_header_that_can_not_be_read_is_refused() {
        for text in [
            "# 5.0: 1.5.4-1\n# x",
            "# 5.0:\n",
            "# only: kill - x\n# x",
            "# only: single\n# x",
        ] {
            assert!(Header::parse(text).is_err(), "{text}");
        }
    }
}
