//! Takes a Rust file apart: code, comments, string literals, and where its unit tests begin.
//!
//! Not a parser: it knows just enough of the language that a word in a comment or a string is not
//! taken for code, nor a brace in one for a brace.

use std::ops::Range;

/// One Rust file.
pub(crate) struct Source {
    /// The text with comments, strings and characters blanked; offsets and lines are unchanged.
    pub(crate) code: String,
    /// The text with everything but comments blanked.
    pub(crate) comments: String,
    /// Contents of the string literals, escapes untouched, in order.
    pub(crate) strings: Vec<(usize, String)>,
    /// `#[cfg(test)] mod … { … }`.
    tests: Vec<Range<usize>>,
}

impl Source {
    /// Takes a file apart.
    pub(crate) fn parse(text: &str) -> Self {
        let mut lexer = Lexer {
            text: text.as_bytes(),
            at: 0,
            code: vec![b' '; text.len()],
            comments: vec![b' '; text.len()],
            strings: Vec::new(),
        };
        for (at, byte) in text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n') {
            lexer.code[at] = byte;
            lexer.comments[at] = byte;
        }
        lexer.run();
        let code = String::from_utf8_lossy(&lexer.code).into_owned();
        let comments = String::from_utf8_lossy(&lexer.comments).into_owned();
        let tests = test_modules(&code);
        Self {
            code,
            comments,
            strings: lexer.strings,
            tests,
        }
    }

    /// Whether an offset lies in the file's own unit tests.
    pub(crate) fn is_in_tests(&self, offset: usize) -> bool {
        self.tests.iter().any(|module| module.contains(&offset))
    }

    /// Lines outside of the file's own unit tests.
    pub(crate) fn lines_without_tests(&self) -> usize {
        let all = self.code.lines().count();
        let tests: usize = self
            .tests
            .iter()
            .map(|module| self.code[module.clone()].lines().count())
            .sum();
        all - tests
    }

    /// Identifiers and keywords of the code with their offsets.
    pub(crate) fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        words(&self.code)
    }

    /// Whether the code outside of unit tests has a function of this name.
    pub(crate) fn has_function(&self, name: &str) -> bool {
        let mut previous = "";
        for (at, word) in self.words() {
            if previous == "fn" && word == name && !self.is_in_tests(at) {
                return true;
            }
            previous = word;
        }
        false
    }
}

/// Runs of letters, digits and `_`, with their offsets.
pub(crate) fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(is_word)?;
        let end = text[start..]
            .find(|c| !is_word(c))
            .map_or(text.len(), |length| start + length);
        at = end;
        Some((start, &text[start..end]))
    })
}

/// From each `#[cfg(test)]` that stands before a `mod … {` to the brace that closes it.
fn test_modules(code: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (start, attribute) in code.match_indices("#[cfg(test)]") {
        let Some(open) = code[start..].find(['{', ';']).map(|length| start + length) else {
            break;
        };
        let item = &code[start + attribute.len()..open];
        let names: Vec<&str> = words(item).map(|(_, word)| word).collect();
        let is_module = matches!(names[..], [.., "mod", _]) && !item.contains('}');
        if code.as_bytes()[open] != b'{' || !is_module {
            continue;
        }
        let mut depth = 0_usize;
        let close = code[open..].char_indices().find_map(|(at, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0).then_some(open + at + 1)
        });
        found.push(start..close.unwrap_or(code.len()));
    }
    found
}

struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    code: Vec<u8>,
    comments: Vec<u8>,
    strings: Vec<(usize, String)>,
}

