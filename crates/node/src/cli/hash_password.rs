//! `holdfast hash-password`: from a password to the line of a credentials file.

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, Write as _};
use std::path::PathBuf;

use clap::Args;

use super::{AnswerFormat, say};
use crate::auth::ScramUser;
use crate::error::StartError;

/// Flags of `holdfast hash-password`.
#[derive(Debug, Args)]
#[command(after_help = super::example("holdfast hash-password --scram --user alice --append scram.txt"))]
pub struct HashPasswordArguments {
    /// For auth.scram_file (enhanced authentication by SCRAM-SHA-256). Other kinds are not available in
    /// this version.
    #[arg(long, required = true)]
    scram: bool,
    /// The user; no name, no line for a file, but only what follows the name.
    #[arg(long)]
    user: Option<String>,
    /// Append the line to this file instead of printing it.
    #[arg(long, value_name = "FILE", requires = "user")]
    append: Option<PathBuf>,
}

/// Carries out `holdfast hash-password`. The password is the first line of standard input, so that it is
/// neither in the list of processes nor in a shell's history.
///
/// # Errors
/// There is no password, the name cannot be one, or the file cannot be written.
pub fn hash_password(
    arguments: &HashPasswordArguments,
    format: AnswerFormat,
) -> Result<(), StartError> {
    let mut password = String::new();
    io::stdin()
        .lock()
        .read_line(&mut password)
        .map_err(|error| StartError::failed("cannot read the password", error))?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        let problem = "the password is empty: give it as the first line of standard input";
        return Err(StartError::Usage(problem.to_owned()));
    }
    let hash = ScramUser::from_password(password).to_string();
    let line = match &arguments.user {
        Some(user) if is_name(user) => format!("{user}:{hash}"),
        Some(_) => {
            let problem =
                "--user: a name has no line breaks, does not begin with # and is not empty";
            return Err(StartError::Usage(problem.to_owned()));
        }
        None => hash,
    };
    if let Some(path) = &arguments.append {
        let file = OpenOptions::new().create(true).append(true).open(path);
        return file
            .and_then(|mut file| writeln!(file, "{line}"))
            .map_err(|error| {
                StartError::failed(format!("cannot write {}", path.display()), error)
            });
    }
    match format {
        AnswerFormat::Text => say(&line),
        AnswerFormat::Json => say(&serde_json::json!({ "line": line }).to_string()),
    }
    Ok(())
}

fn is_name(user: &str) -> bool {
    !user.is_empty() && !user.starts_with('#') && !user.contains(['\n', '\r'])
}
