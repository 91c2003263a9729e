//! How the first plane of a row is kept: as f32, or as bf16 that is widened before and rounded after each step.

use crate::codec::half::{bf16_to_f32_bits, f32_to_bf16_bits};
use crate::vector::{LANES, Vector};

/// Access to the values of a row; `at` counts values.
pub(crate) trait Storage: Copy {
    /// # Safety
    /// The CPU has the instructions of `V`; values `at..at + 16` are in the row.
    unsafe fn load<V: Vector>(row: *const u32, at: usize) -> V;
    /// # Safety
    /// As [`Storage::load`] for `count <= 16` values.
    unsafe fn load_part<V: Vector>(row: *const u32, at: usize, count: usize) -> V;
    /// # Safety
    /// As [`Storage::load`], and the row is writable.
    unsafe fn store<V: Vector>(row: *mut u32, at: usize, values: V);
    /// # Safety
    /// As [`Storage::load_part`], and the row is writable.
    unsafe fn store_part<V: Vector>(row: *mut u32, at: usize, count: usize, values: V);
}

/// One value a word.
#[derive(Clone, Copy)]
pub(crate) struct F32;

impl Storage for F32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(row: *const u32, at: usize) -> V {
        // SAFETY: the caller's contract is that of the callee.
        unsafe { V::load(row.add(at).cast()) }
    }

    #[inline(always)]
    unsafe fn load_part<V: Vector>(row: *const u32, at: usize, count: usize) -> V {
        // SAFETY: as above.
        unsafe { V::load_part(row.add(at).cast(), count) }
    }

    #[inline(always)]
    unsafe fn store<V: Vector>(row: *mut u32, at: usize, values: V) {
        // SAFETY: as above.
        unsafe { values.store(row.add(at).cast()) }
    }

    #[inline(always)]
    unsafe fn store_part<V: Vector>(row: *mut u32, at: usize, count: usize, values: V) {
        // SAFETY: as above.
        unsafe { values.store_part(row.add(at).cast(), count) }
    }
}

/// Two values a word, the even index in the low half: on a little-endian machine, consecutive u16.
#[derive(Clone, Copy)]
pub(crate) struct Bf16;

impl Storage for Bf16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(row: *const u32, at: usize) -> V {
        // SAFETY: 16 values by contract; read_unaligned needs no alignment; the array has 16 floats.
        unsafe {
            let halves = row.cast::<u16>().add(at).cast::<[u16; LANES]>().read_unaligned();
            V::load(halves.map(|half| f32::from_bits(bf16_to_f32_bits(half))).as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn load_part<V: Vector>(row: *const u32, at: usize, count: usize) -> V {
        let mut lanes = [0.0; LANES];
        for (lane, out) in lanes.iter_mut().enumerate().take(count) {
            // SAFETY: `at + lane` is in the row by contract.
            *out = f32::from_bits(bf16_to_f32_bits(unsafe { *row.cast::<u16>().add(at + lane) }));
        }
        // SAFETY: instructions by contract; the array has 16 floats.
        unsafe { V::load(lanes.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store<V: Vector>(row: *mut u32, at: usize, values: V) {
        let halves = values.to_array().map(|value| f32_to_bf16_bits(value.to_bits()));
        // SAFETY: 16 values by contract; write_unaligned needs no alignment.
        unsafe { row.cast::<u16>().add(at).cast::<[u16; LANES]>().write_unaligned(halves) }
    }

    #[inline(always)]
    unsafe fn store_part<V: Vector>(row: *mut u32, at: usize, count: usize, values: V) {
        for (lane, value) in values.to_array().into_iter().enumerate().take(count) {
            // SAFETY: `at + lane` is in the row by contract.
            unsafe { *row.cast::<u16>().add(at + lane) = f32_to_bf16_bits(value.to_bits()) };
        }
    }
}
