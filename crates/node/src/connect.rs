//! CONNECT: checks it, opens the session in the client's shard, answers CONNACK.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use codec::{
    ClientId, Connack, Connect, Decoder, Limits, Packet, ProtocolVersion, ReasonCode, Utf8, Will,
};
use raft_store::{Command, Ending, Epoch, Holder, Incarnation, Refusal, Response, ShardId};
use session::{Input, Session, SessionLimits};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use crate::acl::Rights;
use crate::admission::{Admitted, check_will, keep_alive, live_limits, session_limits};
use crate::auth::{self, Failure, Proof};
use crate::broker::Broker;
use crate::client::{Client, Origin};
use crate::clock;
use crate::connection::Connection;
use crate::count::{self, SessionOutcome};
use crate::end::End;
use crate::facts::ConnectionFacts;
use crate::life::Life;
use crate::mailbox::Mailbox;
use crate::reason::{self, Audience};
use crate::refusal::{Refused, refuse, refuse_malformed};
use crate::session_place::{HostedSession, SessionPlace};
use crate::sys_topics;
use crate::transport::Transport;
use crate::waiter::CommandWaiter;
use crate::wire::Wire;

/// What a CONNECT comes down to under this node's configuration.
struct Terms {
    client_id: ClientId,
    assigned: bool,
    session_expiry_interval_s: u32,
    keep_alive_s: u16,
    receive_maximum: u16,
    packet_bytes_max: usize,
    limits: SessionLimits,
    /// How the client has shown who it is, if by enhanced authentication.
    proof: Option<Proof>,
}

/// Serves one client from CONNECT, which must be there by `deadline`, to its end.
pub(crate) async fn accept(
    broker: Arc<Broker>,
    transport: Transport,
    origin: Origin,
    deadline: Instant,
) {
    let packet_bytes_max =
        usize::try_from(broker.config.mqtt.max_packet_size).unwrap_or(usize::MAX);
    let limits = Limits {
        packet_bytes_max,
        ..Limits::default()
    };
    let decoder = Decoder::from_client(limits);
    let mut wire = Wire::new(transport, decoder, &broker.pressure.budget);
    let packet = match timeout_at(deadline, wire.next_packet()).await {
        Ok(Ok(Some(Packet::Connect(connect)))) => connect,
        Ok(Ok(_)) => {
            if wire.has_no_memory() {
                count::connection_rejected(&origin.listener, "buffers_full");
            }
            return;
        }
        Err(_) => {
            tracing::debug!(address = %origin.address, "no CONNECT in time");
            return count::connection_rejected(&origin.listener, "connect_timeout");
        }
        Ok(Err(error)) => return refuse_malformed(wire, &origin, &error).await,
    };
    let connect: &Connect = &packet;
    let policy = broker.access();
    let admitted = broker.drain.admit().and_then(|()| broker.overload.admit());
    let admitted = admitted.and_then(|()| auth::way(&policy, connect, &origin));
    let checked = admitted.and_then(|way| Ok((way, admit(&broker, connect)?)));
    let (way, mut terms) = match checked {
        Ok(checked) => checked,
        Err(refused) => return refuse(wire, connect, &origin, refused).await,
    };
    // Before the session is touched: who fails here takes over nothing [MQTT-3.1.4-2].
    let login = auth::login(&broker, (&policy, way), &mut wire, (connect, &origin));
    let principal = match login.await {
        Ok((principal, proof)) => {
            terms.proof = proof;
            principal
        }
        Err(Failure::Gone) => return,
        Err(Failure::Refused(reason_code, cause)) => {
            if cause == "protocol" {
                count::violation(reason_code);
            }
            let refused = Refused { reason_code, cause };
            return refuse(wire, connect, &origin, refused).await;
        }
    };
    if terms.proof.is_some()
        && let Err(refused) = check_connack(&broker, connect, &terms)
    {
        return refuse(wire, connect, &origin, refused).await;
    }
    let admitted = Admitted { principal, policy };
    open(broker, wire, (origin, admitted), (packet, terms)).await;
}

/// This node may not serve now.
const UNAVAILABLE: Refused = Refused {
    reason_code: ReasonCode::ServerUnavailable,
    cause: "no_lease",
};

