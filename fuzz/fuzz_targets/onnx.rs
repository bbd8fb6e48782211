#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| taper_fuzz::onnx::onnx(data));
