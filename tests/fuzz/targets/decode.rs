#![no_main]

#[path = "../checks/decode.rs"]
mod decode;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::run(decode::check, input));
