//! Key lists: what pushes and pulls name their rows by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gradwire_kernels::{self as kernels, Isa};

/// The stored form of an empty place, so never a key.
const RESERVED_KEY: u64 = u64::MAX;

/// Why a slice is not a key list.
///
/// # Example
/// ```
/// use gradwire::{KeyList, KeysError};
/// let error = KeyList::new(vec![4, 4]).unwrap_err();
/// assert_eq!(error, KeysError::Unsorted { index: 1, key: 4, previous: 4 });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// Not strictly increasing.
    #[error(
        "keys are not strictly increasing: key {key} at index {index} follows {previous}; sort them and drop repeats"
    )]
    Unsorted {
        /// Index of the key that is out of order.
        index: usize,
        /// That key.
        key: u64,
        /// The key before it.
        previous: u64,
    },
    /// The one key that cannot be used.
    #[error("key 18446744073709551615 at index {index} is reserved; use another")]
    Reserved {
        /// Where it stands.
        index: usize,
    },
    /// More keys than a request can number.
    #[error("{found} keys are more than one request can carry; split it into requests of at most 4294967295")]
    TooMany {
        /// How many there are.
        found: usize,
    },
}

/// Checks that `keys` are strictly increasing and none is reserved.
pub(super) fn check(keys: &[u64]) -> Result<(), KeysError> {
    if keys.len() > u32::MAX as usize {
        return Err(KeysError::TooMany { found: keys.len() });
    }
    if let Some(index) = kernels::first_unsorted(Isa::active(), keys) {
        return Err(KeysError::Unsorted { index, key: keys[index], previous: keys[index - 1] });
    }
    match keys.last() {
        Some(&RESERVED_KEY) => Err(KeysError::Reserved { index: keys.len() - 1 }),
        _ => Ok(()),
    }
}

/// A checked key list that remembers it was sent: use the same one again (a pull and the push that follows, or
/// the same batch in the next epoch) and only its 16-byte digest travels.
///
/// # Example
/// ```
/// use gradwire::KeyList;
/// let keys = KeyList::new(vec![3, 5, 8])?;
/// assert_eq!(keys.len(), 3);
/// assert!(KeyList::new(vec![5, 3]).is_err());
/// # Ok::<(), gradwire::KeysError>(())
/// ```
#[derive(Clone, Debug)]
pub struct KeyList {
    id: u64,
    keys: Arc<[u64]>,
}

impl KeyList {
    /// Takes strictly increasing keys.
    ///
    /// # Errors
    /// [`KeysError`] when they are not, or when one is reserved.
    ///
    /// # Example
    /// ```
    /// use gradwire::KeyList;
    /// let mut keys = vec![9, 4, 9];
    /// keys.sort_unstable();
    /// keys.dedup();
    /// assert_eq!(&KeyList::new(keys)?[..], [4, 9]);
    /// # Ok::<(), gradwire::KeysError>(())
    /// ```
    pub fn new(keys: impl Into<Arc<[u64]>>) -> Result<Self, KeysError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let keys = keys.into();
        check(&keys)?;
        // Relaxed: only uniqueness matters, nothing else is published by it.
        Ok(Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), keys })
    }
}

impl std::ops::Deref for KeyList {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.keys
    }
}

impl TryFrom<Vec<u64>> for KeyList {
    type Error = KeysError;

    fn try_from(keys: Vec<u64>) -> Result<Self, KeysError> {
        Self::new(keys)
    }
}

/// Anything that names rows: slices, vectors and arrays of strictly increasing keys, or a [`KeyList`].
///
/// # Example
/// ```
/// use gradwire::{KeyList, Keys};
/// fn count(keys: &(impl Keys + ?Sized)) -> usize {
///     keys.as_slice().len()
/// }
/// let list = KeyList::new(vec![1, 2])?;
/// assert_eq!(count(&list) + count(&[7]) + count(&vec![8, 9]), 5);
/// # Ok::<(), gradwire::KeysError>(())
/// ```
pub trait Keys {
    /// The keys.
    fn as_slice(&self) -> &[u64];

    /// A number that only this list has, when it may be remembered by servers.
    fn identity(&self) -> Option<u64> {
        None
    }
}

impl Keys for [u64] {
    fn as_slice(&self) -> &[u64] {
        self
    }
}

impl Keys for Vec<u64> {
    fn as_slice(&self) -> &[u64] {
        self
    }
}

impl<const N: usize> Keys for [u64; N] {
    fn as_slice(&self) -> &[u64] {
        self
    }
}

impl Keys for KeyList {
    fn as_slice(&self) -> &[u64] {
        self
    }

    fn identity(&self) -> Option<u64> {
        Some(self.id)
    }
}

impl<K: Keys + ?Sized> Keys for &K {
    fn as_slice(&self) -> &[u64] {
        (**self).as_slice()
    }

    fn identity(&self) -> Option<u64> {
        (**self).identity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_out_of_order_names_the_key() {
        assert_eq!(check(&[1, 4, 4]), Err(KeysError::Unsorted { index: 2, key: 4, previous: 4 }));
        assert_eq!(check(&[9, u64::MAX]), Err(KeysError::Reserved { index: 1 }));
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[0]), Ok(()));
    }

    #[test]
    fn clones_of_a_list_share_its_identity_and_equal_lists_do_not() {
        let one = KeyList::new(vec![1, 2]).unwrap();
        let other = KeyList::new(vec![1, 2]).unwrap();
        assert_eq!(one.identity(), one.clone().identity());
        assert_ne!(one.identity(), other.identity());
        assert_eq!([1u64, 2].identity(), None);
    }
}