impl Lexer<'_> {
    fn run(&mut self) {
        while self.at < self.text.len() {
            match self.text[self.at..] {
                [b'/', b'/', ..] => self.line_comment(),
                [b'/', b'*', ..] => self.block_comment(),
                [b'"', ..] => self.string(),
                [b'r', b'"' | b'#', ..] | [b'b', b'r', b'"' | b'#', ..] if self.begins_word() => {
                    self.raw_string();
                }
                [b'\'', ..] => self.quote(),
                [byte, ..] => {
                    self.code[self.at] = byte;
                    self.at += 1;
                }
                [] => return,
            }
        }
    }

    /// `r` and `br` may also end an identifier.
    fn begins_word(&self) -> bool {
        let before = self.at.checked_sub(1).map(|before| self.text[before]);
        before.is_none_or(|byte| !byte.is_ascii_alphanumeric() && byte != b'_')
    }

    fn comment(&mut self, end: usize) {
        self.comments[self.at..end].copy_from_slice(&self.text[self.at..end]);
        self.at = end;
    }

    fn line_comment(&mut self) {
        let length = self.text[self.at..].iter().position(|byte| *byte == b'\n');
        self.comment(length.map_or(self.text.len(), |length| self.at + length));
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        let mut end = self.at;
        while end < self.text.len() {
            match self.text[end..] {
                [b'/', b'*', ..] => {
                    depth += 1;
                    end += 2;
                }
                [b'*', b'/', ..] => {
                    depth -= 1;
                    end += 2;
                    if depth == 0 {
                        break;
                    }
                }
                _ => end += 1,
            }
        }
        self.comment(end);
    }

    fn string(&mut self) {
        let start = self.at + 1;
        let mut end = start;
        while end < self.text.len() && self.text[end] != b'"' {
            end += if self.text[end] == b'\\' { 2 } else { 1 };
        }
        self.end_string(start, end.min(self.text.len()), 1);
    }

    fn raw_string(&mut self) {
        let prefix = if self.text[self.at] == b'b' { 2 } else { 1 };
        let after = &self.text[self.at + prefix..];
        let hashes = after.iter().take_while(|byte| **byte == b'#').count();
        if after.get(hashes) != Some(&b'"') {
            // A raw identifier.
            self.code[self.at] = self.text[self.at];
            self.at += 1;
            return;
        }
        let start = self.at + prefix + hashes + 1;
        let mut close = vec![b'"'];
        close.resize(hashes + 1, b'#');
        let length = self.text[start..]
            .windows(close.len())
            .position(|bytes| bytes == close);
        let end = length.map_or(self.text.len(), |length| start + length);
        self.end_string(start, end, close.len());
    }

    fn end_string(&mut self, start: usize, end: usize, close: usize) {
        let content = String::from_utf8_lossy(&self.text[start..end]).into_owned();
        self.strings.push((start, content));
        self.at = (end + close).min(self.text.len());
    }

    /// A character, or a lifetime.
    fn quote(&mut self) {
        let after = &self.text[self.at + 1..];
        let length = match after {
            [b'\\', ..] => after
                .iter()
                .skip(2)
                .position(|byte| *byte == b'\'')
                .map(|at| at + 2),
            // A character of up to four bytes.
            _ => after
                .iter()
                .take(5)
                .skip(1)
                .position(|byte| *byte == b'\'')
                .map(|at| at + 1),
        };
        let is_character = match (after, length) {
            (_, None) => false,
            ([b'\\', ..], Some(_)) => true,
            // `'a, 'b'` does not occur: a lifetime is a word, a character is one letter.
            ([first, ..], Some(length)) => length == 1 || !first.is_ascii(),
            ([], Some(_)) => false,
        };
        match length.filter(|_| is_character) {
            Some(length) => self.at += length + 2,
            None => {
                self.code[self.at] = b'\'';
                self.at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_no_code() {
        let source = Source::parse(
            "// sleep\n/* a /* sleep */ b */ let x = \"sleep \\\" sleep\"; let y = r#\"sleep \" \"#; \
             let z = '\"'; let w = b'\\''; run::<'a>(z)",
        );
        let words: Vec<&str> = source.words().map(|(_, word)| word).collect();
        assert!(!words.contains(&"sleep"), "{words:?}");
        assert!(words.contains(&"run"), "{words:?}");
        assert_eq!(source.comments.matches("sleep").count(), 2);
        let strings: Vec<&str> = source
            .strings
            .iter()
            .map(|(_, text)| text.as_str())
            .collect();
        assert_eq!(strings, ["sleep \\\" sleep", "sleep \" "]);
    }

    #[test]
    fn a_test_module_ends_at_its_own_brace() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { \"}\"; }\n}\nfn c() {}\n";
        let source = Source::parse(text);
        assert!(source.has_function("a") && source.has_function("c"));
        assert!(!source.has_function("b"));
        assert_eq!(source.lines_without_tests(), 2);
    }

    #[test]
    fn a_test_only_field_is_no_module() {
        let source = Source::parse("struct A { #[cfg(test)] x: u8 }\nmod m { fn f() {} }\n");
        assert!(source.has_function("f"));
    }
}
