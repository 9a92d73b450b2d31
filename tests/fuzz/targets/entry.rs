#![no_main]

#[path = "../checks/entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::run(entry::check, input));
