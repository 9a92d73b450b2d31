//! `holdfast-chaos`: torments a compose cluster and tells whether it kept its promises; `make chaos`.
//!
//! Exit codes: 0 nothing lost and nothing repeated, 1 the verdict is bad, 2 it could not be run.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use testkit::chaos::{Options, run};

const USAGE: &str = "\
Kills, pauses and cuts off the containers of a compose cluster in the middle of QoS 1 and QoS 2
handshakes, and tells whether a message was lost or repeated. Start the cluster first, as
deploy/compose/README.md says. Only for a cluster whose traffic may be disturbed.

Usage: holdfast-chaos [--seconds 180] [--project NAME] [--username U --password-file F] [--seed N] [--json]

Exit codes: 0 nothing lost and nothing repeated, 1 the verdict is bad, 2 it could not be run.
";
const SECONDS: u64 = 180;

struct Arguments {
    options: Options,
    json: bool,
}

/// `None`: help is wanted.
fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut options = Options {
        length: Duration::from_secs(SECONDS),
        seed: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |since| u64::from(since.subsec_nanos())),
        ..Options::default()
    };
    let (mut json, mut user, mut password) = (false, None, None);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| {
            text.parse::<u64>()
                .map_err(|error| format!("{text}: {error}"))
        };
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--json" => json = true,
            "--project" => options.project = Some(value()?),
            "--seconds" => options.length = Duration::from_secs(number(value()?)?),
            "--seed" => options.seed = number(value()?)?,
            "--username" => user = Some(value()?),
            "--password-file" => {
                let file = value()?;
                let text =
                    std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
                password = Some(text.trim_end_matches('\n').to_owned());
            }
            other => return Err(format!("{other} is not known")),
        }
    }
    options.credentials = match (user, password) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err("--username and --password-file go together".to_owned());
        }
    };
    Ok(Some(Arguments { options, json }))
}

/// A reader that is gone loses only the text.
fn say(mut to: impl std::io::Write, text: &str) {
    drop(writeln!(to, "{text}"));
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            say(std::io::stdout(), USAGE);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            say(
                std::io::stderr(),
                &format!("holdfast-chaos: {error}\n\n{USAGE}"),
            );
            return ExitCode::from(2);
        }
    };
    let Arguments { options, json } = arguments;
    say(
        std::io::stderr(),
        &format!(
            "chaos for {} s, seed {}",
            options.length.as_secs(),
            options.seed
        ),
    );
    match run(&options, |line| say(std::io::stderr(), &line)).await {
        Ok(verdict) => {
            let text = if json {
                verdict.json()
            } else {
                verdict.to_string()
            };
            say(std::io::stdout(), &text);
            ExitCode::from(u8::from(!verdict.reasons().is_empty()))
        }
        Err(error) => {
            say(std::io::stderr(), &format!("holdfast-chaos: {error}"));
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<Arguments>, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_read_or_named() {
        let Ok(Some(arguments)) = parsed("--seconds 5 --json --project p --seed 9") else {
            panic!("they are right")
        };
        assert_eq!(arguments.options.length, Duration::from_secs(5));
        assert_eq!(arguments.options.project.as_deref(), Some("p"));
        assert_eq!((arguments.options.seed, arguments.json), (9, true));
        for (wrong, named) in [
            ("--second 5", "--second is not known"),
            ("--seconds", "needs a value"),
            ("--seconds x", "x:"),
            ("--username u", "go together"),
        ] {
            let error = parsed(wrong).err().unwrap_or_default();
            assert!(error.contains(named), "{wrong}: {error}");
        }
    }
}
