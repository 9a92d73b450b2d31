//! What a CONNECT comes down to, apart from the session: who the client is, what it may do, and the limits
//! that hold for it.

use std::sync::Arc;

use codec::{ClientId, Connect, ProtocolVersion, ReasonCode};
use session::{QueueOverflow, SessionLimits};

use crate::acl::{Rights, Subject};
use crate::auth::{AccessPolicy, Principal};
use crate::backlog::LiveLimits;
use crate::broker::Broker;
use crate::config::{self, LimitsConfig};
use crate::count::{self, AclAction};
use crate::refusal::Refused;

/// Who the client has shown to be, and by what that was decided.
pub(crate) struct Admitted {
    pub(crate) principal: Principal,
    pub(crate) policy: Arc<AccessPolicy>,
}

impl Admitted {
    /// What it may do under its client identifier, which may be an assigned one.
    pub(crate) fn rights(&self, client_id: &ClientId) -> Rights {
        let subject = Subject {
            user: self.principal.user(),
            client_id: client_id.as_str(),
            groups: &self.principal.groups,
        };
        Rights::new(&self.policy.rules, subject)
    }
}

/// # Errors
/// The client may not publish what its will says.
pub(crate) fn check_will(rights: &Rights, connect: &Connect) -> Result<(), Refused> {
    let Some(will) = connect.will.as_ref().filter(|_| rights.are_limited()) else {
        return Ok(());
    };
    let is_allowed = rights.may_publish(&will.message.topic);
    if count::acl_check(AclAction::Will, is_allowed) {
        return Ok(());
    }
    Err(Refused {
        reason_code: ReasonCode::NotAuthorized,
        cause: "acl",
    })
}

/// Server Keep Alive binds v5 clients only [MQTT-3.2.2-21].
pub(crate) fn keep_alive(connect: &Connect, max: Option<u16>) -> u16 {
    let asked = connect.keep_alive_s;
    match max {
        Some(max) if connect.version == ProtocolVersion::V5 && (asked == 0 || asked > max) => max,
        Some(_) | None => asked,
    }
}

pub(crate) fn session_limits(
    limits: &LimitsConfig,
    receive_maximum: u16,
    v5: bool,
) -> SessionLimits {
    SessionLimits {
        inflight_max: limits.inflight_max,
        // Before 5.0 a client cannot know our Receive Maximum; TCP bounds what it sends.
        receive_maximum: if v5 { receive_maximum } else { u16::MAX },
        queue_messages_max: u32::try_from(limits.queue_max_messages).unwrap_or(u32::MAX),
        queue_bytes_max: limits.queue_max_bytes,
        queue_overflow: match limits.queue_overflow {
            config::QueueOverflow::Reject => QueueOverflow::Reject,
            config::QueueOverflow::DropNewest => QueueOverflow::DropNewest,
            config::QueueOverflow::DropOldest => QueueOverflow::DropOldest,
            config::QueueOverflow::Disconnect => QueueOverflow::Disconnect,
        },
    }
}

/// A live mailbox holds as much as a session's queue.
pub(crate) fn live_limits(broker: &Broker) -> LiveLimits {
    let limits = broker.limits();
    LiveLimits {
        messages_max: usize::try_from(limits.queue_max_messages)
            .unwrap_or(usize::MAX)
            .max(1),
        bytes_max: usize::try_from(limits.queue_max_bytes).unwrap_or(usize::MAX),
    }
}
