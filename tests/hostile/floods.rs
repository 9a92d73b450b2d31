//! Too much of what is legal, or of what is not: each flood runs while a healthy client works, and in
//! the end a node has its memory back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use codec::ProtocolVersion;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::SUBSCRIPTIONS_MAX;
use crate::notation::{Scene, variable_byte_integer};
use crate::socket::{Came, PATIENCE, Socket, is_unavailable};

/// How many packets, or connections, make a flood.
const PACKETS: usize = 20_000;
const SUBSCRIBES: usize = 2 * SUBSCRIPTIONS_MAX;
const CONNECTIONS: usize = 200;

/// The floods. Each returns what is wrong with the reaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flood {
    Pings,
    UnreadPings,
    Subscribes,
    SameSubscribes,
    Unsubscribes,
    Takeovers,
    Reconnects,
    HalfConnects,
    HalfOpen,
    AnnouncedBytes,
    Publishes,
    UnreleasedQos2,
    BrokenConnects,
    ManyFilters,
    LargeUserProperties,
    ManyUserProperties,
    ManyUserPropertiesInConnect,
}

/// Name, flood, whether it is one of 5.0 only.
#[rustfmt::skip]
const FLOODS: &[(&str, Flood, bool)] = &[
    ("twenty thousand PINGREQs", Flood::Pings, false),
    ("PINGREQs whose answers nobody reads", Flood::UnreadPings, false),
    ("SUBSCRIBEs to twice as many filters as a session may have", Flood::Subscribes, false),
    ("the same SUBSCRIBE over and over", Flood::SameSubscribes, false),
    ("UNSUBSCRIBEs from nothing", Flood::Unsubscribes, false),
    ("CONNECTs with one client id, all at once", Flood::Takeovers, false),
    ("CONNECTs that are dropped as soon as they are accepted", Flood::Reconnects, false),
    ("half CONNECTs that are dropped", Flood::HalfConnects, false),
    ("clients that connect and never come back", Flood::HalfOpen, false),
    ("clients that each announce 1 MiB", Flood::AnnouncedBytes, false),
    ("PUBLISHes at QoS 0 to nobody", Flood::Publishes, false),
    ("PUBLISHes at QoS 2 that are never released", Flood::UnreleasedQos2, false),
    ("broken CONNECTs", Flood::BrokenConnects, false),
    ("a SUBSCRIBE to five thousand filters", Flood::ManyFilters, false),
    ("user properties of 900 KiB", Flood::LargeUserProperties, true),
    ("a PUBLISH with fifty thousand user properties", Flood::ManyUserProperties, true),
    ("a CONNECT with fifty thousand user properties", Flood::ManyUserPropertiesInConnect, true),
];

/// The floods of one version.
pub(crate) fn all(version: ProtocolVersion) -> impl Iterator<Item = (&'static str, Flood)> {
    let floods = FLOODS.iter();
    let of_version = floods.filter(move |flood| !flood.2 || version == ProtocolVersion::V5);
    of_version.map(|(name, flood, _)| (*name, *flood))
}

/// Where a flood goes, and in which version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aim {
    /// One node's.
    pub(crate) address: SocketAddr,
    /// The first node's and the last one's, for what concerns several.
    pub(crate) ends: [SocketAddr; 2],
    pub(crate) version: ProtocolVersion,
}

impl Flood {
    /// Floods, and judges the reaction.
    pub(crate) async fn run(self, aim: Aim) -> Result<(), String> {
        match self {
            Self::Pings => pings(aim).await,
            Self::UnreadPings => unread_pings(aim).await,
            Self::Subscribes => subscribes(aim).await,
            Self::SameSubscribes => same_subscribes(aim).await,
            Self::Unsubscribes => unsubscribes(aim).await,
            Self::Takeovers => takeovers(aim).await,
            Self::Reconnects => reconnects(aim).await,
            Self::HalfConnects => half_connects(aim).await,
            Self::HalfOpen => half_open(aim).await,
            Self::AnnouncedBytes => announced_bytes(aim).await,
            Self::Publishes => publishes(aim).await,
            Self::UnreleasedQos2 => unreleased_qos2(aim).await,
            Self::BrokenConnects => broken_connects(aim).await,
            Self::ManyFilters => many_filters(aim).await,
            Self::LargeUserProperties => large_user_properties(aim).await,
            Self::ManyUserProperties => many_user_properties(aim).await,
            Self::ManyUserPropertiesInConnect => many_user_properties_in_connect(aim).await,
        }
    }
}

