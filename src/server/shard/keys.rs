//! How a request names its keys.

use zerocopy::FromBytes;
use zerocopy::byteorder::little_endian::U64;

use crate::wire::KeyForm;

/// The keys of a request, as its sender chose to name them. Nothing of a list has been checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming<'a> {
    /// The list itself.
    Inline(&'a [u64]),
    /// The list, and the name it is to have.
    Remember {
        /// Its digest, if the sender is honest.
        digest: u128,
        /// The list.
        keys: &'a [u64],
    },
    /// The name only.
    Named {
        /// Digest of a list sent earlier.
        digest: u128,
        /// Keys the list should have.
        count: usize,
    },
}

impl<'a> Naming<'a> {
    /// Takes the keys off the front of `rest`, which is 8-aligned; gives what follows them. None when they are not all
    /// there, or the form is unknown.
    pub(super) fn split(
        form: u8,
        digest: &[U64; 2],
        count: usize,
        rest: &'a [u8],
    ) -> Option<(Self, &'a [u8])> {
        let form = KeyForm::from_wire(form)?;
        let digest = digest_of(digest);
        if form == KeyForm::Named {
            return Some((Self::Named { digest, count }, rest));
        }
        let (keys, rest) = <[u64]>::ref_from_prefix_with_elems(rest, count).ok()?;
        let naming = match form {
            KeyForm::Remember => Self::Remember { digest, keys },
            _ => Self::Inline(keys),
        };
        Some((naming, rest))
    }

    /// The list, when it came along.
    pub(super) fn keys(self) -> Option<&'a [u64]> {
        match self {
            Self::Inline(keys) | Self::Remember { keys, .. } => Some(keys),
            Self::Named { .. } => None,
        }
    }

    /// The list's name, when it has one.
    pub(super) fn digest(self) -> Option<u128> {
        match self {
            Self::Inline(_) => None,
            Self::Remember { digest, .. } | Self::Named { digest, .. } => Some(digest),
        }
    }
}

/// The number a digest's two words stand for, low word first.
pub(super) fn digest_of(words: &[U64; 2]) -> u128 {
    u128::from(words[0].get()) | u128::from(words[1].get()) << 64
}