/// The session belongs to another user.
const NOT_OWNER: Refused = Refused {
    reason_code: ReasonCode::NotAuthorized,
    cause: "owner",
};

/// Opens the session and serves the connection.
async fn open(
    broker: Arc<Broker>,
    mut wire: Wire,
    (origin, admitted): (Origin, Admitted),
    (packet, mut terms): (Box<Connect>, Terms),
) {
    let connect: &Connect = &packet;
    if wire.is_gone() {
        // Read late, after a pause of this node: the client is somewhere else by now.
        return;
    }
    let Some(life) = broker.serving() else {
        return refuse(wire, connect, &origin, UNAVAILABLE).await;
    };
    let mailbox = Arc::new(Mailbox::new(live_limits(&broker), &broker.pressure));
    let connection = life.registry.open(&mailbox);
    let holder = Holder {
        node: life.id.node,
        incarnation: life.id.incarnation,
        connection,
    };
    if terms.assigned {
        terms.client_id = assigned_client_id(&holder).unwrap_or(terms.client_id);
    }
    let rights = admitted.rights(&terms.client_id);
    if let Err(refused) = check_will(&rights, connect) {
        life.registry.close(connection);
        return refuse(wire, connect, &origin, refused).await;
    }
    let shard = broker.shard_of(&terms.client_id);
    let is_discarded = connect.clean_start && broker.knows(&terms.client_id);
    let (sender, mut answer) = oneshot::channel();
    let owner = admitted.principal.user.clone();
    let command = connect_command(connect, &terms, (holder, owner));
    let command = Command::Connect(Box::new(command));
    life.propose(shard, &command, CommandWaiter::Task(sender));
    let answered = life
        .ended
        .run_until_cancelled(timeout(broker.config.mqtt.connect_timeout, &mut answer))
        .await;
    let response = answered.and_then(Result::ok).and_then(Result::ok);
    let opened = match opened(response.as_ref(), is_discarded) {
        Ok(opened) => opened,
        Err(refused) => {
            life.registry.close(connection);
            refuse(wire, connect, &origin, refused).await;
            if response.is_none() {
                close_when_open(&life, shard, terms.client_id, answer).await;
            }
            return;
        }
    };
    let client = client(
        (connect, &terms),
        (origin, admitted, rights),
        (shard, holder, &opened),
    );
    begin(
        broker,
        life,
        wire,
        (client, mailbox),
        (packet, terms, opened),
    )
    .await;
}

/// What the shard answered.
struct Opened {
    epoch: Epoch,
    session_present: bool,
    hosted: bool,
    formers: bool,
    /// A former session of the client ended.
    is_discarded: bool,
}

/// # Errors
/// The session is another user's, or the shard did not open it in time.
fn opened(response: Option<&Response>, is_discarded: bool) -> Result<Opened, Refused> {
    if let Some(Response::Connected {
        epoch,
        session_present,
        hosted,
        formers,
    }) = response
    {
        return Ok(Opened {
            epoch: *epoch,
            session_present: *session_present,
            hosted: *hosted,
            formers: *formers,
            is_discarded,
        });
    }
    let is_of_another = matches!(response, Some(Response::Refused(Refusal::NotOwner)));
    Err(if is_of_another {
        NOT_OWNER
    } else {
        UNAVAILABLE
    })
}