impl Aim {
    fn bytes(self, client_id: &str, notation: &str) -> Vec<u8> {
        let version = self.version;
        Scene { version, client_id }.bytes(notation)
    }

    async fn connect(self, client_id: &str) -> Socket {
        Socket::connect(self.address, self.version, (client_id, 0)).await
    }

    fn is_v5(self) -> bool {
        self.version == ProtocolVersion::V5
    }
}

/// A packet with a body that the notation is too short for.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let length = variable_byte_integer(body.len());
    [&[first], length.as_slice(), body].concat()
}

fn expect(found: &str, allowed: &[&str]) -> Result<(), String> {
    match allowed.contains(&found) {
        true => Ok(()),
        false => Err(format!("{found:?} instead of one of {allowed:?}")),
    }
}

/// Each is answered [MQTT-3.12.4-1].
async fn pings(aim: Aim) -> Result<(), String> {
    let mut socket = aim.connect("pings").await;
    let (mut reading, writing) = (0, 500);
    for _ in 0..PACKETS / writing {
        socket.write(&[0xC0, 0x00].repeat(writing)).await;
        for _ in 0..writing {
            reading += 1;
            match socket.next(PATIENCE).await {
                Came::Packet(packet) => expect(&packet, &["PINGRESP"])?,
                other => return Err(format!("{other:?} after {reading} PINGRESPs")),
            }
        }
    }
    Ok(())
}

/// The broker may stop to read, or close; it must not keep all answers.
async fn unread_pings(aim: Aim) -> Result<(), String> {
    let mut socket = aim.connect("unread-pings").await;
    let chunk = [0xC0, 0x00].repeat(PACKETS);
    for _ in 0..100 {
        if !socket
            .write_within(&chunk, Duration::from_millis(500))
            .await
        {
            break;
        }
    }
    Ok(())
}

/// Sends as many SUBSCRIBEs, then reads their answers; these may come in another order. Returns how
/// often each code came.
async fn subscribe_to(aim: Aim, filters: Vec<String>) -> Result<BTreeMap<String, usize>, String> {
    let mut socket = aim.connect("subscribes").await;
    let (mut bytes, mut unanswered) = (Vec::new(), BTreeSet::new());
    for (id, filter) in (1..).zip(&filters) {
        bytes.extend(aim.bytes("", &format!("82 | {id:04X} {{}} s'{filter}' 01")));
        unanswered.insert(format!("SUBACK id={id}"));
    }
    socket.write(&bytes).await;
    let mut codes = BTreeMap::new();
    while !unanswered.is_empty() {
        let came = socket.next(PATIENCE).await;
        let Came::Packet(words) = &came else {
            return Err(format!(
                "{came:?}, and {} are not answered",
                unanswered.len()
            ));
        };
        let (answer, code) = words.rsplit_once(' ').unwrap_or_default();
        if !unanswered.remove(answer) {
            return Err(format!("{words} answers nothing"));
        }
        *codes.entry(code.to_owned()).or_default() += 1;
    }
    Ok(codes)
}

/// Those above the limit are refused, one by one.
async fn subscribes(aim: Aim) -> Result<(), String> {
    let filters = (0..SUBSCRIBES).map(|number| format!("flood/{number}"));
    let codes = subscribe_to(aim, filters.collect()).await?;
    let refused = if aim.is_v5() { "0x97" } else { "0x80" };
    let above = SUBSCRIBES - SUBSCRIPTIONS_MAX;
    let expected = [("0x01", SUBSCRIPTIONS_MAX), (refused, above)];
    expect_codes(&codes, &expected)
}

/// Each replaces the former one [MQTT-3.8.4-3].
async fn same_subscribes(aim: Aim) -> Result<(), String> {
    let codes = subscribe_to(aim, vec!["flood/same".to_owned(); SUBSCRIBES]).await?;
    expect_codes(&codes, &[("0x01", SUBSCRIBES)])
}

fn expect_codes(codes: &BTreeMap<String, usize>, expected: &[(&str, usize)]) -> Result<(), String> {
    let found: Vec<(&str, usize)> = codes.iter().map(|(code, n)| (code.as_str(), *n)).collect();
    match found == expected {
        true => Ok(()),
        false => Err(format!("{found:?} instead of {expected:?}")),
    }
}

