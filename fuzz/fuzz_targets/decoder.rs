//! Frames from a worker, as broken as they can be: the decoder never panics, and how the bytes are cut into pieces
//! makes no difference.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| snakepen::fuzz_decoder(data));
