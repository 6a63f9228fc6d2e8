//! The C interface from Rust, with rustc alone: an RMSNorm with its FP8 codes, and an error.
//!     rustc --edition 2021 -O main.rs -L native=LIBDIR -l dylib=dsv4_simt -C link-arg=-Wl,-rpath,LIBDIR
//! For CUDA: `-l dylib=dsv4 -l dylib=cudart --cfg cuda`. A real binding comes from bindgen on dsv4/dsv4.h;
//! a params struct is mirrored by hand here.
use std::ffi::CStr;
use std::mem::size_of;
use std::os::raw::{c_char, c_int, c_void};
use std::ptr::{null, null_mut};

#[repr(C)]
struct Fp8Output {
    codes: *mut c_void,
    scales: *mut c_void,
    codes_stride: i64,
    scales_stride: i64,
    scale_type: i32,
    scale_layout: i32,
}

#[repr(C)]
struct RmsNormParams {
    struct_size: usize,
    out: *mut c_void,
    quantised: Fp8Output,
    x: *const c_void,
    weight: *const f32,
    rows: i64,
    n: i64,
    eps: f32,
    dtype: i32,
    out_stride: i64,
    x_stride: i64,
}
// What the header's has, for this version of it; a mirror with a field missing would be read as an older one.
const _: () = assert!(size_of::<RmsNormParams>() == 112);

extern "C" {
    // What the header's inline dsv4_rms_norm_params_init calls.
    fn dsv4_params_init(op: *const c_char, params: *mut c_void, struct_size: usize) -> c_int;
    fn dsv4_rms_norm(p: *const RmsNormParams, stream: *mut c_void) -> c_int;
    fn dsv4_last_error() -> *const c_char;
    fn dsv4_backend() -> *const c_char;
}

/// Memory that kernels and the host address: managed with CUDA, ordinary for the SIMT machine.
#[cfg(cuda)]
fn device<T: Copy>(values: &[T]) -> &'static mut [T] {
    extern "C" {
        fn cudaMallocManaged(p: *mut *mut c_void, bytes: usize, flags: u32) -> c_int;
    }
    let mut p: *mut c_void = null_mut();
    unsafe {
        assert_eq!(
            cudaMallocManaged(&mut p, values.len() * size_of::<T>(), 1),
            0
        );
        std::ptr::copy_nonoverlapping(values.as_ptr(), p as *mut T, values.len());
        std::slice::from_raw_parts_mut(p as *mut T, values.len())
    }
}
#[cfg(not(cuda))]
fn device<T: Copy>(values: &[T]) -> &'static mut [T] {
    Box::leak(values.to_vec().into_boxed_slice())
}
#[cfg(cuda)]
fn wait() {
    extern "C" {
        fn cudaDeviceSynchronize() -> c_int;
    }
    assert_eq!(unsafe { cudaDeviceSynchronize() }, 0);
}
#[cfg(not(cuda))]
fn wait() {}

fn text(p: *const c_char) -> String {
    unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned()
}
/// A status code becomes a Result; the message is this thread's.
fn checked(code: c_int) -> Result<(), String> {
    if code == 0 {
        Ok(())
    } else {
        Err(text(unsafe { dsv4_last_error() }))
    }
}

fn bf16(x: f32) -> u16 {
    (x.to_bits() >> 16) as u16 // truncated: good enough for made-up input
}
fn f32_of(x: u16) -> f32 {
    f32::from_bits((x as u32) << 16)
}

fn main() {
    const ROWS: usize = 3;
    const N: usize = 256;
    let x = device(
        &(0..ROWS * N)
            .map(|i| bf16(((i * 37 % 101) as f32 - 50.0) / 10.0))
            .collect::<Vec<_>>(),
    );
    let weight = device(&[1.0f32; N]);
    let out = device(&[0u16; ROWS * N]);
    let codes = device(&[0u8; ROWS * N]);
    let scales = device(&[0u8; ROWS * N / 128]);

    let mut p = unsafe { std::mem::zeroed::<RmsNormParams>() };
    checked(unsafe {
        dsv4_params_init(
            b"rms_norm\0".as_ptr() as *const c_char,
            &mut p as *mut RmsNormParams as *mut c_void,
            size_of::<RmsNormParams>(),
        )
    })
    .expect("params_init");
    p.out = out.as_mut_ptr() as *mut c_void;
    p.quantised.codes = codes.as_mut_ptr() as *mut c_void;
    p.quantised.scales = scales.as_mut_ptr() as *mut c_void;
    p.x = x.as_ptr() as *const c_void;
    p.weight = weight.as_ptr();
    p.rows = ROWS as i64;
    p.n = N as i64;
    p.eps = 1e-6;
    checked(unsafe { dsv4_rms_norm(&p, null_mut()) }).expect("rms_norm");
    wait();

    let rms =
        |row: &[u16]| (row.iter().map(|&v| f32_of(v) * f32_of(v)).sum::<f32>() / N as f32).sqrt();
    for r in 0..ROWS {
        println!(
            "row {r}: RMS {:.4} -> {:.4}, scales 2^{} and 2^{}",
            rms(&x[r * N..][..N]),
            rms(&out[r * N..][..N]),
            scales[2 * r] as i32 - 127,
            scales[2 * r + 1] as i32 - 127
        );
        assert!((rms(&out[r * N..][..N]) - 1.0).abs() < 0.01);
    }

    p.x = null();
    let refused = checked(unsafe { dsv4_rms_norm(&p, null_mut()) });
    println!(
        "{}: refused: {}",
        text(unsafe { dsv4_backend() }),
        refused.expect_err("a null pointer was taken")
    );
}
