//! Clients that take their time: each is cut off when its time is over, no sooner and not much later.
//! All of them wait side by side.

use std::net::SocketAddr;
use std::time::Duration;

use codec::ProtocolVersion;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::known;
use crate::notation::Scene;
use crate::row::{CLOSED, Reactions, choose};
use crate::socket::{Came, PATIENCE, Socket};

/// `mqtt.connect_timeout` of the brokers of this test.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// One and a half times the Keep Alive of one second [MQTT-3.1.2-22].
const KEEP_ALIVE: Duration = Duration::from_millis(1_500);
/// A timer of a busy machine may be late.
const LATE_MAX: Duration = Duration::from_secs(3);
/// A timer must not be early, but for the time between two clocks' looks.
const EARLY_MAX: Duration = Duration::from_millis(100);

/// How a client sends its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// All at once, then nothing.
    ThenSilent,
    /// All at once, then it closes its half.
    ThenEnd,
    /// One byte, this much later the next one, over and over.
    Drip(Duration),
}

/// When the connection must have been closed, counted from its last complete packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    ConnectTimeout,
    KeepAlive,
    Immediately,
}

/// Name, whether after a CONNECT with Keep Alive 1, bytes, pace, cut.
type SlowRow = (&'static str, bool, &'static str, Pace, Cut);

const DRIP: Pace = Pace::Drip(Duration::from_millis(150));

#[rustfmt::skip]
const ROWS: &[SlowRow] = &[
    ("a client that never says a word", false, "", Pace::ThenSilent, Cut::ConnectTimeout),
    ("a client that leaves without a word", false, "", Pace::ThenEnd, Cut::Immediately),
    ("CONNECT, one byte at a time", false, "10 | s'MQTT' LEVEL 02 003C {} s'a-slow-client-with-a-long-name'", DRIP, Cut::ConnectTimeout),
    ("a CONNECT of 1 MiB, one byte at a time", false, "10 F0FF3F s'MQTT' LEVEL 02 003C {} s'a-slow-client-with-a-long-name'", DRIP, Cut::ConnectTimeout),
    ("the first byte of CONNECT", false, "10", Pace::ThenSilent, Cut::ConnectTimeout),
    ("half the length of CONNECT", false, "10 80", Pace::ThenSilent, Cut::ConnectTimeout),
    ("CONNECT without its last byte", false, "10 12 s'MQTT' LEVEL 02 003C {} 0009 '1234'", Pace::ThenSilent, Cut::ConnectTimeout),
    ("a CONNECT of 1 MiB that does not come", false, "10 F0FF3F", Pace::ThenSilent, Cut::ConnectTimeout),
    ("half a CONNECT, and the end", false, "10 20 s'MQTT' LEVEL 02", Pace::ThenEnd, Cut::Immediately),
    ("silence after CONNECT", true, "", Pace::ThenSilent, Cut::KeepAlive),
    ("half a PUBLISH", true, "32 20 s'h' 0001", Pace::ThenSilent, Cut::KeepAlive),
    ("a PUBLISH of 1 MiB that does not come", true, "30 F0FF3F s'h' {} 'x'", Pace::ThenSilent, Cut::KeepAlive),
    ("a SUBSCRIBE of 1 MiB that does not come", true, "82 F0FF3F 0001 {} s'h' 00", Pace::ThenSilent, Cut::KeepAlive),
    ("half a PINGREQ", true, "C0", Pace::ThenSilent, Cut::KeepAlive),
    // Bytes are no Control Packet: only a whole one counts [MQTT-3.1.2-22].
    ("a PUBLISH, one byte at a time", true, "30 7F s'h' {} x35*'x'", DRIP, Cut::KeepAlive),
    ("half a PUBLISH, and the end", true, "30 7F s'h' {} 'x'", Pace::ThenEnd, Cut::Immediately),
    ("the end, without DISCONNECT", true, "", Pace::ThenEnd, Cut::Immediately),
];

/// What the tests count and name.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.0)
}

/// Plays all rows at once. Returns what is wrong.
pub(crate) async fn run(address: SocketAddr, version: ProtocolVersion) -> Vec<String> {
    let mut tasks = JoinSet::new();
    for (number, row) in ROWS.iter().enumerate() {
        let client_id = format!("slow-{version:?}-{number}");
        tasks.spawn(async move {
            let complaint = play(address, version, row, &client_id).await.err();
            known::judge(version, row.0, complaint)
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

async fn play(
    address: SocketAddr,
    version: ProtocolVersion,
    (name, is_connected, notation, pace, cut): &SlowRow,
    client_id: &str,
) -> Result<(), String> {
    let mut socket = match is_connected {
        true => Socket::connect(address, version, (client_id, 1)).await,
        false => Socket::open(address, version).await,
    };
    let started = Instant::now();
    let scene = Scene { version, client_id };
    let reaction = send(&mut socket, &scene.bytes(notation), *pace).await;
    let took = started.elapsed();
    let (earliest, expected) = match cut {
        Cut::ConnectTimeout => (CONNECT_TIMEOUT, CLOSED),
        Cut::KeepAlive => (KEEP_ALIVE, choose(version, KEEP_ALIVE_OVER)),
        Cut::Immediately => (Duration::ZERO, CLOSED),
    };
    let in_time = earliest.saturating_sub(EARLY_MAX)..=earliest + LATE_MAX;
    if expected.contains(&reaction.as_str()) && in_time.contains(&took) {
        return Ok(());
    }
    Err(format!(
        "{version:?} {name}: {notation}\n      expected {expected:?} after {earliest:?}\n      \
         got      {reaction:?} after {took:.1?}"
    ))
}

/// 3.1.1 closes, 5.0 says why.
const KEEP_ALIVE_OVER: (Reactions, Reactions) = (CLOSED, &["DISCONNECT 0x8D; closed"]);

/// Sends at a pace, and reads until the connection is closed.
async fn send(socket: &mut Socket, bytes: &[u8], pace: Pace) -> String {
    let Pace::Drip(period) = pace else {
        socket.write(bytes).await;
        if pace == Pace::ThenEnd {
            socket.finish().await;
        }
        return socket.until_closed(PATIENCE).await;
    };
    let mut next = Instant::now();
    for byte in bytes {
        socket.write(&[*byte]).await;
        next += period;
        match socket
            .next(next.saturating_duration_since(Instant::now()))
            .await
        {
            Came::Nothing => {}
            Came::Closed => return "closed".to_owned(),
            Came::Packet(packet) => {
                return format!("{packet}; {}", socket.until_closed(PATIENCE).await);
            }
        }
    }
    format!("all {} bytes taken", bytes.len())
}
