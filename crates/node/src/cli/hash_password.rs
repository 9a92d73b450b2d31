//! `holdfast hash-password`: from a password to the line of a credentials file.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use clap::Args;

use super::{AnswerFormat, say};
use crate::auth::{self, ScramUser};
use crate::error::StartError;

/// Nobody but its owner reads a new file.
const NEW_FILE_MODE: u32 = 0o600;

/// Flags of `holdfast hash-password`.
#[derive(Debug, Args)]
#[command(after_help = super::example("holdfast hash-password --user alice --append /etc/holdfast/passwd"))]
pub struct HashPasswordArguments {
    /// For auth.scram_file (enhanced authentication by SCRAM-SHA-256) instead of auth.password_file.
    #[arg(long)]
    scram: bool,
    /// The user; no name, no line for a file, but only what follows the name.
    #[arg(long)]
    user: Option<String>,
    /// Put the line into this file instead of printing it; one that the user has there is replaced.
    #[arg(long, value_name = "FILE", requires = "user")]
    append: Option<PathBuf>,
}

/// Carries out `holdfast hash-password`. The password is asked for on a terminal, and else the first line
/// of standard input: it is neither in the list of processes nor in a shell's history.
///
/// # Errors
/// There is no password, the name cannot be one, or the file cannot be written.
pub fn hash_password(
    arguments: &HashPasswordArguments,
    format: AnswerFormat,
) -> Result<(), StartError> {
    let user = arguments.user.as_deref();
    if user.is_some_and(|user| !is_name(user)) {
        let problem = "--user: a name has no line breaks and no \":$\", does not begin with # and is not empty";
        return Err(StartError::Usage(problem.to_owned()));
    }
    let password =
        read_password().map_err(|error| StartError::failed("cannot read the password", error))?;
    if password.is_empty() {
        let problem = "the password is empty: give it as the first line of standard input";
        return Err(StartError::Usage(problem.to_owned()));
    }
    let hash = if arguments.scram {
        ScramUser::from_password(&password).to_string()
    } else {
        auth::hash_password(&password)
            .map_err(|error| StartError::failed("cannot hash the password", error.to_string()))?
    };
    let line = user.map_or_else(|| hash.clone(), |user| format!("{user}:{hash}"));
    if let (Some(path), Some(user)) = (&arguments.append, user) {
        return put(path, user, &line).map_err(|error| {
            StartError::failed(format!("cannot write {}", path.display()), error)
        });
    }
    match format {
        AnswerFormat::Text => say(&line),
        AnswerFormat::Json => say(&serde_json::json!({ "line": line }).to_string()),
    }
    Ok(())
}

fn read_password() -> io::Result<String> {
    if io::stdin().is_terminal() {
        return rpassword::prompt_password("Password: ");
    }
    let mut password = String::new();
    io::stdin().lock().read_line(&mut password)?;
    let length = password.trim_end_matches(['\r', '\n']).len();
    password.truncate(length);
    Ok(password)
}

fn is_name(user: &str) -> bool {
    !user.is_empty()
        && !user.starts_with('#')
        && !user.contains(['\n', '\r'])
        && !user.contains(":$")
}

/// Puts the user's line into the file, in the place of the one that is there. Who reads the file
/// meanwhile sees the old content or the new one.
fn put(path: &Path, user: &str, line: &str) -> io::Result<()> {
    // Behind a symbolic link is the file that is meant.
    let path = path.canonicalize().unwrap_or_else(|_new| path.to_owned());
    let (old, before) = match fs::read_to_string(&path) {
        Ok(old) => (old, Some(fs::metadata(&path)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (String::new(), None),
        Err(error) => return Err(error),
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let written = write(&new, &with_line(&old, user, line), before.as_ref())
        .and_then(|()| fs::rename(&new, &path));
    if written.is_err() {
        fs::remove_file(&new).ok();
    }
    written
}

/// With the mode, owner and group that the file had before: the broker must still be able to read it.
fn write(path: &Path, content: &str, before: Option<&fs::Metadata>) -> io::Result<()> {
    let mode = before.map_or(NEW_FILE_MODE, |before| before.permissions().mode());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    if let Some(before) = before {
        let now = file.metadata()?;
        if (before.uid(), before.gid()) != (now.uid(), now.gid()) {
            fchown(&file, Some(before.uid()), Some(before.gid()))?;
        }
    }
    file.write_all(content.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

/// The content with the user's line once.
fn with_line(old: &str, user: &str, line: &str) -> String {
    let is_of_user = |old: &str| {
        let hash = old
            .strip_prefix(user)
            .and_then(|rest| rest.strip_prefix(':'));
        hash.is_some_and(|hash| hash.starts_with('$') || hash.starts_with("SCRAM-SHA-256$"))
    };
    let mut content = String::with_capacity(old.len().saturating_add(line.len()));
    let mut is_there = false;
    for old in old.lines() {
        if !is_of_user(old) {
            content.push_str(old);
        } else if is_there {
            continue;
        } else {
            content.push_str(line);
            is_there = true;
        }
        content.push('\n');
    }
    if !is_there {
        content.push_str(line);
        content.push('\n');
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_replaced_where_it_stands_or_added_at_the_end() {
        let old = "# people\nalice:$6$a\nbob:$7$b\nalice:b:$6$c";
        for (user, expected) in [
            ("alice", "# people\nNEW\nbob:$7$b\nalice:b:$6$c\n"),
            ("alice:b", "# people\nalice:$6$a\nbob:$7$b\nNEW\n"),
            ("al", "# people\nalice:$6$a\nbob:$7$b\nalice:b:$6$c\nNEW\n"),
        ] {
            assert_eq!(with_line(old, user, "NEW"), expected, "{user}");
        }
        assert_eq!(with_line("", "alice", "NEW"), "NEW\n");
        assert_eq!(with_line("a:$1\nb:$2\na:$3\n", "a", "NEW"), "NEW\nb:$2\n");
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_new_one_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        put(&path, "alice", "alice:$x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), NEW_FILE_MODE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        put(&link, "bob", "bob:$y").unwrap();
        assert_eq!(mode(&path), 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "alice:$x\nbob:$y\n");
        // Another owner stays, where the one who changes the file may give it away.
        if std::os::unix::fs::chown(&path, None, Some(60)).is_ok() {
            put(&path, "bob", "bob:$y").unwrap();
            assert_eq!(fs::metadata(&path).unwrap().gid(), 60);
        }
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            2,
            "nothing is left behind"
        );
    }
}
