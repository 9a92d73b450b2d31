//! What was built, for `holdfast version`, `/version` and `holdfast_build_info`.

/// Version of the broker.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, when whoever built it said so in `HOLDFAST_REVISION`.
pub const REVISION: &str = match option_env!("HOLDFAST_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The compiler that built it, when the build said so in `HOLDFAST_RUSTC`.
pub const RUSTC: &str = match option_env!("HOLDFAST_RUSTC") {
    Some(rustc) => rustc,
    None => "unknown rustc",
};

/// All three as one JSON object.
pub fn as_json() -> serde_json::Value {
    serde_json::json!({ "version": VERSION, "revision": REVISION, "rustc": RUSTC })
}
