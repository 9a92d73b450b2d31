//! Commands that the contract names and a later version has: they say so.

use clap::{Args, Subcommand};

use super::api::ApiArguments;
use super::{AnswerFormat, example, status};
use crate::error::StartError;

/// Whatever comes after the command.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast members list"))]
pub struct LaterArguments {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Flags of `holdfast members`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast members list"))]
pub struct MembersArguments {
    #[command(subcommand)]
    command: MembersCommand,
}

#[derive(Debug, Subcommand)]
enum MembersCommand {
    /// List the nodes.
    #[command(after_help = example("holdfast members list"))]
    List {
        #[command(flatten)]
        api: ApiArguments,
    },
    /// Not available in this version.
    Add(LaterArguments),
    /// Not available in this version.
    Remove(LaterArguments),
    /// Not available in this version.
    Promote(LaterArguments),
}

/// Carries out `holdfast members …`.
///
/// # Errors
/// The node cannot be reached, or the command is of a later version.
pub fn members(arguments: &MembersArguments, format: AnswerFormat) -> Result<(), StartError> {
    match &arguments.command {
        MembersCommand::List { api } => status::members(api, format),
        MembersCommand::Add(_) => later("members add"),
        MembersCommand::Remove(_) => later("members remove"),
        MembersCommand::Promote(_) => later("members promote"),
    }
}

/// Refuses a command of a later version.
///
/// # Errors
/// Always: exit code 2.
pub fn later(command: &str) -> Result<(), StartError> {
    let problem = format!("holdfast {command}: not available in this version");
    Err(StartError::Usage(problem))
}
