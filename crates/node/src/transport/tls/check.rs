//! `holdfast tls check`: the files as a node reads them at its start, and what the other side of a
//! connection would say of them.

use std::time::Duration;

use tokio_rustls::rustls::pki_types::UnixTime;

use super::{CLUSTER, File, Problem, Role, Source, certificate, sources};
use crate::config::{ClientCertificate, Loaded};
use crate::error::StartError;

/// A certificate that is good for less than this is worth a warning, as in the alerts.
const SOON_S: i64 = 14 * DAY_S;
const DAY_S: i64 = 86_400;

/// What was found in the files of a listener, or of the cluster port.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The listener's name; `cluster` is the cluster port.
    pub(crate) listener: String,
    /// The certificates that could be read.
    pub(crate) shown: Vec<Shown>,
    /// With these the node does not start, or nobody gets through.
    pub(crate) problems: Vec<String>,
    /// These become problems.
    pub(crate) warnings: Vec<String>,
}

/// One certificate of a file.
#[derive(Debug)]
pub(crate) struct Shown {
    /// The key that names its file.
    pub(crate) key: String,
    /// Its name.
    pub(crate) name: String,
    /// Since when and until when it is good, in seconds since 1970.
    pub(crate) validity: (i64, i64),
    /// Whole days that are left; below 0: it has expired.
    pub(crate) days_left: i64,
}

/// Looks at every certificate that the configuration names. `now`: since 1970. Reads from the disk.
pub(crate) fn check(loaded: &Loaded, now: Duration) -> Vec<Checked> {
    let sources = sources(&loaded.config);
    sources
        .iter()
        .map(|source| {
            let checked = Checked {
                listener: source.name.clone(),
                shown: Vec::new(),
                problems: Vec::new(),
                warnings: Vec::new(),
            };
            Check {
                loaded,
                now,
                checked,
            }
            .of(source)
        })
        .collect()
}

/// One under way.
struct Check<'a> {
    loaded: &'a Loaded,
    now: Duration,
    checked: Checked,
}

