//! Narrow number formats of the wire and of bf16 rows, and the checksum of records.
//!
//! All conversions are integer arithmetic on the bits (int8 excepted, which scales by one exact rule), so they are the
//! same on every CPU, keep denormals, and need no float control word. The loops are plain; [`run`] compiles them for
//! each instruction set and the compiler vectorises them. The CPU's own conversions were refused: bf16's flushes
//! denormals, f16's is missing on the baseline.

use crate::isa::Isa;
use crate::vector::{Vector, Work, run};

mod crc32c;
mod f16;
pub(crate) mod half;
mod int8;

pub use crc32c::crc32c;
pub use f16::{f16_to_f32, f32_to_f16};
pub use half::{bf16_to_f32, f32_to_bf16};
pub(crate) use int8::largest_magnitude;
pub use int8::{f32_to_int8, int8_to_f32};

/// Converts element by element with `F`, compiled for one instruction set.
struct Convert<'a, A, B, F> {
    from: &'a [A],
    to: &'a mut [B],
    f: F,
}

impl<A: Copy, B, F: Fn(A) -> B> Work for Convert<'_, A, B, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for (to, &from) in self.to.iter_mut().zip(self.from) {
            *to = (self.f)(from);
        }
    }
}

/// Panics unless both slices have one length: the caller sized them.
fn convert<A: Copy, B, F: Fn(A) -> B>(isa: Isa, from: &[A], to: &mut [B], f: F) {
    assert_eq!(from.len(), to.len(), "conversion between slices of different length");
    // SAFETY: `Convert` holds slices only.
    unsafe { run(isa, Convert { from, to, f }) }
}
