//! Compiles the messages of `peers.proto`, which `node` keeps to itself.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    #[cfg(feature = "store")]
    compile_peers()?;
    Ok(())
}

#[cfg(feature = "store")]
fn compile_peers() -> Result<(), Box<dyn Error>> {
    let folder = "../../proto";
    println!("cargo:rerun-if-changed={folder}/peers.proto");
    let descriptors = protox::compile(["peers.proto"], [folder])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
