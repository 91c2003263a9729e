//! Which instruction set the kernels use: detected once per process, or forced by `GRADWIRE_SIMD`.
//!
//! Every kernel takes an [`Isa`] as argument and gives the same bits for each of them, so the choice is one of
//! speed only. `Isa` values are plain data, hence [`run`](crate::vector::run) checks for support again before it
//! enters code of an instruction set: an unsupported value is an assertion, never undefined behaviour.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

/// Environment variable that forces one instruction set.
pub const SIMD_VARIABLE: &str = "GRADWIRE_SIMD";

/// An implementation of all kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Isa {
    /// Plain Rust over arrays: the reference that the others are compared with.
    Scalar = 1,
    /// The `wide` crate at the target's baseline (SSE2, NEON): what other architectures get.
    Portable = 2,
    /// 256-bit vectors; needs AVX2, SSE4.2 and PCLMULQDQ.
    Avx2 = 3,
    /// 512-bit vectors; needs AVX-512 F, BW, CD, DQ, VL besides what [`Isa::Avx2`] needs.
    Avx512 = 4,
}

/// `GRADWIRE_SIMD` can't be obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsaError {
    /// The value is none of the four names.
    Unknown {
        /// The value that was found.
        value: String,
    },
    /// The name is good, but this CPU lacks the instructions.
    Unsupported {
        /// What was asked for.
        isa: Isa,
    },
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IsaError::Unknown { value } => {
                write!(
                    f,
                    "{SIMD_VARIABLE}={value:?} is not an instruction set: use scalar, portable, avx2 or avx512, or unset it"
                )
            }
            IsaError::Unsupported { isa } => {
                write!(
                    f,
                    "{SIMD_VARIABLE}={isa}: this CPU does not support it: use one of {}, or unset it",
                    Supported
                )
            }
        }
    }
}

impl std::error::Error for IsaError {}

/// Lists the names this CPU supports, for messages.
struct Supported;

impl fmt::Display for Supported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
            write!(f, "{separator}{isa}")?;
            separator = ", ";
        }
        Ok(())
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The `Isa` in use as its discriminant; 0 until the first call. Written with the same value by whoever comes
/// first, read by all: `Relaxed` is enough, nothing else is published with it.
static ACTIVE: AtomicU8 = AtomicU8::new(0);

/// The discriminants of those this CPU can run, as bits; 0 until the first call. Used as `ACTIVE` is.
static SUPPORTED: AtomicU8 = AtomicU8::new(0);

impl Isa {
    /// All implementations, the plainest first.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Portable, Isa::Avx2, Isa::Avx512];

    /// The name `GRADWIRE_SIMD` uses.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Whether this CPU can run it. Cost: a load and a test, because kernels ask it for every request of one key too.
    #[inline]
    pub fn is_supported(self) -> bool {
        let known = SUPPORTED.load(Ordering::Relaxed);
        let known = if known == 0 { Isa::find_supported() } else { known };
        known >> self as u8 & 1 == 1
    }

    #[cold]
    fn find_supported() -> u8 {
        let supported = Isa::ALL.into_iter().filter(|isa| isa.is_detected());
        let found = supported.fold(0, |found, isa| found | 1 << isa as u8);
        SUPPORTED.store(found, Ordering::Relaxed);
        found
    }

    /// As [`Isa::is_supported`], by asking for each feature.
    fn is_detected(self) -> bool {
        match self {
            Isa::Scalar | Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                has_avx2()
                    && std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512cd")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }

    /// The fastest implementation of this CPU.
    pub fn detected() -> Isa {
        let mut best = Isa::Portable;
        for isa in [Isa::Avx2, Isa::Avx512] {
            if isa.is_supported() {
                best = isa;
            }
        }
        best
    }

    /// Reads a value of `GRADWIRE_SIMD`.
    ///
    /// Errors: [`IsaError::Unknown`] for another word, [`IsaError::Unsupported`] if the CPU lacks it; both end
    /// the program at its start.
    pub fn parse(value: &str) -> Result<Isa, IsaError> {
        let isa = Isa::ALL
            .into_iter()
            .find(|isa| isa.name() == value)
            .ok_or_else(|| IsaError::Unknown { value: value.to_owned() })?;
        if isa.is_supported() { Ok(isa) } else { Err(IsaError::Unsupported { isa }) }
    }

    /// What the environment asks for, else the detected one. Programs call it first and stop on an error.
    ///
    /// Errors: as [`Isa::parse`].
    pub fn init() -> Result<Isa, IsaError> {
        let isa = match std::env::var_os(SIMD_VARIABLE) {
            Some(value) => Isa::parse(&value.to_string_lossy())?,
            None => Isa::detected(),
        };
        ACTIVE.store(isa as u8, Ordering::Relaxed);
        Ok(isa)
    }

    /// The implementation of this process. Without an earlier [`Isa::init`] it does that itself, and takes the
    /// detected one where `init` would refuse: a library must not fail for a bad environment variable.
    #[inline]
    pub fn active() -> Isa {
        let active = ACTIVE.load(Ordering::Relaxed);
        match Isa::ALL.into_iter().find(|isa| *isa as u8 == active) {
            Some(isa) => isa,
            None => Isa::first_use(),
        }
    }

    #[cold]
    fn first_use() -> Isa {
        Isa::init().unwrap_or_else(|_| {
            let isa = Isa::detected();
            ACTIVE.store(isa as u8, Ordering::Relaxed);
            isa
        })
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("sse4.2")
        && std::arch::is_x86_feature_detected!("pclmulqdq")
        && std::arch::is_x86_feature_detected!("popcnt")
        && std::arch::is_x86_feature_detected!("bmi1")
        && std::arch::is_x86_feature_detected!("bmi2")
        && std::arch::is_x86_feature_detected!("lzcnt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_of_the_cpu_is_what_it_says() {
        for isa in Isa::ALL {
            assert_eq!(isa.is_supported(), isa.is_detected(), "{isa}");
        }
    }

    #[test]
    fn every_name_is_read_back() {
        for isa in Isa::ALL {
            match Isa::parse(isa.name()) {
                Ok(read) => assert_eq!(read, isa),
                Err(error) => {
                    assert!(!isa.is_supported());
                    assert_eq!(error, IsaError::Unsupported { isa });
                }
            }
        }
    }

    #[test]
    fn an_unknown_value_is_refused_and_the_message_names_the_accepted_ones() {
        for value in ["", "AVX2", "sse", "avx2 ", "best"] {
            let message = Isa::parse(value).unwrap_err().to_string();
            for name in ["scalar", "portable", "avx2", "avx512"] {
                assert!(message.contains(name), "{message}");
            }
        }
    }

    #[test]
    fn an_unsupported_value_names_what_this_cpu_can_do() {
        let message = IsaError::Unsupported { isa: Isa::Avx512 }.to_string();
        assert!(message.contains("avx512") && message.contains("scalar, portable"), "{message}");
    }

    #[test]
    fn the_active_one_follows_the_environment() {
        let expected = match std::env::var(SIMD_VARIABLE) {
            Ok(value) => Isa::parse(&value).unwrap_or_else(|_| Isa::detected()),
            Err(_) => Isa::detected(),
        };
        assert_eq!(Isa::active(), expected);
        assert_eq!(Isa::active(), expected);
        assert!(Isa::active().is_supported());
    }
}