/// The session is open: CONNACK, then the connection serves.
async fn begin(
    broker: Arc<Broker>,
    life: Arc<Life>,
    mut wire: Wire,
    (client, mailbox): (Client, Arc<Mailbox>),
    (connect, terms, opened): (Box<Connect>, Terms, Opened),
) {
    if !broker.lease.is_held() {
        // Without its lease a node acknowledges nothing (G8).
        life.registry.close(client.holder.connection);
        client.record_closed(&broker, &life, &End::never_open());
        return refuse(wire, &connect, &client.origin, UNAVAILABLE).await;
    }
    if opened.formers {
        client.put_up_fences(&life);
    }
    let place = if opened.hosted {
        SessionPlace::Hosted(HostedSession::default())
    } else {
        SessionPlace::Transient(Box::new(transient_session(&terms)))
    };
    life.registry.join(
        client.holder.connection,
        client.client_id.clone(),
        opened.hosted,
        Arc::clone(&mailbox),
    );
    life.registry
        .describe(client.holder.connection, ConnectionFacts::of(&client));
    let connack = connack(&broker, &connect, &terms, opened.session_present);
    wire.send(&Packet::Connack(Box::new(connack)), connect.version);
    count::connection_opened(&client.origin.listener);
    let outcome = SessionOutcome {
        is_resumed: opened.session_present,
        is_discarded: opened.is_discarded,
    };
    count::connected(client.origin.since.elapsed(), outcome);
    tracing::debug!(
        client_id = client.client_id.as_str(), address = %client.origin.address,
        epoch = %client.epoch, session_present = opened.session_present, "connected"
    );
    // Nothing of it is needed any more, least of all the password, and it keeps what was read alive.
    drop((connect, terms));
    Connection::new((broker, life), wire, client, mailbox, place)
        .serve()
        .await;
}

/// Checks what the packet alone and the configuration decide.
fn admit(broker: &Broker, connect: &Connect) -> Result<Terms, Refused> {
    let refused = |reason_code, cause| Err(Refused { reason_code, cause });
    let config = &broker.config;
    if let Some(will) = &connect.will {
        config.mqtt.check_will(will)?;
        if !sys_topics::is_open(&will.message.topic) {
            return refused(ReasonCode::NotAuthorized, "topic");
        }
    }
    let v5 = connect.version == ProtocolVersion::V5;
    let assigned = connect.client_id.is_empty();
    let name = if assigned {
        ASSIGNED_LONGEST
    } else {
        connect.client_id.as_str()
    };
    let Ok(client_id) = ClientId::new(name) else {
        return refused(ReasonCode::ClientIdentifierNotValid, "client_id");
    };
    let expiry_max = config.mqtt.session_expiry_max_s;
    let session_expiry_interval_s = match (v5, connect.clean_start) {
        (true, _) => connect.session_expiry_interval.unwrap_or(0).min(expiry_max),
        // CleanSession 0 of 3.1.1 asks for a session without end.
        (false, false) => expiry_max,
        (false, true) => 0,
    };
    let terms = Terms {
        client_id,
        assigned,
        session_expiry_interval_s,
        keep_alive_s: keep_alive(connect, config.mqtt.keep_alive_max_s),
        receive_maximum: connect.receive_maximum.map_or(u16::MAX, NonZeroU16::get),
        packet_bytes_max: reason::packet_bytes_max(connect),
        limits: session_limits(&broker.limits(), config.mqtt.receive_maximum, v5),
        proof: None,
    };
    check_connack(broker, connect, &terms)?;
    broker.admit_session(&terms.client_id)?;
    Ok(terms)
}

/// Nothing that CONNACK says may be left out, and a larger packet than the client takes may not be sent
/// [MQTT-3.1.2-24].
fn check_connack(broker: &Broker, connect: &Connect, terms: &Terms) -> Result<(), Refused> {
    let connack = connack(broker, connect, terms, true);
    if Audience::of(connect).takes(&Packet::Connack(Box::new(connack))) {
        return Ok(());
    }
    Err(Refused {
        reason_code: ReasonCode::PacketTooLarge,
        cause: "maximum_packet_size",
    })
}

fn connect_command(
    connect: &Connect,
    terms: &Terms,
    (holder, owner): (Holder, Option<Utf8>),
) -> raft_store::Connect {
    raft_store::Connect {
        client_id: terms.client_id.clone(),
        holder,
        clean_start: connect.clean_start,
        session_expiry_interval_s: terms.session_expiry_interval_s,
        receive_maximum: terms.receive_maximum,
        limits: terms.limits,
        will: connect.will.as_ref().map(|will| Will {
            message: will.message.detached(),
            delay_interval_s: will.delay_interval_s,
        }),
        owner,
    }
}