/// Each is answered, although there is nothing to leave [MQTT-3.10.4-5].
async fn unsubscribes(aim: Aim) -> Result<(), String> {
    let mut socket = aim.connect("unsubscribes").await;
    let code = if aim.is_v5() { " 0x11" } else { "" };
    for number in 1..=SUBSCRIBES {
        let notation = format!("A2 | {number:04X} {{}} s'flood/{number}'");
        socket.write(&aim.bytes("", &notation)).await;
    }
    for number in 1..=SUBSCRIBES {
        let expected = Came::Packet(format!("UNSUBACK id={number}{code}"));
        let came = socket.next(PATIENCE).await;
        if came != expected {
            return Err(format!("{came:?} instead of {expected:?}"));
        }
    }
    Ok(())
}

/// At two nodes at once, where there are several. In the end one connection lives, and all others
/// were told why they ended [MQTT-3.1.4-3].
async fn takeovers(aim: Aim) -> Result<(), String> {
    let connect = aim.bytes("storm", "10 | s'MQTT' LEVEL 02 0000 {} ID");
    let mut tasks = JoinSet::new();
    for address in aim.ends.into_iter().cycle().take(CONNECTIONS) {
        let connect = connect.clone();
        tasks.spawn(async move {
            let mut socket = Socket::open(address, aim.version).await;
            socket.write(&connect).await;
            let first = socket.next(PATIENCE).await;
            (socket, first)
        });
    }
    let mut connected = Vec::new();
    for (socket, first) in tasks.join_all().await {
        match first {
            Came::Packet(words) if words == "CONNACK 0x00" => connected.push(socket),
            // Of a node that cannot reach the others for a moment.
            Came::Packet(words) if is_unavailable(&words) => {}
            other => return Err(format!("{other:?} instead of CONNACK")),
        }
    }
    let deadline = Instant::now() + PATIENCE;
    // A node learns a little later that a client of its has connected to another one.
    while connected.len() > 1 && Instant::now() < deadline {
        connected = still_open(aim, connected).await?;
    }
    match still_open(aim, connected).await?.len() {
        1 => Ok(()),
        alive => Err(format!("{alive} connections are alive")),
    }
}

/// Those of the connections that live; the others were taken over.
async fn still_open(aim: Aim, connections: Vec<Socket>) -> Result<Vec<Socket>, String> {
    let taken_over = if aim.is_v5() {
        "DISCONNECT 0x8E; closed"
    } else {
        "closed"
    };
    let mut open = Vec::new();
    for mut socket in connections {
        match socket.until_ping((0, 0)).await.as_str() {
            "open" => open.push(socket),
            other => expect(other, &[taken_over])?,
        }
    }
    Ok(open)
}

async fn reconnects(aim: Aim) -> Result<(), String> {
    for number in 0..CONNECTIONS {
        drop(aim.connect(&format!("reconnect-{}", number % 7)).await);
    }
    Ok(())
}

/// Nothing is kept of them, and nothing is answered.
async fn half_connects(aim: Aim) -> Result<(), String> {
    for _ in 0..CONNECTIONS {
        let mut socket = Socket::open(aim.address, aim.version).await;
        socket.write(&[0x10, 0x20, 0x00, 0x04, b'M', b'Q']).await;
    }
    Ok(())
}

/// Silent clients without Keep Alive stay; they must not cost others anything.
async fn half_open(aim: Aim) -> Result<(), String> {
    let mut sockets = Vec::new();
    for number in 0..CONNECTIONS {
        sockets.push(aim.connect(&format!("half-open-{number}")).await);
    }
    let mut last = sockets.pop().expect("there are some");
    expect(&last.until_ping((0, 0)).await, &["open"])
}

async fn announced_bytes(aim: Aim) -> Result<(), String> {
    let mut sockets = Vec::new();
    for number in 0..CONNECTIONS {
        let mut socket = aim.connect(&format!("announced-{number}")).await;
        socket
            .write(&[0x30, 0xF0, 0xFF, 0x3F, 0x00, 0x01, b'h'])
            .await;
        sockets.push(socket);
    }
    Ok(())
}

async fn publishes(aim: Aim) -> Result<(), String> {
    let mut socket = aim.connect("publishes").await;
    // `$`: the healthy client, who subscribes to everything, does not want them.
    let publish = aim.bytes("", "30 | s'$flood/topic' {} x100*'x'");
    let chunk = publish.repeat(500);
    for _ in 0..PACKETS / 500 {
        if !socket.write(&chunk).await {
            return Err("the broker does not take them".to_owned());
        }
    }
    expect(&socket.until_ping((0, 0)).await, &["open"])
}

