#![no_main]

#[path = "../checks/peers.rs"]
mod peers;

mod proto {
    include!(concat!(env!("OUT_DIR"), "/holdfast.peers.v1.rs"));
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::run(peers::check, input));
