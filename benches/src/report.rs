//! What a run found: for programs as JSON, for people as a line.

use std::fmt;

use serde::Serialize;

use crate::latency::LatencySummary;

/// The outcome of one run. Counts and costs are those of the measured phase, except where they say
/// otherwise.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Of the workload.
    pub name: String,
    /// Messages published.
    pub messages: u64,
    /// Deliveries, repetitions left out.
    pub deliveries: u64,
    /// From the first message to the last acknowledgement, seconds.
    pub seconds: f64,
    /// From the first message to the last delivery, seconds.
    pub seconds_to_last_delivery: f64,
    /// Acknowledged messages per second.
    pub messages_per_s: f64,
    /// Deliveries per second.
    pub deliveries_per_s: f64,
    /// What the brokers' processes used.
    pub broker: Option<BrokerCost>,
    /// CPU time of this program per message, microseconds.
    pub load_cpu_us_per_message: f64,
    /// From due to acknowledged.
    pub acknowledged_after: Option<LatencySummary>,
    /// From due to delivered.
    pub delivered_after: Option<LatencySummary>,
    /// The longest time in which a publisher got no acknowledgement, milliseconds.
    pub publisher_pause_ms: f64,
    /// The longest time in which a subscriber got no delivery, milliseconds.
    pub subscriber_pause_ms: f64,
    /// What was checked.
    pub checked: Checked,
}

/// The brokers' share.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BrokerCost {
    /// CPU time per message, microseconds, all processes together.
    pub cpu_us_per_message: f64,
    /// CPU time per delivery, microseconds.
    pub cpu_us_per_delivery: f64,
    /// How many CPUs they kept busy.
    pub cpus: f64,
    /// Resident memory at the end, bytes, all processes together.
    pub resident_bytes: u64,
    /// Per node that was asked.
    pub fsyncs_per_1000_acknowledged: Vec<f64>,
}

/// The check of every message of the run, warm-up included.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Checked {
    /// Messages sent.
    pub sent: u64,
    /// Messages never acknowledged.
    pub unacknowledged: u64,
    /// Messages that the broker refused by reason code.
    pub refused: u64,
    /// Deliveries that did not come.
    pub lost: u64,
    /// The first of them.
    pub first_lost: Option<String>,
    /// Deliveries that came more than once.
    pub repeated: u64,
    /// Of them, those without DUP.
    pub repeated_without_dup: u64,
    /// Deliveries out of order.
    pub late: u64,
    /// Connections that were lost.
    pub connections_lost: u64,
    /// Resumptions that found no session.
    pub sessions_lost: u32,
    /// What a connection ended with, the last one.
    pub last_error: Option<String>,
}

impl Checked {
    /// Whether each message was delivered exactly once and in order, without any trouble.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.lost == 0
            && self.unacknowledged == 0
            && self.refused == 0
            && self.repeated == 0
            && self.late == 0
            && self.connections_lost == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} msgs, {:.0} msg/s, {:.0} deliveries/s",
            self.name, self.messages, self.messages_per_s, self.deliveries_per_s
        )?;
        if let Some(broker) = &self.broker {
            write!(
                f,
                "; broker {:.1} us CPU/msg, {:.2} us/delivery, {:.2} CPUs, {:.0} MiB",
                broker.cpu_us_per_message,
                broker.cpu_us_per_delivery,
                broker.cpus,
                mib(broker.resident_bytes),
            )?;
            if !broker.fsyncs_per_1000_acknowledged.is_empty() {
                write!(f, ", fsyncs/1000")?;
                for fsyncs in &broker.fsyncs_per_1000_acknowledged {
                    write!(f, " {fsyncs:.1}")?;
                }
            }
        }
        write!(f, "; load {:.1} us/msg", self.load_cpu_us_per_message)?;
        let latencies = [
            ("ack", &self.acknowledged_after),
            ("e2e", &self.delivered_after),
        ];
        for (what, latency) in latencies {
            if let Some(latency) = latency {
                write!(
                    f,
                    "; {what} p50 {} p99 {} max {} us",
                    latency.p50_us, latency.p99_us, latency.max_us
                )?;
            }
        }
        write!(
            f,
            "; pause pub {:.0} sub {:.0} ms",
            self.publisher_pause_ms, self.subscriber_pause_ms
        )?;
        write!(f, "; {}", self.checked)
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return write!(f, "all {} delivered once and in order", self.sent);
        }
        write!(
            f,
            "of {} sent: {} unacknowledged, {} refused, {} deliveries lost, {} repeated ({} without DUP), {} out of order, {} connections lost, {} sessions lost",
            self.sent,
            self.unacknowledged,
            self.refused,
            self.lost,
            self.repeated,
            self.repeated_without_dup,
            self.late,
            self.connections_lost,
            self.sessions_lost,
        )?;
        if let Some(first) = &self.first_lost {
            write!(f, "; first lost: {first}")?;
        }
        if let Some(error) = &self.last_error {
            write!(f, "; last error: {error}")?;
        }
        Ok(())
    }
}

/// For people.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

/// `count` per `unit`, 0 when there is no unit.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
pub fn per(count: u64, unit: u64) -> f64 {
    if unit == 0 {
        0.0
    } else {
        count as f64 / unit as f64
    }
}

/// `count` per second of `ns`.
#[must_use]
pub fn per_s(count: u64, ns: u64) -> f64 {
    per(count, ns) * 1e9
}
