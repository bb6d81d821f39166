//! Buffers and arrays: numbers and bytes that travel beside the JSON.
//!
//! `cargo run --example arrays`; with NumPy in the environment of `python3`, arrays are NumPy's.

use std::time::Instant;

use serde::Deserialize;
use snakepen::{Array, Buffer, Pool};

#[derive(Deserialize)]
struct Scaled {
    scaled: Array,
    sum: f64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/arrays.py");
    let pool = Pool::builder("arrays").handlers(file).workers(1).start().await?;

    // An array in the arguments, and one in a field of the result.
    let matrix = Array::from_slice([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    let Scaled { scaled, sum } = pool.call("scale", (&matrix, 10)).await?;
    println!("{:?} is {:?} in all {sum}", scaled.shape, scaled.to_vec::<f64>()?);
    assert_eq!((scaled.to_vec::<f64>()?[5], sum), (60.0, 210.0));

    // What does not fit is an error that says what is there.
    println!("as f32: {}", scaled.to_vec::<f32>().unwrap_err());

    // Bytes; above 256 KiB they go through shared memory.
    let image = Buffer::from(vec![0xF0; 4 << 20]);
    let start = Instant::now();
    let inverted: Buffer = pool.call("invert", (&image,)).await?;
    println!("{} bytes inverted in {:.1?}", inverted.len(), start.elapsed());
    assert!(inverted.iter().all(|&byte| byte == 0x0F));

    // What the caller has sent never changes.
    let cleared: Buffer = pool.call("clear", (&image,)).await?;
    assert_eq!((&cleared[..4], &image[..4]), (&b"none"[..], &[0xF0; 4][..]));

    pool.shutdown().await?;
    Ok(())
}
