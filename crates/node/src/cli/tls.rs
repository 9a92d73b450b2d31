//! `holdfast tls`: certificates.

use clap::{Args, Subcommand};
use serde_json::json;

use super::api::ApiArguments;
use super::{AnswerFormat, example, say};
use crate::error::StartError;

/// Flags of `holdfast tls`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast tls reload"))]
pub struct TlsArguments {
    #[command(subcommand)]
    command: TlsCommand,
}

#[derive(Debug, Subcommand)]
enum TlsCommand {
    /// Have a node read its certificates again; open connections stay.
    #[command(after_help = example("holdfast tls reload --url http://127.0.0.1:8081"))]
    Reload {
        #[command(flatten)]
        api: ApiArguments,
    },
}

/// Carries out `holdfast tls …`.
///
/// # Errors
/// The node cannot be reached, or a certificate is wrong; then the old one stays.
pub fn tls(arguments: &TlsArguments, format: AnswerFormat) -> Result<(), StartError> {
    let TlsCommand::Reload { api } = &arguments.command;
    let answer = api.api()?.post("/api/v1/tls/reload", &json!({}))?;
    match format {
        AnswerFormat::Text => say("the certificates are read again"),
        AnswerFormat::Json => say(&answer.to_string()),
    }
    Ok(())
}
