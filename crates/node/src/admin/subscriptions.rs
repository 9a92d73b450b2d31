//! Subscriptions of all clients: those in the shards, and those that end with their connection.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use codec::{ClientId, TopicFilter, TopicName};
use raft_store::{Machine, SubscriberView};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Answers;
use super::clients::{find, incomplete};
use super::cursor;
use super::problem::{Problem, ok};
use super::request::{Name, NoParams, Params, limit};
use super::retained::qos_number;
use super::walk::Walk;
use crate::pattern::is_like;
use crate::proto::query::Subscription;
use crate::query::{Cluster, Connections};

/// Clients whose subscriptions are gathered before their nodes are asked.
const GATHERED_MAX: usize = 256;
/// Clients that one request looks at.
const LOOKED_AT_MAX: usize = 50_000;
/// Subscriptions of one look at a shard, after which it goes on with its entries.
const LOOK_MAX: usize = 2_000;
const LOOKED_AT_ONCE: usize = 256;

/// `?topic&client&limit&cursor`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    topic: Option<String>,
    client: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// `?topic&limit&cursor`; the topic is needed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MatchParams {
    topic: String,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Behind which subscription the next page begins: all of `after` are passed, and of `client_id` those
/// up to `filter`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Place {
    after: Option<String>,
    client_id: Option<String>,
    filter: Option<String>,
}

/// Which subscriptions are wanted.
struct Wanted {
    topic: Option<TopicName>,
    client: Option<String>,
}

impl Wanted {
    fn client(&self, client_id: &ClientId) -> bool {
        let pattern = self.client.as_deref();
        pattern.is_none_or(|pattern| is_like(pattern, client_id.as_str()))
    }

    fn filter(&self, filter: &TopicFilter) -> bool {
        let topic = self.topic.as_ref();
        topic.is_none_or(|topic| matches(filter, topic))
    }
}

/// Whether a filter matches a topic (section 4.7); a shared one by what follows its ShareName.
pub(super) fn matches(filter: &TopicFilter, topic: &TopicName) -> bool {
    if let Some((_, inner)) = filter.share() {
        return matches(&inner, topic);
    }
    let mut topic_levels = topic.levels();
    for (place, level) in filter.levels().enumerate() {
        // [MQTT-4.7.2-1]
        let is_hidden = place == 0 && topic.starts_with_dollar();
        match level {
            "#" => return !is_hidden,
            "+" if is_hidden => return false,
            "+" => {
                if topic_levels.next().is_none() {
                    return false;
                }
            }
            level => {
                if topic_levels.next() != Some(level) {
                    return false;
                }
            }
        }
    }
    topic_levels.next().is_none()
}

/// `GET /subscriptions`
pub(super) async fn list(
    State(answers): State<Arc<Answers>>,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    let wanted = Wanted {
        topic: params.topic.as_deref().map(topic_name).transpose()?,
        client: params.client,
    };
    let limit = limit(params.limit)?;
    page(answers.cluster()?, &wanted, limit, params.cursor.as_deref()).await
}

/// `GET /topics/match`: who would get a message on a topic.
pub(super) async fn matching(
    State(answers): State<Arc<Answers>>,
    Params(params): Params<MatchParams>,
) -> Result<Response, Problem> {
    let wanted = Wanted {
        topic: Some(topic_name(&params.topic)?),
        client: None,
    };
    let limit = limit(params.limit)?;
    page(answers.cluster()?, &wanted, limit, params.cursor.as_deref()).await
}

pub(super) fn topic_name(text: &str) -> Result<TopicName, Problem> {
    TopicName::try_from(text)
        .map_err(|error| Problem::bad_request(format!("this is no topic name: {error}")))
}