fn client(
    (connect, terms): (&Connect, &Terms),
    (origin, admitted, rights): (Origin, Admitted, Rights),
    (shard, holder, opened): (ShardId, Holder, &Opened),
) -> Client {
    let will = connect.will.as_ref();
    Client {
        client_id: terms.client_id.clone(),
        version: connect.version,
        origin,
        keep_alive_s: terms.keep_alive_s,
        session_expiry_interval_s: terms.session_expiry_interval_s,
        receive_maximum: terms.receive_maximum,
        packet_bytes_max: terms.packet_bytes_max,
        topic_alias_maximum: connect.topic_alias_maximum.unwrap_or(0),
        principal: admitted.principal,
        policy: admitted.policy,
        rights,
        will_topic: will.map(|will| will.message.topic.detached()),
        identity: terms
            .proof
            .as_ref()
            .map(|proof| Arc::clone(&proof.identity)),
        wants_reasons: reason::wants_reasons(connect),
        shard,
        holder,
        epoch: opened.epoch,
    }
}

fn transient_session(terms: &Terms) -> Session {
    let mut session = Session::new();
    let input = Input::Connect {
        receive_maximum: terms.receive_maximum,
        session_expiry_interval_s: 0,
        limits: terms.limits,
    };
    session.apply(clock::timestamp(), input, &mut Vec::new());
    session
}

fn connack(broker: &Broker, connect: &Connect, terms: &Terms, session_present: bool) -> Connack {
    let config = &broker.config.mqtt;
    let mut connack = Connack {
        session_present,
        ..Connack::default()
    };
    if connect.version != ProtocolVersion::V5 {
        return connack;
    }
    if connect.session_expiry_interval.unwrap_or(0) != terms.session_expiry_interval_s {
        connack.session_expiry_interval = Some(terms.session_expiry_interval_s);
    }
    // What is as the standard has it without the property is not said: 65,535, QoS 2, available, 0.
    connack.receive_maximum =
        NonZeroU16::new(config.receive_maximum).filter(|max| *max < NonZeroU16::MAX);
    connack.maximum_qos = Some(config.max_qos);
    connack.retain_available = (!config.retain_available).then_some(false);
    connack.wildcard_subscription_available = (!config.wildcard_subscriptions).then_some(false);
    connack.shared_subscription_available = (!config.shared_subscriptions).then_some(false);
    connack.maximum_packet_size = NonZeroU32::new(config.max_packet_size);
    connack.topic_alias_maximum = Some(config.topic_alias_maximum).filter(|max| *max > 0);
    if connect.request_response_information == Some(true) {
        connack.response_information = config.response_information_for(terms.client_id.as_str());
    }
    if terms.assigned {
        connack.assigned_client_identifier = Utf8::try_from(terms.client_id.as_str()).ok();
    }
    if let Some(proof) = &terms.proof {
        connack.authentication_method = Some(proof.identity.method.clone());
        connack.authentication_data = Some(proof.data.clone());
    }
    if terms.keep_alive_s != connect.keep_alive_s {
        connack.server_keep_alive = Some(terms.keep_alive_s);
    }
    connack
}

/// As long as an assigned client identifier can be; stands for it until there is one.
const ASSIGNED_LONGEST: &str =
    "holdfast-65535-18446744073709551615-18446744073709551615-0123456789abcdef";

/// Unique in the cluster for ever, and not to be guessed.
fn assigned_client_id(holder: &Holder) -> Option<ClientId> {
    let Holder {
        node,
        incarnation: Incarnation(life),
        connection,
    } = holder;
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(connection.0);
    let random = hasher.finish();
    ClientId::new(&format!(
        "holdfast-{node}-{life}-{connection}-{random:016x}"
    ))
    .ok()
}

/// The client was told that the server is unavailable; if the shard opens its session after all,
/// that connection is closed at once.
async fn close_when_open(
    life: &Life,
    shard: ShardId,
    client_id: ClientId,
    answer: oneshot::Receiver<Response>,
) {
    let answer = life.ended.run_until_cancelled(answer).await;
    if let Some(Ok(Response::Connected { epoch, .. })) = answer {
        let command = Command::Disconnect {
            client_id,
            epoch,
            session_expiry_interval_s: None,
            // It was never accepted, nor was its will.
            ending: Ending::Normal,
        };
        life.propose(shard, &command, CommandWaiter::None);
    }
}
