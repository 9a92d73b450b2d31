//! The binary `holdfast`: arguments → configuration → node.

use std::process::ExitCode;

use clap::Parser as _;
use node::cli::{self, AnswerFormat, Arguments, Command, DemoArguments, RunArguments};
use node::{StartError, demo, logging};

/// Also RocksDB's. It keeps the pages that a batch or a memtable gave back for the next one, where the
/// system's would return them to the kernel, to be cleared again.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let (command, format) = Arguments::parse().command();
    match carry_out(&command, format) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::report(&error),
    }
}

fn carry_out(command: &Command, format: AnswerFormat) -> Result<(), StartError> {
    match command {
        Command::Run(arguments) => run(arguments),
        Command::Demo(arguments) => run_demo(arguments),
        Command::Config(arguments) => cli::config(arguments, format),
        Command::Status(arguments) => cli::status(arguments, format),
        Command::Members(arguments) => cli::members(arguments, format),
        Command::Leader(arguments) => cli::leader(arguments, format),
        Command::Drain(arguments) => cli::drain(arguments, format),
        Command::Undrain(arguments) => cli::undrain(arguments, format),
        Command::Check(arguments) => cli::check(arguments, format),
        Command::Sessions(arguments) => cli::sessions(arguments, format),
        Command::Subscriptions(arguments) => cli::subscriptions(arguments, format),
        Command::Topics(arguments) => cli::topics(arguments, format),
        Command::Retained(arguments) => cli::retained(arguments, format),
        Command::Publish(arguments) => runtime()?.block_on(cli::publish(arguments, format)),
        Command::Subscribe(arguments) => runtime()?.block_on(cli::subscribe(arguments, format)),
        Command::HashPassword(arguments) => cli::hash_password(arguments, format),
        Command::Tls(arguments) => cli::tls(arguments, format),
        Command::Healthcheck(arguments) => cli::healthcheck(arguments, format),
        Command::Completions(arguments) => {
            cli::completions(arguments);
            Ok(())
        }
        Command::Version(_) => {
            cli::print_version(format);
            Ok(())
        }
        Command::Import(_) => cli::later("import"),
        Command::Trace(_) => cli::later("trace"),
        Command::Backup(_) => cli::later("backup"),
        Command::Recover(_) => cli::later("recover"),
    }
}

/// Runs one node until a signal stops it.
fn run(arguments: &RunArguments) -> Result<(), StartError> {
    let loaded = arguments.load()?;
    logging::init(&loaded.config.log);
    arguments.watch_stdin();
    let entries = loaded.entries.clone();
    let again = arguments.clone();
    let reread = Box::new(move || again.load());
    let stopped = runtime()?.block_on(node::run(loaded, reread));
    stopped.map_err(|error| error.located(&entries))
}

/// Runs a cluster of processes until a signal stops it.
fn run_demo(arguments: &DemoArguments) -> Result<(), StartError> {
    runtime()?.block_on(demo::run(arguments))
}

fn runtime() -> Result<tokio::runtime::Runtime, StartError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::failed("cannot start the async runtime", error))
}
