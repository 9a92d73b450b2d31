#![no_main]

#[path = "../checks/roundtrip.rs"]
mod roundtrip;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::run(roundtrip::check, input));
