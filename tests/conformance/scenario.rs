//! One script, in one version and form, as a test.

use std::fmt;
use std::sync::Arc;

use codec::ProtocolVersion;
use testkit::History;

use crate::brokers::{Brokers, Shared, logs, start};
use crate::configurations::{Configuration, named};
use crate::connection::Setting;
use crate::driver::Driver;
use crate::files::File;
use crate::killer::Killer;
use crate::label;
use crate::place::Place;
use testkit::lines::prefix::Prefix;

/// What a failed test prints of its history.
const HISTORY_LINES_MAX: usize = 300;

/// How a script is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// One node.
    Single,
    /// Three nodes, actors on different ones.
    Cluster,
    /// The same, and at each `failover` the actor's node is killed.
    Kill,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single => "single",
            Self::Cluster => "cluster",
            Self::Kill => "kill",
        })
    }
}

/// A script with a version and a form.
#[derive(Clone)]
pub(crate) struct Scenario {
    pub(crate) file: Arc<File>,
    pub(crate) version: ProtocolVersion,
    pub(crate) form: Form,
}

impl Scenario {
    /// As the test is called.
    pub(crate) fn name(&self) -> String {
        format!("{}::{}::{}", self.file.name, label(self.version), self.form)
    }

    /// Runs it.
    ///
    /// # Errors
    /// What differs, with everything that helps to see why.
    pub(crate) async fn run(&self, brokers: &Brokers) -> Result<(), String> {
        let configuration = named(self.file.header.config.as_deref())
            .ok_or_else(|| format!("there is no configuration {:?}", self.file.header.config))?;
        match self.form {
            Form::Kill => self.run_with_kills(&configuration, brokers).await,
            Form::Single | Form::Cluster => {
                let nodes = if self.form == Form::Single { 1 } else { 3 };
                let cell = brokers.cell(&configuration, nodes);
                let shared = cell
                    .get_or_init(|| Shared::start(&configuration, nodes))
                    .await;
                self.run_on(shared).await
            }
        }
    }

    async fn run_on(&self, shared: &Shared) -> Result<(), String> {
        let is_alone = self.file.header.is_alone;
        let _alone = if is_alone {
            Some(shared.gate.write().await)
        } else {
            None
        };
        let _together = if is_alone {
            None
        } else {
            Some(shared.gate.read().await)
        };
        let setting = self.setting();
        let place = Place {
            addresses: shared.addresses.clone(),
            barrier: shared.barrier.as_ref(),
            killer: None,
        };
        self.drive(place, &setting)
            .await
            .map_err(|why| self.failure(&why, &setting, &shared.logs(setting.prefix.as_str())))
    }

    async fn run_with_kills(
        &self,
        configuration: &Configuration,
        brokers: &Brokers,
    ) -> Result<(), String> {
        let mut guard = brokers.killer.lock().await;
        // A script that failed in the middle of a panic leaves no cluster to the next one.
        let mut killer = match guard.take() {
            Some(killer) => killer,
            None => Killer::new(start(configuration, 3).await).await,
        };
        killer.make_whole().await;
        let setting = self.setting();
        let place = Place {
            addresses: killer.addresses(),
            barrier: None,
            killer: Some(&mut killer),
        };
        let outcome = self.drive(place, &setting).await;
        let outcome = outcome.map_err(|why| {
            let logs = logs(killer.cluster(), setting.prefix.as_str());
            self.failure(&why, &setting, &logs)
        });
        *guard = Some(killer);
        outcome
    }

    async fn drive(&self, place: Place<'_>, setting: &Setting) -> Result<(), String> {
        Driver::new(place, setting.clone())
            .run(&self.file.script)
            .await
    }

    fn setting(&self) -> Setting {
        let is_alone = self.file.header.is_alone && self.form != Form::Kill;
        Setting {
            version: self.version,
            prefix: if is_alone {
                Prefix::none()
            } else {
                Prefix::next()
            },
            history: History::new(),
        }
    }

    fn failure(&self, why: &str, setting: &Setting, logs: &str) -> String {
        let (name, path) = (self.name(), &self.file.path);
        let history = setting.history.render(HISTORY_LINES_MAX);
        format!(
            "{path}, {why}\n\
             ---- packets ----\n{history}\
             ---- what the nodes logged about it ----\n{logs}\
             ---- again: cargo test --release -p node --test conformance -- --exact {name}\n"
        )
    }
}