/// `GET /sessions/{id}/subscriptions`
pub(super) async fn of_session(
    State(answers): State<Arc<Answers>>,
    name: Name,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let (shard, view) = find(cluster, &name)?;
    let stored =
        cluster.broker.shards.shard(shard).and_then(|shard| {
            shard.with_machine(|machine| machine.subscriptions_of(&view.client_id))
        });
    let (subscriptions, incomplete) = match stored {
        Some(stored) => {
            let subscriptions = stored
                .iter()
                .map(|(filter, subscription)| of_stored(&view.client_id, filter, subscription));
            (subscriptions.collect::<Vec<_>>(), json!([]))
        }
        None => {
            let connections = cluster.connections(view.holder, true).await;
            let found = view
                .holder
                .and_then(|holder| connections.found.get(&holder));
            let mut live = found
                .map(|found| found.subscriptions.clone())
                .unwrap_or_default();
            live.sort_by(|a, b| a.filter.cmp(&b.filter));
            let subscriptions = live.iter().map(|live| of_live(&view.client_id, live));
            (subscriptions.collect(), incomplete(&connections))
        }
    };
    Ok(ok(&json!({
        "subscriptions": subscriptions,
        "incomplete": incomplete,
    })))
}

/// Looks at a shard, with all subscriptions of each client; `matches` is asked outside of its lock.
fn look(machine: &Machine, after: Option<&ClientId>, max: usize) -> Vec<SubscriberView> {
    machine.subscribers_after(after, max, LOOK_MAX)
}

/// One page in the order of client ids, and of filters for each.
async fn page(
    cluster: &Cluster,
    wanted: &Wanted,
    limit: usize,
    cursor: Option<&str>,
) -> Result<Response, Problem> {
    let place: Place = cursor::decode(cursor)?.unwrap_or_default();
    let client_id = |text: Option<String>| text.map(|text| Name(text).client_id()).transpose();
    let mut after = client_id(place.after.clone())?;
    let read = (
        look as fn(&Machine, Option<&ClientId>, usize) -> Vec<SubscriberView>,
        (|view: &SubscriberView| &view.client_id) as fn(&SubscriberView) -> &ClientId,
    );
    let mut walk = Walk::new(&cluster.broker, read, after.as_ref(), limit);
    let mut page = Page {
        limit,
        resume: place,
        items: Vec::new(),
        incomplete: Connections::default(),
        next: None,
    };
    let mut looked_at = 0_usize;
    loop {
        let mut gathered = Vec::new();
        while gathered.len() < GATHERED_MAX.min(limit)
            && looked_at < LOOKED_AT_MAX
            && let Some((_, view)) = walk.next()
        {
            looked_at = looked_at.saturating_add(1);
            if looked_at.is_multiple_of(LOOKED_AT_ONCE) {
                tokio::task::yield_now().await;
            }
            gathered.push(view);
        }
        let Some(last) = gathered.last().map(|view| view.client_id.clone()) else {
            break;
        };
        gathered.retain(|view| wanted.client(&view.client_id));
        if !page.add(cluster, wanted, after, gathered).await {
            break;
        }
        after = Some(last);
        if looked_at >= LOOKED_AT_MAX {
            page.next = Some(Place {
                after: after.map(|after| after.as_str().to_owned()),
                ..Place::default()
            });
            break;
        }
    }
    let mut answer =
        json!({ "subscriptions": page.items, "incomplete": incomplete(&page.incomplete) });
    if let (Some(next), Value::Object(answer)) = (&page.next, &mut answer) {
        answer.insert("next_cursor".to_owned(), json!(cursor::encode(next)));
    }
    Ok(ok(&answer))
}

/// A page in the making.
struct Page {
    limit: usize,
    /// Of this client only what is behind this filter.
    resume: Place,
    items: Vec<Value>,
    incomplete: Connections,
    next: Option<Place>,
}

