//! `holdfast-load`: one run against brokers that are there already.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use benches::error::LoadError;
use benches::run::run;
use benches::workload::{Kill, Workload};
use clap::{Parser, ValueEnum};
use codec::{ProtocolVersion, Qos};

/// Puts load on MQTT brokers, checks every delivery, and tells what it cost.
#[derive(Debug, Parser)]
#[command(name = "holdfast-load")]
struct Arguments {
    /// Where publishers connect, in turn.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:1883")]
    publish_to: Vec<SocketAddr>,
    /// Where subscribers connect, in turn; default: as publishers, one further.
    #[arg(long, value_delimiter = ',')]
    subscribe_to: Vec<SocketAddr>,
    /// For the report.
    #[arg(long, default_value = "load")]
    name: String,
    /// Protocol version.
    #[arg(long, value_enum, default_value = "5.0")]
    mqtt: Version,
    /// Of publications and subscriptions.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Sessions that outlive their connections.
    #[arg(long)]
    persistent: bool,
    /// Clients that publish.
    #[arg(long, default_value_t = 10)]
    publishers: u32,
    /// Clients that subscribe.
    #[arg(long, default_value_t = 10)]
    subscribers: u32,
    /// Topics; client i uses topic i % TOPICS. 1 publisher and 1 topic: fan-out; 1 subscriber and
    /// 1 topic: fan-in.
    #[arg(long, default_value_t = 10)]
    topics: u32,
    /// Bytes of each payload.
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Unacknowledged publications per publisher; at QoS 0 undelivered ones.
    #[arg(long, default_value_t = 20)]
    window: u16,
    /// Messages per second of all publishers together; without: as the window allows. Latencies
    /// count from when a message was due.
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds of load before the measurement.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Seconds of publishing in the measurement.
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Seconds that the last acknowledgements and deliveries may take.
    #[arg(long, default_value_t = 30.0)]
    drain: f64,
    /// Processes whose CPU time and memory is measured.
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,
    /// HTTP addresses of Holdfast's nodes, to count fsyncs.
    #[arg(long, value_delimiter = ',')]
    admin: Vec<SocketAddr>,
    /// A process to kill with SIGKILL.
    #[arg(long)]
    kill: Option<u32>,
    /// When, seconds after the start of the measurement.
    #[arg(long, default_value_t = 2.0)]
    kill_after: f64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Version {
    #[value(name = "3.1.1")]
    V311,
    #[value(name = "5.0")]
    V5,
}

impl Arguments {
    fn workload(self) -> Workload {
        let mut subscribe_to = self.subscribe_to;
        if subscribe_to.is_empty() {
            subscribe_to.clone_from(&self.publish_to);
            subscribe_to.rotate_left(1);
        }
        Workload {
            version: match self.mqtt {
                Version::V311 => ProtocolVersion::V311,
                Version::V5 => ProtocolVersion::V5,
            },
            qos: Qos::try_from(self.qos).unwrap_or_default(),
            persistent: self.persistent,
            publishers: self.publishers,
            subscribers: self.subscribers,
            topics: self.topics,
            payload_bytes: self.payload,
            window: self.window,
            rate_per_s: self.rate,
            warm_up: Duration::from_secs_f64(self.warm_up.max(0.0)),
            duration: Duration::from_secs_f64(self.duration.max(0.0)),
            drain_max: Duration::from_secs_f64(self.drain.max(0.0)),
            pids: self.pid,
            admins: self.admin,
            kill: self.kill.map(|pid| Kill {
                pid,
                after: Duration::from_secs_f64(self.kill_after.max(0.0)),
            }),
            ..Workload::new(&self.name, self.publish_to, subscribe_to)
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "the report is what this program is for"
)]
fn execute(arguments: Arguments) -> Result<(), LoadError> {
    let json = arguments.json;
    let report = run(&arguments.workload())?;
    if json {
        let text = serde_json::to_string_pretty(&report);
        println!("{}", text.unwrap_or_else(|error| error.to_string()));
    } else {
        println!("{report}");
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a command line program")]
fn main() -> ExitCode {
    match execute(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast-load: {error}");
            ExitCode::FAILURE
        }
    }
}