impl Check<'_> {
    fn of(mut self, source: &Source) -> Checked {
        let files = &source.files;
        let own = self.certificates(&files.cert);
        for (number, certificate) in (1_usize..).zip(&own) {
            self.judge(&files.cert, number, certificate);
        }
        self.follow(&files.cert, &own);
        if let Some(file) = &files.ca {
            let authorities = self.certificates(file);
            self.judge_authorities(file, &authorities);
        }
        let used = files.read().and_then(|contents| {
            source.user(&contents)?;
            Ok(contents)
        });
        match (used, source.role) {
            (Ok(contents), Role::Cluster) if self.checked.problems.is_empty() => {
                let verified = self.verify_as_peer(source, &contents);
                self.note(verified);
            }
            (Ok(_), Role::Cluster | Role::Listener(_)) => {}
            (Err(problem), _) => self.problem(problem),
        }
        self.checked
    }

    /// All certificates of a file; what cannot be read is noted.
    fn certificates(&mut self, file: &File) -> Vec<certificate::Certificate> {
        let read = file.read().and_then(|pem| {
            let certificates = file.certificates(&pem)?;
            let parsed = certificates.iter().map(certificate::parse);
            parsed
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| file.problem(error))
        });
        let certificates = self.note(read).unwrap_or_default();
        for certificate in &certificates {
            let name = certificate.common_name.as_ref();
            let name = name.or(certificate.alternative_name.as_ref());
            let (_, until) = certificate.validity;
            self.checked.shown.push(Shown {
                key: file.key.clone(),
                name: name.cloned().unwrap_or_default(),
                validity: certificate.validity,
                days_left: until.saturating_sub(self.now_s()).div_euclid(DAY_S),
            });
        }
        certificates
    }

    fn judge(&mut self, file: &File, number: usize, certificate: &certificate::Certificate) {
        let (from, until) = certificate.validity;
        let left = until.saturating_sub(self.now_s());
        if from > self.now_s() {
            self.problem(file.problem(format!("certificate {number} is not valid yet")));
        } else if left < 0 {
            self.problem(file.problem(format!("certificate {number} has expired")));
        } else if left < SOON_S {
            let days = left / DAY_S;
            self.warn(file.problem(format!("certificate {number} expires in {days} days")));
        }
    }

    /// Several may stand side by side while one takes the place of another.
    fn judge_authorities(&mut self, file: &File, authorities: &[certificate::Certificate]) {
        let now = self.now_s();
        let is_good = |certificate: &certificate::Certificate| {
            let (from, until) = certificate.validity;
            (from..=until).contains(&now)
        };
        let is_one_good = authorities.iter().any(is_good);
        for (number, certificate) in (1_usize..).zip(authorities) {
            if is_one_good && !is_good(certificate) {
                self.warn(file.problem(format!("certificate {number} is not valid now")));
            } else {
                self.judge(file, number, certificate);
            }
        }
    }

    /// Each certificate must be signed by the one behind it (RFC 5246, section 7.4.2).
    fn follow(&mut self, file: &File, chain: &[certificate::Certificate]) {
        for (number, (one, next)) in (1_usize..).zip(chain.iter().zip(chain.iter().skip(1))) {
            if one.issuer != next.subject {
                let behind = number.saturating_add(1);
                self.problem(file.problem(format!(
                    "the order is wrong: certificate {number} is not signed by certificate {behind}, its own comes first and each signer behind"
                )));
            }
        }
    }

    /// What another node does with it at the start of a connection.
    fn verify_as_peer(&self, source: &Source, contents: &super::Contents) -> Result<(), Problem> {
        let files = &source.files;
        let (chain, _) = files.identity(contents)?;
        let verifier = files.verifier(contents, ClientCertificate::Required)?;
        let (Some(verifier), [own, between @ ..]) = (verifier, chain.as_slice()) else {
            return Ok(());
        };
        let now = UnixTime::since_unix_epoch(self.now);
        let verified = verifier.verify_client_cert(own, between, now);
        let verified = verified.map_err(|error| {
            let what = format!("nodes that trust {CLUSTER}.tls.ca refuse it: {error}");
            files.cert.problem(what)
        });
        verified.map(|_verified| ())
    }

    fn now_s(&self) -> i64 {
        i64::try_from(self.now.as_secs()).unwrap_or(i64::MAX)
    }

    fn note<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problem(problem);
                None
            }
        }
    }

    /// Once, although several steps read the same file.
    fn problem(&mut self, problem: Problem) {
        let problem = self.located(problem);
        if !self.checked.problems.contains(&problem) {
            self.checked.problems.push(problem);
        }
    }

    fn warn(&mut self, problem: Problem) {
        let problem = self.located(problem);
        self.checked.warnings.push(problem);
    }

    /// With the line that names the file.
    fn located(&self, problem: Problem) -> String {
        let error = StartError::from(problem).located(&self.loaded.entries);
        error.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

    use super::*;
    use crate::config::Sources;

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2030, 1, 1);
        params
    }

    fn authority(name: &str) -> Issuer {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// Certificate and key of a server.
    fn server(issuer: &Issuer) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let signed = params("server").signed_by(&key, issuer).unwrap();
        (signed.pem(), key.serialize_pem())
    }

    /// At noon of a day.
    fn on(year: i32, month: u8, day: u8) -> Duration {
        let seconds = date_time_ymd(year, month, day).unix_timestamp() + DAY_S / 2;
        Duration::from_secs(seconds.try_into().unwrap())
    }

    fn checked(folder: &Path, lines: &str, now: Duration) -> Checked {
        let file = folder.join("holdfast.toml");
        std::fs::write(&file, lines).unwrap();
        let loaded = Loaded::load(&Sources {
            file: Some(file),
            environment: Vec::new(),
            overrides: Vec::new(),
        });
        check(&loaded.unwrap(), now).pop().unwrap()
    }

    fn listener(folder: &Path, (cert, key): &(String, String), now: Duration) -> Checked {
        std::fs::write(folder.join("cert"), cert).unwrap();
        std::fs::write(folder.join("key"), key).unwrap();
        let lines = format!(
            "[[listener]]\nname = \"tls\"\nkind = \"mqtts\"\nbind = \"127.0.0.1:0\"\ncert = \"{0}/cert\"\nkey = \"{0}/key\"\n",
            folder.display()
        );
        checked(folder, &lines, now)
    }

    fn only(texts: &[String]) -> &str {
        let [text] = texts else { panic!("{texts:?}") };
        text
    }

    #[test]
    fn a_certificate_is_good_until_its_last_day() {
        let folder = tempfile::tempdir().unwrap();
        let files = server(&authority("ca"));
        let of = |now| listener(folder.path(), &files, now);
        let good = of(on(2029, 12, 1));
        assert!(
            good.problems.is_empty() && good.warnings.is_empty(),
            "{good:?}"
        );
        assert_eq!((good.listener.as_str(), good.shown.len()), ("tls", 1));
        assert_eq!(good.shown[0].name, "server");
        assert_eq!(good.shown[0].days_left, 30);
        let soon = of(on(2029, 12, 20));
        assert!(soon.problems.is_empty(), "{soon:?}");
        assert!(
            only(&soon.warnings).contains("expires in 11 days"),
            "{soon:?}"
        );
        let expired = of(on(2030, 1, 2));
        let problem = only(&expired.problems);
        assert!(
            problem.contains("holdfast.toml:5: listener.0.cert"),
            "{problem}"
        );
        assert!(problem.contains("certificate 1 has expired"), "{problem}");
        assert_eq!(expired.shown[0].days_left, -2);
        let early = of(on(2019, 12, 31));
        assert!(only(&early.problems).contains("not valid yet"), "{early:?}");
    }

    #[test]
    fn what_a_start_refuses_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let ca = authority("ca");
        let (cert, key) = server(&ca);
        let of = |cert: &str, key: &str| {
            let files = (cert.to_owned(), key.to_owned());
            listener(folder.path(), &files, on(2029, 1, 1))
        };
        let (_, others) = server(&ca);
        for (checked, wanted) in [
            (of(&cert, &others), "keys may not be consistent"),
            (of(&cert, "no key"), "listener.0.key"),
            (of("no certificate", &key), "no certificate in PEM"),
        ] {
            let problem = only(&checked.problems);
            assert!(problem.contains(wanted), "{problem}");
        }
        std::fs::remove_file(folder.path().join("cert")).unwrap();
        let lines = std::fs::read_to_string(folder.path().join("holdfast.toml")).unwrap();
        let missing = checked(folder.path(), &lines, on(2029, 1, 1));
        assert!(
            only(&missing.problems).contains("No such file"),
            "{missing:?}"
        );
    }

    #[test]
    fn signers_come_behind_what_they_signed() {
        let folder = tempfile::tempdir().unwrap();
        let ca = authority("ca");
        let (cert, key) = server(&ca);
        let other = authority("other");
        for (chain, is_right) in [
            ([cert.clone(), ca.pem()].concat(), true),
            ([cert, other.pem(), ca.pem()].concat(), false),
        ] {
            let checked = listener(folder.path(), &(chain, key.clone()), on(2029, 1, 1));
            let is_ordered = !checked.problems.iter().any(|it| it.contains("order"));
            assert_eq!(is_ordered, is_right, "{checked:?}");
        }
    }

    #[test]
    fn a_node_must_be_believed_by_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let (ca, stranger) = (authority("ca"), authority("stranger"));
        std::fs::write(folder.path().join("ca"), ca.pem()).unwrap();
        for (issuer, is_believed) in [(&ca, true), (&stranger, false)] {
            let (cert, key) = server(issuer);
            std::fs::write(folder.path().join("cert"), cert).unwrap();
            std::fs::write(folder.path().join("key"), key).unwrap();
            let lines = format!(
                "[node]\nid = 1\n[cluster]\npeers = [\"1@127.0.0.1:7400\"]\n[cluster.tls]\ncert = \"{0}/cert\"\nkey = \"{0}/key\"\nca = \"{0}/ca\"\n",
                folder.path().display()
            );
            let checked = checked(folder.path(), &lines, on(2029, 1, 1));
            assert_eq!(checked.listener, CLUSTER);
            assert_eq!(checked.problems.is_empty(), is_believed, "{checked:?}");
            if !is_believed {
                assert!(
                    only(&checked.problems).contains("UnknownIssuer"),
                    "{checked:?}"
                );
            }
        }
    }
}
