//! Who a client is: passwords, tokens, certificates and enhanced authentication (MQTT 5.0, section 4.12),
//! of which one method is built in, SCRAM-SHA-256; who is banned; and what a reload of all that means for
//! clients that are connected. docs/security.md is the reference.

mod bans;
mod credentials;
mod exchange;
mod login;
mod passwords;
mod policy;
mod principal;
mod recheck;
mod repeated;
pub(crate) mod scram;
mod scram_file;
mod signatures;
mod throttle;
mod tokens;

pub use credentials::CredentialsError;
pub(crate) use exchange::{Failure, Identity, Proof};
pub(crate) use login::{Logins, THROTTLED, login, way};
pub use passwords::hash_password;
pub(crate) use policy::AccessPolicy;
pub(crate) use principal::Principal;
pub(crate) use repeated::Reauthentication;
pub use scram_file::ScramUser;
