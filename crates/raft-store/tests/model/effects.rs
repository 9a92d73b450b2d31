//! Effects, compared whatever a replica has in memory, and without the ids that it gives.

use std::collections::BTreeMap;
use std::sync::Arc;

use codec::ClientId;
use raft_store::{Effect, Holder, Incarnation, NodeId};
use session::{Body, Resend, StoredMessage};

/// Who acts on effects; only what one listener hears has an order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Listener {
    Connection(Holder),
    Client(ClientId),
    Node(NodeId, Incarnation),
    Cluster,
    Metrics,
}

/// The effects but routes, per listener.
pub(crate) fn by_listener(effects: &[Effect]) -> BTreeMap<Listener, Vec<Effect>> {
    let mut heard: BTreeMap<Listener, Vec<Effect>> = BTreeMap::new();
    for effect in effects {
        let listener = match effect {
            Effect::Resumed { holder, .. }
            | Effect::Send { holder, .. }
            | Effect::SendPubrel { holder, .. }
            | Effect::Resync { holder, .. }
            | Effect::Close { holder, .. } => Listener::Connection(*holder),
            Effect::FencesOver { client_id, .. } => Listener::Client(client_id.clone()),
            Effect::LiveOutbox {
                node, incarnation, ..
            } => Listener::Node(*node, *incarnation),
            Effect::NodeUp { .. } | Effect::NodeDown { .. } => Listener::Cluster,
            Effect::Dropped { .. } => Listener::Metrics,
            Effect::RouteAdded { .. } | Effect::RouteRemoved { .. } => continue,
        };
        heard.entry(listener).or_default().push(effect.clone());
    }
    if let Some(dropped) = heard.get_mut(&Listener::Metrics) {
        dropped.sort_by_key(|effect| format!("{effect:?}"));
    }
    heard
}

/// The effect with every body by name.
pub(crate) fn named(effect: &Effect) -> Effect {
    with_bodies(effect.clone(), &mut |body| Body::Stored(body.reference()))
}

/// The effect with every body's content, and without its id. `read`: the content of a name.
pub(crate) fn anonymous(
    effect: &Effect,
    mut read: impl FnMut(u64) -> Option<StoredMessage>,
) -> Effect {
    with_bodies(effect.clone(), &mut |body| {
        let name = body.reference();
        let stored = match body {
            Body::Here(stored) => StoredMessage::clone(stored),
            Body::Stored(name) => {
                let content = read(name.id);
                content.unwrap_or_else(|| panic!("body {} is nowhere", name.id))
            }
        };
        let here = Body::Here(Arc::new(StoredMessage { id: 0, ..stored }));
        let same = (here.size_bytes(), here.expires_at());
        assert_eq!(same, (name.size_bytes, name.expires_at), "{here:?}");
        here
    })
}

fn with_bodies(mut effect: Effect, change: &mut dyn FnMut(&Body) -> Body) -> Effect {
    match &mut effect {
        Effect::Send { delivery, .. } => delivery.body = change(&delivery.body),
        Effect::LiveOutbox { item, .. } => item.body = change(&item.body),
        Effect::Resumed { resend, .. }
        | Effect::Resync {
            in_flight: resend, ..
        } => {
            for resend in resend {
                if let Resend::Publish { delivery, .. } = resend {
                    delivery.body = change(&delivery.body);
                }
            }
        }
        Effect::SendPubrel { .. }
        | Effect::Close { .. }
        | Effect::FencesOver { .. }
        | Effect::RouteAdded { .. }
        | Effect::RouteRemoved { .. }
        | Effect::NodeUp { .. }
        | Effect::NodeDown { .. }
        | Effect::Dropped { .. } => {}
    }
    effect
}
