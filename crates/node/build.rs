//! Compiles the contracts between nodes.

const CONTRACTS: [&str; 2] = ["peers.proto", "query.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for contract in CONTRACTS {
        println!("cargo:rerun-if-changed=../../proto/{contract}");
    }
    let descriptors = protox::compile(CONTRACTS, ["../../proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
