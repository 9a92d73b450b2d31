//! Who the clients of a run are.

use std::time::Duration;

use codec::{ProtocolVersion, Qos};

use crate::features::Features;

const V3: ProtocolVersion = ProtocolVersion::V311;
const V5: ProtocolVersion = ProtocolVersion::V5;

/// How long a session outlives its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Not at all.
    Transient,
    /// Longer than the test.
    Persistent,
    /// 5.0: so many seconds.
    Seconds(u32),
}

/// What a client publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Publishes {
    Nothing,
    /// To the topics that most subscribe to.
    News,
    /// To the topics of the shared subscriptions.
    Shared,
    /// Retained, to topics of its own.
    Values,
}

/// One client.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) version: ProtocolVersion,
    pub(crate) keep: Keep,
    pub(crate) publishes: Publishes,
    /// Subscribed to from the beginning of each session, and never given up.
    pub(crate) fixed: Vec<(String, Qos)>,
    /// Whether it also subscribes and unsubscribes at random.
    pub(crate) browses: bool,
    /// Whether its sessions begin anew now and then.
    pub(crate) starts_clean: bool,
    /// Whether it has a will.
    pub(crate) has_will: bool,
    /// Mean time between two things that it does.
    pub(crate) pace: Duration,
    /// Mean time that it stays connected by its own choice.
    pub(crate) stays: Duration,
    /// How long it is away at most.
    pub(crate) away: Duration,
}

/// Topics of a round begin with its prefix, so that no round sees messages of another.
pub(crate) struct Topics {
    prefix: String,
}

impl Topics {
    pub(crate) fn new(round: u32) -> Self {
        Self {
            prefix: format!("round{round}"),
        }
    }

    /// All topics that are published to as news.
    pub(crate) fn news(&self) -> Vec<String> {
        let rooms = ["a", "b", "c"].iter();
        rooms
            .flat_map(|room| (0..3).map(move |place| format!("{room}/{place}")))
            .map(|rest| format!("{}/news/{rest}", self.prefix))
            .collect()
    }

    /// Filters to choose from at random.
    pub(crate) fn filters(&self) -> Vec<String> {
        let filters = ["news/a/#", "news/+/1", "news/b/2", "+/c/+", "news/b/#"];
        let filters = filters.iter();
        filters
            .map(|filter| format!("{}/{filter}", self.prefix))
            .collect()
    }

    /// Topics of shared subscriptions: jobs for members of all kinds, tasks for persistent ones.
    pub(crate) fn shared(&self) -> Vec<String> {
        let kinds = ["jobs", "tasks"].iter();
        kinds
            .flat_map(|kind| (0..2).map(move |place| format!("{kind}/{place}")))
            .map(|rest| format!("{}/{rest}", self.prefix))
            .collect()
    }

    /// The topics with the retained values of one client.
    pub(crate) fn values(&self, client: &str) -> Vec<String> {
        let places = 0..3;
        places
            .map(|place| format!("{}/values/{client}/{place}", self.prefix))
            .collect()
    }

    pub(crate) fn will(&self, client: &str) -> String {
        format!("{}/wills/{client}", self.prefix)
    }

    fn all(&self, kind: &str) -> String {
        format!("{}/{kind}/#", self.prefix)
    }
}

/// All clients of a round.
pub(crate) fn profiles(topics: &Topics, round: u32, features: Features) -> Vec<Profile> {
    let mut all = Vec::new();
    for (index, version) in [V3, V5, V3, V5].into_iter().enumerate() {
        let base = |kind: &str| Profile::new(format!("{kind}{index}-r{round}"), version);
        all.push(anchor(base("anchor"), topics, index));
        all.push(Profile {
            publishes: Publishes::News,
            pace: Duration::from_millis(110),
            has_will: features.wills,
            ..base("publisher")
        });
        all.push(Profile {
            publishes: Publishes::News,
            browses: true,
            starts_clean: true,
            ..base("mixed")
        });
        all.push(Profile {
            keep: Keep::Transient,
            fixed: vec![(topics.all("news"), Qos::ExactlyOnce)],
            browses: true,
            pace: Duration::from_secs(2),
            stays: Duration::from_secs(25),
            ..base("listener")
        });
    }
    for (index, version) in [V3, V5].into_iter().enumerate() {
        let base = |kind: &str| Profile::new(format!("{kind}{index}-r{round}"), version);
        all.push(Profile {
            fixed: vec![(topics.all("news"), Qos::ExactlyOnce)],
            stays: Duration::from_secs(3),
            away: Duration::from_secs(40),
            ..base("sleeper")
        });
        all.push(Profile {
            keep: Keep::Transient,
            publishes: Publishes::News,
            ..base("passer")
        });
        all.push(Profile {
            version: V5,
            keep: Keep::Seconds(6),
            publishes: Publishes::News,
            fixed: vec![(topics.all("news"), Qos::AtLeastOnce)],
            away: Duration::from_secs(14),
            ..base("expiring")
        });
        if features.retained {
            all.extend(values(topics, &base));
        }
        if features.shared {
            all.extend(jobs(topics, &base));
        }
    }
    all
}

/// Its sessions last from the first moment to the last: it must get everything.
fn anchor(base: Profile, topics: &Topics, index: usize) -> Profile {
    let qos = if index == 3 {
        Qos::AtLeastOnce
    } else {
        Qos::ExactlyOnce
    };
    Profile {
        fixed: vec![(topics.all("news"), qos), (topics.all("wills"), qos)],
        pace: Duration::from_secs(2),
        ..base
    }
}

fn values(topics: &Topics, base: &impl Fn(&str) -> Profile) -> [Profile; 2] {
    [
        Profile {
            publishes: Publishes::Values,
            ..base("source")
        },
        Profile {
            keep: Keep::Transient,
            fixed: vec![(topics.all("values"), Qos::AtLeastOnce)],
            stays: Duration::from_secs(4),
            ..base("reader")
        },
    ]
}

fn jobs(topics: &Topics, base: &impl Fn(&str) -> Profile) -> [Profile; 3] {
    let jobs = format!("$share/workers/{}", topics.all("jobs"));
    let tasks = format!("$share/clerks/{}", topics.all("tasks"));
    [
        Profile {
            publishes: Publishes::Shared,
            ..base("boss")
        },
        Profile {
            fixed: vec![(jobs.clone(), Qos::ExactlyOnce), (tasks, Qos::ExactlyOnce)],
            ..base("worker")
        },
        Profile {
            keep: Keep::Transient,
            fixed: vec![(jobs, Qos::ExactlyOnce)],
            away: Duration::from_secs(20),
            ..base("helper")
        },
    ]
}

impl Profile {
    fn new(name: String, version: ProtocolVersion) -> Self {
        Self {
            name,
            version,
            keep: Keep::Persistent,
            publishes: Publishes::Nothing,
            fixed: Vec::new(),
            browses: false,
            starts_clean: false,
            has_will: false,
            pace: Duration::from_millis(200),
            stays: Duration::from_secs(8),
            away: Duration::from_secs(3),
        }
    }
}
