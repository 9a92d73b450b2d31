//! `holdfast tls`: certificates.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::api::ApiArguments;
use super::run::SourceArguments;
use super::table::table;
use super::{AnswerFormat, example, say};
use crate::calendar::rfc_3339;
use crate::error::StartError;
use crate::transport::{CheckedCertificates, check_certificates};

/// Flags of `holdfast tls`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast tls check --config holdfast.toml"))]
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
    /// Look at the certificates that a configuration names, as a node does at its start.
    ///
    /// Files, keys that fit, dates, the order of a chain, and for [cluster.tls] whether other nodes would
    /// accept it. 1: at least one is wrong; 2: the configuration is.
    #[command(after_help = example("holdfast tls check --config holdfast.toml"))]
    Check(SourceArguments),
}

/// Carries out `holdfast tls …`.
///
/// # Errors
/// `reload`: the node cannot be reached, or a certificate is wrong; then the old one stays. `check`: the
/// configuration or a certificate is wrong.
pub fn tls(arguments: &TlsArguments, format: AnswerFormat) -> Result<(), StartError> {
    match &arguments.command {
        TlsCommand::Reload { api } => reload(api, format),
        TlsCommand::Check(sources) => check(sources, format),
    }
}

fn reload(api: &ApiArguments, format: AnswerFormat) -> Result<(), StartError> {
    let answer = api.api()?.post("/api/v1/tls/reload", &json!({}))?;
    match format {
        AnswerFormat::Text => say("the certificates are read again"),
        AnswerFormat::Json => say(&answer.to_string()),
    }
    Ok(())
}

fn check(sources: &SourceArguments, format: AnswerFormat) -> Result<(), StartError> {
    let loaded = sources.load()?;
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let checked = check_certificates(&loaded, now);
    let problems: Vec<&str> = checked
        .iter()
        .flat_map(|checked| checked.problems.iter().map(String::as_str))
        .collect();
    match format {
        AnswerFormat::Json => {
            let listeners: Vec<Value> = checked.iter().map(as_json).collect();
            say(&json!({ "ok": problems.is_empty(), "listeners": listeners }).to_string());
        }
        AnswerFormat::Text if checked.is_empty() => {
            say("ok: no listener and no cluster port has a certificate");
        }
        AnswerFormat::Text => print(&checked, problems.is_empty()),
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(StartError::Refused(problems.join("\n")))
    }
}

fn as_json(checked: &CheckedCertificates) -> Value {
    let certificates: Vec<Value> = checked
        .shown
        .iter()
        .map(|shown| {
            let (from, until) = shown.validity;
            json!({
                "key": shown.key,
                "name": shown.name,
                "not_before": day(from),
                "not_after": day(until),
                "days_left": shown.days_left,
            })
        })
        .collect();
    json!({
        "listener": checked.listener,
        "certificates": certificates,
        "problems": checked.problems,
        "warnings": checked.warnings,
    })
}

fn print(checked: &[CheckedCertificates], is_ok: bool) {
    let mut rows = Vec::new();
    for listener in checked {
        for shown in &listener.shown {
            rows.push(vec![
                listener.listener.clone(),
                shown.key.clone(),
                shown.name.clone(),
                day(shown.validity.1),
                shown.days_left.to_string(),
            ]);
        }
    }
    let headings = ["LISTENER", "KEY", "NAME", "NOT AFTER", "DAYS LEFT"];
    say(&table(&headings, &rows));
    for warning in checked.iter().flat_map(|checked| &checked.warnings) {
        say(&format!("warning: {warning}"));
    }
    if is_ok {
        say("ok");
    }
}

/// A moment since 1970; one before that shows as 1970.
fn day(seconds: i64) -> String {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    rfc_3339(SystemTime::UNIX_EPOCH + since)
}