/// 5.0 has a Receive Maximum, which CONNACK says (100 by default) [MQTT-3.3.4-7]. 3.1.1 has none: all
/// packet ids may be in use.
async fn unreleased_qos2(aim: Aim) -> Result<(), String> {
    let mut socket = aim.connect("unreleased").await;
    let ids = 1..=300;
    for id in ids {
        let notation = format!("34 | {} {id:04X} {{}} 'x'", "s'$flood/topic'");
        socket.write(&aim.bytes("", &notation)).await;
    }
    let expected_answers = if aim.is_v5() { 0 } else { 300 };
    for id in 1..=expected_answers {
        let expected = Came::Packet(format!("PUBREC id={id}"));
        let came = socket.next(PATIENCE).await;
        if came != expected {
            return Err(format!("{came:?} instead of {expected:?}"));
        }
    }
    if !aim.is_v5() {
        return expect(&socket.until_ping((0, 0)).await, &["open"]);
    }
    let all = socket.until_closed(PATIENCE).await;
    let end = all.rsplit("; ").take(2).collect::<Vec<_>>();
    expect(&end.join(" after "), &["closed after DISCONNECT 0x93"])
}

async fn broken_connects(aim: Aim) -> Result<(), String> {
    let connect = aim.bytes("broken", "10 | s'MQTT' LEVEL 03 003C {} ID");
    let expected = if aim.is_v5() {
        "CONNACK 0x81; closed"
    } else {
        "closed"
    };
    for _ in 0..CONNECTIONS {
        let mut socket = Socket::open(aim.address, aim.version).await;
        socket.write(&connect).await;
        expect(&socket.until_closed(PATIENCE).await, &[expected])?;
    }
    Ok(())
}

/// More than a packet may hold: a limit of ours, which 5.0 can say (section 3.14.2.1, 0x97).
async fn many_filters(aim: Aim) -> Result<(), String> {
    let mut socket = aim.connect("many-filters").await;
    let head = aim.bytes("", "0001 {}");
    let filters = (0..5_000).flat_map(|number| aim.bytes("", &format!("s'flood/{number}' 00")));
    let body: Vec<u8> = head.into_iter().chain(filters).collect();
    socket.write(&packet(0x82, &body)).await;
    let expected = if aim.is_v5() {
        "DISCONNECT 0x97; closed"
    } else {
        "closed"
    };
    expect(&socket.until_closed(PATIENCE).await, &[expected])
}

/// User properties of a kibibyte each, or of almost nothing.
fn user_properties(count: usize, value_bytes: usize) -> Vec<u8> {
    let length = u16::try_from(value_bytes)
        .expect("it is short")
        .to_be_bytes();
    let one = [
        &[0x26, 0x00, 0x01, b'k'],
        &length[..],
        &vec![b'v'; value_bytes],
    ]
    .concat();
    let all = one.repeat(count);
    [variable_byte_integer(all.len()), all].concat()
}

/// Legal, and below Maximum Packet Size: acknowledged, over and over.
async fn large_user_properties(aim: Aim) -> Result<(), String> {
    let mut socket = aim.connect("large-properties").await;
    let head = aim.bytes("", "s'$flood/topic' 0001");
    let publish = packet(0x32, &[head, user_properties(900, 1_000)].concat());
    for _ in 0..30 {
        socket.write(&publish).await;
        match socket.next(PATIENCE).await {
            Came::Packet(packet) => expect(&packet, &["PUBACK id=1 0x10", "PUBACK id=1"])?,
            other => return Err(format!("{other:?} instead of PUBACK")),
        }
    }
    Ok(())
}

async fn many_user_properties(aim: Aim) -> Result<(), String> {
    let mut socket = aim.connect("many-properties").await;
    let head = aim.bytes("", "s'$flood/topic'");
    let publish = packet(0x30, &[head, user_properties(50_000, 1)].concat());
    socket.write(&publish).await;
    expect(
        &socket.until_closed(PATIENCE).await,
        &["DISCONNECT 0x97; closed"],
    )
}

async fn many_user_properties_in_connect(aim: Aim) -> Result<(), String> {
    let mut socket = Socket::open(aim.address, aim.version).await;
    let head = aim.bytes("", "s'MQTT' 05 02 003C");
    let client_id = aim.bytes("many-properties", "ID");
    let connect = packet(
        0x10,
        &[head, user_properties(50_000, 1), client_id].concat(),
    );
    socket.write(&connect).await;
    expect(
        &socket.until_closed(PATIENCE).await,
        &["CONNACK 0x97; closed"],
    )
}
