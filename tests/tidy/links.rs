//! Relative links in Markdown lead to a file, and to a heading that it has.

use crate::repository::{Repository, place};

pub(crate) fn check(repository: &Repository) -> Vec<String> {
    let mut violations = Vec::new();
    for (path, text) in repository.ending(".md") {
        let prose = prose(text);
        for (at, target) in targets(&prose) {
            if let Err(reason) = resolve(repository, path, target) {
                violations.push(format!("{}: {target}: {reason}", place(path, text, at)));
            }
        }
    }
    violations
}

/// The text with code blanked; offsets are unchanged.
fn prose(text: &str) -> String {
    let mut prose = String::with_capacity(text.len());
    let mut in_block = false;
    for line in text.split_inclusive('\n') {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        let mut in_span = false;
        for c in line.chars() {
            in_span ^= c == '`';
            let is_code = in_block || is_fence || in_span;
            // One blank for each byte.
            match c {
                '\n' => prose.push('\n'),
                c if is_code => prose.extend(std::iter::repeat_n(' ', c.len_utf8())),
                c => prose.push(c),
            }
        }
    }
    prose
}

/// `](TARGET)` with the offset of the target.
fn targets(prose: &str) -> Vec<(usize, &str)> {
    let starts = prose.match_indices("](").map(|(at, open)| at + open.len());
    starts
        .filter_map(|start| {
            let length = prose[start..].find(')')?;
            let target = prose[start..start + length]
                .split(' ')
                .next()
                .unwrap_or_default();
            Some((start, target))
        })
        .collect()
}

fn resolve(repository: &Repository, from: &str, target: &str) -> Result<(), String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(());
    }
    let (file, anchor) = match target.split_once('#') {
        Some((file, anchor)) => (file, Some(anchor)),
        None => (target, None),
    };
    let path = if file.is_empty() {
        from.to_owned()
    } else {
        join(from, file)?
    };
    if !repository.has(&path) {
        return Err(format!("{path} does not exist"));
    }
    let Some(anchor) = anchor else { return Ok(()) };
    let text = repository.text(&path).ok_or("a folder has no headings")?;
    if headings(text).any(|heading| heading == anchor) {
        return Ok(());
    }
    Err(format!("{path} has no heading #{anchor}"))
}

/// The target's path from the root.
fn join(from: &str, file: &str) -> Result<String, String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in file.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop().ok_or("leads out of the repository")?),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Headings as anchors name them: lower case, no punctuation, `-` for a blank.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let lines = text.lines().filter(|line| line.starts_with('#'));
    lines.map(|line| {
        let title = line
            .trim_start_matches('#')
            .trim()
            .to_lowercase()
            .replace(' ', "-");
        title
            .chars()
            .filter(|c| c.is_alphanumeric() || "-_".contains(*c))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(text: &str) -> Vec<String> {
        check(&Repository::of(&[
            ("docs/a.md", text),
            ("docs/b.md", "# G1: Durable, then\n"),
            ("src/x.rs", ""),
        ]))
    }

    #[test]
    fn good_links_pass_and_code_has_none() {
        let text = "[b](b.md) [h](b.md#g1-durable-then) [x](../src/x.rs) [src](../src) [w](https://a.b/c)\n\
                    `[no](no.md)` … `q`\n```sh\n[no](no.md)\n```\n# Own\n[own](#own)\n";
        assert_eq!(violations(text), Vec::<String>::new());
    }

    #[test]
    fn dead_links_are_found_with_their_line() {
        for text in [
            "\n[b](c.md)",
            "\n[b](b.md#gone)",
            "\n[b](/src/x.rs)",
            "\n[b](../../x)",
            "\n[b](#gone)",
        ] {
            let found = violations(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].starts_with("docs/a.md:2: "), "{found:?}");
        }
    }
}
