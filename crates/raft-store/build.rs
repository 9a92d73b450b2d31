//! Compiles the gRPC contracts and the stored formats of this crate with protox, so that no protoc
//! is needed.

use std::error::Error;
use std::path::Path;

/// What this crate speaks and stores; `peers.proto` is compiled by `node`.
const FILES: [&str; 3] = ["raft.proto", "state.proto", "propose.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    // Relative to this crate's folder, in which cargo runs this: a build folder outlives a checkout.
    let folder = Path::new("../../proto");
    let files = FILES.map(|file| folder.join(file));
    for file in &files {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    let descriptors = protox::compile(&files, [folder])?;
    tonic_prost_build::configure()
        // Payloads decode to slices of the receive buffer, without a copy.
        .bytes(".")
        .include_file("proto.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
