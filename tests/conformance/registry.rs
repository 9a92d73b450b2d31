//! The tests that are written in Rust, for what a script cannot say: time, half-open connections,
//! floods. They run in the same forms and bear ids in the same way.
//!
//! A new one is a row of a table [`TESTS`](crate::keep_alive::TESTS) of its file, and its file a line
//! of [`all`].

use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use codec::ProtocolVersion;
use futures::FutureExt;
use testkit::History;
use testkit::header::parse_version;
use testkit::lines::prefix::Prefix;

use crate::brokers::Brokers;
use crate::brokers::Shared;
use crate::configurations::named;
use crate::scenario::Form;
use crate::{keep_alive, label};

/// A test in Rust.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    /// `AREA/what_it_shows`.
    pub(crate) name: &'static str,
    /// As in the head of a script: `5.0: MQTT-3.1.2-22`. It runs in these versions.
    pub(crate) ids: &'static [&'static str],
    /// What it does; a panic is its failure.
    pub(crate) run: fn(Scene) -> Body,
}

/// A test at work.
pub(crate) type Body = Pin<Box<dyn Future<Output = ()>>>;

/// Where it runs.
pub(crate) struct Scene {
    pub(crate) version: ProtocolVersion,
    /// Where clients connect: one address, or one per node.
    pub(crate) nodes: Vec<SocketAddr>,
    /// What client ids and topics begin with.
    pub(crate) prefix: Prefix,
    pub(crate) history: History,
}

/// All of them.
pub(crate) fn all() -> Vec<Test> {
    [keep_alive::TESTS].concat()
}

impl Test {
    /// Whether it runs in this version.
    pub(crate) fn is_for(&self, version: ProtocolVersion) -> bool {
        let mut ids = self.ids.iter().filter_map(|ids| parse_version(ids).ok());
        ids.any(|(other, _)| other == label(version))
    }

    /// As the test is called.
    pub(crate) fn full_name(&self, version: ProtocolVersion, form: Form) -> String {
        format!("{}::{}::{form}", self.name, label(version))
    }

    /// Runs it.
    ///
    /// # Errors
    /// Its panic and the packets before it.
    pub(crate) async fn run(
        &self,
        version: ProtocolVersion,
        form: Form,
        brokers: &Brokers,
    ) -> Result<(), String> {
        let configuration = named(None).ok_or("there is no default")?;
        let nodes = if form == Form::Single { 1 } else { 3 };
        let cell = brokers.cell(&configuration, nodes);
        let shared = cell
            .get_or_init(|| Shared::start(&configuration, nodes))
            .await;
        let _together = shared.gate.read().await;
        let history = History::new();
        let scene = Scene {
            version,
            nodes: shared.addresses.clone(),
            prefix: Prefix::next(),
            history: history.clone(),
        };
        let outcome = AssertUnwindSafe((self.run)(scene)).catch_unwind().await;
        outcome.map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let history = history.render(300);
            format!("{}\n---- packets ----\n{history}", text.unwrap_or_default())
        })
    }
}
