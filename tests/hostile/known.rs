//! Rows that the broker does not answer as it should, each until it is repaired; none at present. A row
//! that is listed here and succeeds fails the test: it must be taken off the list.

use std::collections::BTreeSet;

use codec::ProtocolVersion;
use testkit::report;

/// Version, row.
const KNOWN: &[(ProtocolVersion, &str)] = &[];

/// What the test is to complain about, given a row's own complaint.
pub(crate) fn judge(
    version: ProtocolVersion,
    name: &str,
    complaint: Option<String>,
) -> Option<String> {
    match (KNOWN.contains(&(version, name)), complaint) {
        (false, complaint) => complaint,
        (true, Some(complaint)) => {
            report(&format!("known: {complaint}"));
            None
        }
        (true, None) => Some(format!(
            "{version:?} {name}: is right now, take it off the list in tests/hostile/known.rs"
        )),
    }
}

/// Each entry of the list is a row.
pub(crate) fn assert_named(version: ProtocolVersion, names: &BTreeSet<&str>) {
    for (_, name) in KNOWN.iter().filter(|(of, _)| *of == version) {
        assert!(
            names.contains(name),
            "{version:?}: there is no row {name:?}"
        );
    }
}
