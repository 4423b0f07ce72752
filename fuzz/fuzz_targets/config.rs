#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sipstamp_fuzz::config::run(data));
