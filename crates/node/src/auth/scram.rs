//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side of one exchange; the protocol itself is
//! `rsasl`'s.

use std::fmt;
use std::sync::Arc;

use rsasl::callback::{Context, Request, SessionCallback, SessionData};
use rsasl::mechanisms::scram::properties::ScramStoredPassword;
use rsasl::prelude::{Mechname, SASLConfig, SASLError, SASLServer, Session, SessionError};
use rsasl::prelude::{State, Validation};
use rsasl::property::{AuthId, AuthzId};
use rsasl::validate::{Validate, ValidationError};

use super::credentials::Fingerprint;
use super::scram_file::{ScramUser, ScramUsers};

/// The Authentication Method in CONNECT and AUTH.
pub(crate) const METHOD: &str = "SCRAM-SHA-256";

/// Who may authenticate.
#[derive(Clone, Debug)]
pub(crate) struct Scram {
    config: Arc<SASLConfig>,
    users: Arc<ScramUsers>,
}

/// The user name in a client's first message (RFC 5802, section 7: `n=` after the GS2 header), as the
/// client claims it; `None`: there is none, which the exchange will find out.
pub(super) fn claimed_user(first: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(first).ok()?;
    let name = text.split(',').nth(2)?.strip_prefix("n=")?;
    Some(name.replace("=2C", ",").replace("=3D", "="))
}

/// One exchange; of no use after [`Step::Accepted`] and [`Step::Refused`].
pub(crate) struct Exchange {
    session: Session<Name>,
    has_begun: bool,
    is_over: bool,
}

/// What the broker answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Authentication Data for the client, who has to answer.
    Continue(Vec<u8>),
    /// The client is this user; Authentication Data that proves the broker to it.
    Accepted {
        /// As written in the file.
        user: String,
        /// The server's signature.
        data: Vec<u8>,
    },
    /// Not this user, or not SCRAM.
    Refused,
}

impl Scram {
    /// From the users of a file.
    ///
    /// # Errors
    /// None that a user could cause.
    pub(crate) fn new(users: ScramUsers) -> Result<Self, SASLError> {
        let users = Arc::new(users);
        let lookup = Lookup {
            users: Arc::clone(&users),
            decoy_secret: rand::random(),
        };
        let builder = SASLConfig::builder().with_default_mechanisms();
        let config = builder.with_callback(lookup)?;
        Ok(Self { config, users })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// Stands for the line of a user.
    pub(super) fn fingerprint(&self, user: &str) -> Option<Fingerprint> {
        let user = self.users.get(user)?;
        Some(Fingerprint::of(user.to_string()))
    }

    /// Begins an exchange.
    ///
    /// # Errors
    /// None that a client could cause.
    pub(crate) fn begin(&self) -> Result<Exchange, SASLError> {
        let server = SASLServer::new(Arc::clone(&self.config));
        // The method's name is one.
        let method =
            Mechname::parse(METHOD.as_bytes()).map_err(|_why| SASLError::NoSharedMechanism)?;
        Ok(Exchange {
            session: server.start_suggested(method)?,
            has_begun: false,
            is_over: false,
        })
    }
}

impl Exchange {
    /// Takes the client's Authentication Data. A client that begins without any is asked for it: in
    /// SCRAM the client speaks first.
    pub(crate) fn step(&mut self, data: Option<&[u8]>) -> Step {
        if data.is_none() && !self.has_begun {
            self.has_begun = true;
            return Step::Continue(Vec::new());
        }
        self.has_begun = true;
        if self.is_over {
            return Step::Refused;
        }
        let mut answer = Vec::new();
        let state = self
            .session
            .step(Some(data.unwrap_or_default()), &mut answer);
        // After an error the library does not take another step.
        self.is_over = !matches!(state, Ok(State::Running));
        match state {
            Ok(State::Running) => Step::Continue(answer),
            Ok(State::Finished(_)) => match self.session.validation() {
                Some(user) => Step::Accepted { user, data: answer },
                None => Step::Refused,
            },
            Err(error) => {
                tracing::debug!(%error, "SCRAM");
                Step::Refused
            }
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

/// What an exchange ends with: the user's name.
struct Name;

impl Validation for Name {
    type Value = String;
}

struct Lookup {
    users: Arc<ScramUsers>,
    /// Makes what is told of users who do not exist unpredictable, and the same each time.
    decoy_secret: [u8; 32],
}

impl SessionCallback for Lookup {
    fn callback(
        &self,
        _: &SessionData,
        context: &Context<'_>,
        request: &mut Request<'_>,
    ) -> Result<(), SessionError> {
        let Some(name) = context.get_ref::<AuthId>().map(unescape) else {
            return Ok(());
        };
        let decoy;
        let user = match self.users.get(&name) {
            Some(user) => user,
            None => {
                decoy = ScramUser::decoy(&name, &self.decoy_secret);
                &decoy
            }
        };
        request.satisfy::<ScramStoredPassword<'_>>(&ScramStoredPassword::new(
            user.iterations.get(),
            &user.salt,
            &user.stored_key,
            &user.server_key,
        ))?;
        Ok(())
    }

    /// The client has proved that it knows the password. To act for somebody else is not possible.
    fn validate(
        &self,
        _: &SessionData,
        context: &Context<'_>,
        validate: &mut Validate<'_>,
    ) -> Result<(), ValidationError> {
        let name = context.get_ref::<AuthId>();
        let acts_for = context.get_ref::<AuthzId>();
        if let Some(name) = name
            && acts_for.is_none_or(|other| other == name)
        {
            validate.finalize::<Name>(unescape(name));
        }
        Ok(())
    }
}

/// A name as it stands in SCRAM's messages: `,` and `=` are written `=2C` and `=3D` (RFC 5802, section
/// 5.1).
fn unescape(name: &str) -> String {
    name.replace("=2C", ",").replace("=3D", "=")
}

#[cfg(test)]
mod tests {
    use rsasl::prelude::SASLClient;

