//! The ban file: who is not let in, whatever it shows.
//!
//! ```text
//! # a comment
//! client:meter-17
//! user:mallory
//! net:203.0.113.0/24
//! ```

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::credentials::{CredentialsError, CredentialsFile};

/// Whom the file names.
#[derive(Debug, Default)]
pub(crate) struct Bans {
    clients: HashSet<Box<str>>,
    users: HashSet<Box<str>>,
    networks: Vec<IpNet>,
}

impl Bans {
    /// Reads a file.
    ///
    /// # Errors
    /// With the number of the first line that is wrong.
    pub(super) fn read(path: &Path) -> Result<Self, CredentialsError> {
        let file = CredentialsFile {
            key: "auth.ban_file",
            path,
        };
        let mut bans = Self::default();
        file.each_line(|line| bans.add(line))?;
        Ok(bans)
    }

    fn add(&mut self, line: &str) -> Result<(), &'static str> {
        const FORM: &str = "expected client:ID, user:NAME or net:CIDR";
        let (kind, name) = line.split_once(':').ok_or(FORM)?;
        if name.is_empty() {
            return Err(FORM);
        }
        match kind {
            "client" => drop(self.clients.insert(name.into())),
            "user" => drop(self.users.insert(name.into())),
            "net" => self.networks.push(network(name)?),
            _ => return Err(FORM),
        }
        Ok(())
    }

    /// How many lines say something.
    pub(super) fn len(&self) -> usize {
        let texts = self.clients.len().saturating_add(self.users.len());
        texts.saturating_add(self.networks.len())
    }

    /// Whether a client identifier or an address is banned.
    pub(super) fn has_client(&self, client_id: &str, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.clients.contains(client_id)
            || self
                .networks
                .iter()
                .any(|network| network.contains(&address))
    }

    /// Whether a user name is banned.
    pub(super) fn has_user(&self, user: &str) -> bool {
        self.users.contains(user)
    }
}

fn network(text: &str) -> Result<IpNet, &'static str> {
    let one = |address: IpAddr| IpNet::from(address);
    let network = text.parse().ok().or_else(|| text.parse().ok().map(one));
    network.ok_or(
        "expected an address or a network such as 203.0.113.0/24 or 2001:db8::/32 behind net:",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bans(text: &str) -> Result<Bans, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bans");
        std::fs::write(&path, text).unwrap();
        Bans::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn clients_users_and_networks_are_found() {
        let bans =
            bans("# x\nclient:a:b \nuser:mallory\nnet:10.1.0.0/16\nnet:2001:db8::1\n").unwrap();
        assert_eq!(bans.len(), 4);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let elsewhere = address("192.0.2.1");
        assert!(bans.has_client("a:b", elsewhere) && !bans.has_client("a", elsewhere));
        assert!(bans.has_user("mallory") && !bans.has_user("a:b"));
        for (text, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.2.0.0", false),
            ("2001:db8::1", true),
            ("2001:db8::2", false),
        ] {
            assert_eq!(bans.has_client("x", address(text)), expected, "{text}");
        }
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, line, problem) in [
            ("client:", 1, "expected client:"),
            ("\nip:1.2.3.4", 2, "expected client:"),
            ("mallory", 1, "expected client:"),
            ("net:10.0.0.0/33", 1, "network"),
            ("net:example.org", 1, "network"),
        ] {
            let error = bans(text).unwrap_err();
            assert!(error.contains(&format!("bans:{line}: ")), "{error}");
            assert!(error.contains(problem), "{error}");
        }
    }
}
