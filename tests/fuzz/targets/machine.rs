#![no_main]

#[path = "../checks/machine.rs"]
mod machine;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::run(machine::check, input));