    use super::*;

    fn scram(names: &[&str]) -> Scram {
        let line = |name: &&str| format!("{name}:{}\n", ScramUser::from_password("pencil"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        std::fs::write(&path, names.iter().map(line).collect::<String>()).unwrap();
        Scram::new(ScramUsers::read(&path).unwrap()).unwrap()
    }

    /// A whole exchange with the client of `rsasl`; also what the client thinks of it.
    fn exchange(scram: &Scram, name: &str, password: &str, acts_for: Option<&str>) -> (Step, bool) {
        let acts_for = acts_for.map(str::to_owned);
        let config =
            SASLConfig::with_credentials(acts_for, name.to_owned(), password.to_owned()).unwrap();
        let method = Mechname::parse(METHOD.as_bytes()).unwrap();
        let client = SASLClient::new(config);
        let mut client = client.start_suggested(&[method]).unwrap();
        let mut server = scram.begin().unwrap();
        let mut to_server = Vec::new();
        client.step(None, &mut to_server).unwrap();
        loop {
            match server.step(Some(&to_server)) {
                Step::Continue(data) => {
                    to_server.clear();
                    client.step(Some(&data), &mut to_server).unwrap();
                }
                Step::Accepted { user, data } => {
                    let proved = client.step(Some(&data), &mut Vec::new()).is_ok();
                    return (Step::Accepted { user, data }, proved);
                }
                Step::Refused => return (Step::Refused, false),
            }
        }
    }

    #[test]
    fn the_first_message_names_the_user() {
        for (first, user) in [
            ("n,,n=alice,r=nonce", Some("alice")),
            ("n,a=x,n=a=2Cb=3Dc,r=nonce", Some("a,b=c")),
            ("n,,r=nonce", None),
            ("", None),
        ] {
            assert_eq!(claimed_user(first.as_bytes()).as_deref(), user, "{first}");
        }
        assert_eq!(claimed_user(&[0xFF, b',', b',']), None);
    }

    #[test]
    fn who_knows_the_password_is_accepted_and_sees_that_the_broker_knows_it_too() {
        let scram = scram(&["alice", "a=b,c"]);
        for name in ["alice", "a=b,c"] {
            let (step, proved) = exchange(&scram, name, "pencil", None);
            assert!(matches!(step, Step::Accepted { user, .. } if user == name));
            assert!(proved);
        }
    }

    #[test]
    fn everybody_else_is_refused() {
        let scram = scram(&["alice", "bob"]);
        for (name, password, acts_for) in [
            ("alice", "pencil2", None),
            ("alice", "", None),
            ("carol", "pencil", None),
            ("alice", "pencil", Some("bob")),
        ] {
            let (step, _) = exchange(&scram, name, password, acts_for);
            assert_eq!(step, Step::Refused, "{name}");
        }
    }

    #[test]
    fn a_name_is_unescaped_once() {
        assert_eq!(unescape("a=2Cb=3Dc"), "a,b=c");
        assert_eq!(unescape("=3D2C"), "=2C");
    }

    #[test]
    fn a_client_that_begins_without_data_is_asked_once() {
        let scram = scram(&["alice"]);
        let mut exchange = scram.begin().unwrap();
        assert_eq!(exchange.step(None), Step::Continue(Vec::new()));
        assert_eq!(exchange.step(None), Step::Refused);
    }

    #[test]
    fn nonsense_is_refused() {
        let scram = scram(&["alice"]);
        for data in [
            &b""[..],
            b"n,,n=alice",
            b"p=tls-unique,,n=alice,r=x",
            &[0xFF; 64],
        ] {
            assert_eq!(scram.begin().unwrap().step(Some(data)), Step::Refused);
        }
        let mut exchange = scram.begin().unwrap();
        let first = exchange.step(Some(b"n,,n=alice,r=nonce"));
        assert!(matches!(first, Step::Continue(_)));
        for _ in 0..2 {
            assert_eq!(exchange.step(Some(b"c=biws,r=other,p=AAAA")), Step::Refused);
        }
    }

    /// The same salt each time, as of somebody who exists.
    #[test]
    fn nobody_can_ask_who_exists() {
        let scram = scram(&["alice"]);
        let salt_of = |name: &str| {
            let first = format!("n,,n={name},r=nonce");
            let Step::Continue(data) = scram.begin().unwrap().step(Some(first.as_bytes())) else {
                panic!("{name} gets no challenge")
            };
            let text = String::from_utf8(data).unwrap();
            text.split_once(",s=").unwrap().1.to_owned()
        };
        for name in ["alice", "carol"] {
            assert_eq!(salt_of(name), salt_of(name));
        }
        assert_ne!(salt_of("carol"), salt_of("dave"));
        assert_eq!(salt_of("carol").len(), salt_of("alice").len());
    }
}
