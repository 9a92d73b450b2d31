//! Files of credentials: how they are read, and what is said of one that is wrong. Never what stands in
//! it.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Why a file of credentials is not taken.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It cannot be read.
    #[error("{key}: cannot read {}: {source}", .path.display())]
    Unreadable {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A line is not what it must be.
    #[error("{key}: {}:{line}: {problem}", .path.display())]
    Line {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong, and what is expected.
        problem: &'static str,
    },
    /// The file as a whole is not what it must be.
    #[error("{key}: {}: {problem}", .path.display())]
    Content {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is expected.
        problem: String,
    },
}

/// Stands for what a client was checked against: as long as a reload leaves that as it is, the client
/// stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a line, or of a key.
    pub(super) fn of(text: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(text).into())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A file, and the key that names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct CredentialsFile<'a> {
    pub(super) key: &'static str,
    pub(super) path: &'a Path,
}

impl CredentialsFile<'_> {
    /// All of it.
    pub(super) fn read(&self) -> Result<Vec<u8>, CredentialsError> {
        std::fs::read(self.path).map_err(|source| CredentialsError::Unreadable {
            key: self.key,
            path: self.path.to_owned(),
            source,
        })
    }

    /// What is wrong with it.
    pub(super) fn wrong(&self, problem: impl Into<String>) -> CredentialsError {
        CredentialsError::Content {
            key: self.key,
            path: self.path.to_owned(),
            problem: problem.into(),
        }
    }

    /// Reads it line by line; empty ones and those that begin with `#` say nothing.
    pub(super) fn each_line(
        &self,
        take: impl FnMut(&str) -> Result<(), &'static str>,
    ) -> Result<(), CredentialsError> {
        let text = String::from_utf8(self.read()?).map_err(|_not_text| self.wrong("not UTF-8"))?;
        each_line(&text, take).map_err(|(line, problem)| CredentialsError::Line {
            key: self.key,
            path: self.path.to_owned(),
            line,
            problem,
        })
    }
}

/// Takes each line that says something; the number of the first that is wrong.
pub(super) fn each_line(
    text: &str,
    mut take: impl FnMut(&str) -> Result<(), &'static str>,
) -> Result<(), (usize, &'static str)> {
    for (number, line) in (1_usize..).zip(text.lines()) {
        let line = line.trim_end();
        if !line.is_empty() && !line.starts_with('#') {
            take(line).map_err(|problem| (number, problem))?;
        }
    }
    Ok(())
}
