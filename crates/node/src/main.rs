//! The binary `holdfast`: arguments → configuration → node.

use std::process::ExitCode;

use clap::Parser as _;
use node::cli::{self, Arguments, Command, DemoArguments, RunArguments};
use node::{StartError, demo, logging};

/// Also RocksDB's. It keeps the pages that a batch or a memtable gave back for the next one, where the
/// system's would return them to the kernel, to be cleared again.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let (command, format) = Arguments::parse().command();
    let outcome = match command {
        Command::Run(arguments) => run(&arguments),
        Command::Demo(arguments) => run_demo(&arguments),
        Command::Config(arguments) => cli::config(&arguments, format),
        Command::HashPassword(arguments) => cli::hash_password(&arguments, format),
        Command::Version => {
            cli::print_version(format);
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::report(&error),
    }
}

/// Runs one node until a signal stops it.
fn run(arguments: &RunArguments) -> Result<(), StartError> {
    let loaded = arguments.load()?;
    logging::init(&loaded.config.log);
    arguments.watch_stdin();
    let stopped = runtime()?.block_on(node::run(loaded.config));
    stopped.map_err(|error| error.located(&loaded.entries))
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
