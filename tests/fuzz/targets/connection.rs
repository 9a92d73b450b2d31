#![no_main]

#[path = "../checks/connection.rs"]
mod connection;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::run(connection::check, input));