impl Page {
    /// Adds the subscriptions of these clients, the first of which comes behind `after`. False: the page
    /// is full.
    async fn add(
        &mut self,
        cluster: &Cluster,
        wanted: &Wanted,
        mut after: Option<ClientId>,
        views: Vec<SubscriberView>,
    ) -> bool {
        let transient = views
            .iter()
            .filter(|view| view.stored.is_none())
            .filter_map(|view| view.holder);
        let connections = cluster.connections(transient, true).await;
        self.incomplete.incomplete.extend(&connections.incomplete);
        for view in views {
            let of_client = subscriptions(&view, wanted, &connections);
            for (filter, item) in of_client {
                if self.is_passed(&view.client_id, &filter) {
                    continue;
                }
                if self.items.len() == self.limit {
                    let last = self.items.last();
                    let text = |name: &str| Some(last?.get(name)?.as_str()?.to_owned());
                    let (client_id, filter) = (text("client_id"), text("filter"));
                    self.next = Some(if client_id.as_deref() == Some(view.client_id.as_str()) {
                        Place {
                            after: after.map(|after| after.as_str().to_owned()),
                            client_id,
                            filter,
                        }
                    } else {
                        Place {
                            after: client_id,
                            ..Place::default()
                        }
                    });
                    return false;
                }
                self.items.push(item);
            }
            after = Some(view.client_id);
        }
        true
    }

    /// It was in an earlier page.
    fn is_passed(&self, client_id: &ClientId, filter: &str) -> bool {
        self.resume.client_id.as_deref() == Some(client_id.as_str())
            && self
                .resume
                .filter
                .as_deref()
                .is_some_and(|last| filter <= last)
    }
}

/// The wanted subscriptions of one client, in the order of their filters.
fn subscriptions(
    view: &SubscriberView,
    wanted: &Wanted,
    connections: &Connections,
) -> Vec<(String, Value)> {
    if let Some(stored) = &view.stored {
        let wanted = stored.iter().filter(|(filter, _)| wanted.filter(filter));
        let mut items: Vec<_> = wanted
            .map(|(filter, subscription)| {
                let item = of_stored(&view.client_id, filter, subscription);
                (filter.as_str().to_owned(), item)
            })
            .collect();
        items.sort_by(|(a, _), (b, _)| a.cmp(b));
        return items;
    }
    let found = view
        .holder
        .and_then(|holder| connections.found.get(&holder));
    let live = found.map(|found| found.subscriptions.as_slice());
    let mut items: Vec<(String, Value)> = live
        .unwrap_or_default()
        .iter()
        .filter(|live| {
            TopicFilter::try_from(live.filter.as_str()).is_ok_and(|filter| wanted.filter(&filter))
        })
        .map(|live| (live.filter.clone(), of_live(&view.client_id, live)))
        .collect();
    items.sort_by(|(a, _), (b, _)| a.cmp(b));
    items
}

fn of_stored(
    client_id: &ClientId,
    filter: &TopicFilter,
    subscription: &session::Subscription,
) -> Value {
    let options = subscription.options;
    json!({
        "client_id": client_id.as_str(),
        "filter": filter.as_str(),
        "qos": qos_number(options.qos),
        "no_local": options.no_local,
        "retain_as_published": options.retain_as_published,
        "retain_handling": options.retain_handling as u8,
        "identifier": subscription.identifier.map(|identifier| identifier.get()),
        "stored": true,
    })
}

fn of_live(client_id: &ClientId, live: &Subscription) -> Value {
    json!({
        "client_id": client_id.as_str(),
        "filter": live.filter,
        "qos": live.qos,
        "no_local": live.no_local,
        "retain_as_published": live.retain_as_published,
        "retain_handling": live.retain_handling,
        "identifier": (live.identifier != 0).then_some(live.identifier),
        "stored": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_standard_has_it() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("#", "a", true),
            ("#", "$SYS/a", false),
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
            ("+/+", "/a", true),
            ("$share/g/a/+", "a/b", true),
            ("$share/g/#", "$SYS/a", false),
        ] {
            let filter = TopicFilter::try_from(filter).unwrap();
            let topic = TopicName::try_from(topic).unwrap();
            assert_eq!(matches(&filter, &topic), expected, "{filter:?} {topic:?}");
        }
    }
}
