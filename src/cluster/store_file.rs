//! The coordinator's durable store in a directory: one locked, small file, replaced whole.
//!
//! `lock` is held while the process lives. `state` is one line of magic, checksum and length, then the record as JSON.
//! It is written beside, fsynced, renamed, and the directory fsynced: a crash leaves the old one or the new one,
//! never half of one. A file that is torn or changed was not left by a crash of ours; it is named and refused.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use gradwire_kernels::{Isa, crc32c};
use thiserror::Error;

use super::coordinator::{Record, RecordError};

const MAGIC: &str = "gradwire-coordinator";
/// Largest state that is read: far beyond what 65,536 partitions, and sessions by the thousand, take.
const MAX_BYTES: u64 = 256 << 20;

/// Why the store cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {what} {}: {source}; check the directory, its owner and the space left", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Another coordinator has it.
    #[error("{} is in use by another coordinator; stop that one, or give --store another directory", .path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// Not what was written.
    #[error("{} is no state of a coordinator: {cause}; restore it from a copy, or start a new cluster in another directory", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Written by another version, or changed.
    #[error("{} cannot be used: {source}", .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: RecordError,
    },
}

/// An open store.
#[derive(Debug)]
pub struct FileStore {
    directory: PathBuf,
    /// Locked; the lock goes with the process.
    _lock: File,
}

impl FileStore {
    /// Opens the store in a directory, which is made if need be.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another coordinator has it; [`StoreError::Io`].
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { what, path, source }
        };
        fs::create_dir_all(directory).map_err(failed("make", directory))?;
        let path = directory.join("lock");
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = opened.map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path }),
            Err(TryLockError::Error(source)) => Err(StoreError::Io { what: "lock", path, source }),
        }
    }

    fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// What was saved last; none in a new store.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Record`]: it is there and cannot be used.
    pub fn load(&self) -> Result<Option<Record>, StoreError> {
        let path = self.state();
        let bytes = match fs::metadata(&path) {
            Ok(found) if found.len() > MAX_BYTES => {
                return Err(StoreError::Corrupt { path, cause: format!("it has {} bytes", found.len()) });
            }
            Ok(_) => fs::read(&path).map_err(|source| StoreError::Io {
                what: "read",
                path: path.clone(),
                source,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { what: "read", path, source }),
        };
        let record = read(&bytes).map_err(|cause| StoreError::Corrupt { path: path.clone(), cause })?;
        record.check().map_err(|source| StoreError::Record { path, source })?;
        Ok(Some(record))
    }

    /// Makes a record durable.
    ///
    /// # Errors
    /// [`StoreError::Io`]: it is not, and the old one still is.
    pub fn save(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.state();
        let beside = self.directory.join("state.new");
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { what, path, source }
        };
        let bytes = written(record).map_err(failed("write", &beside))?;
        let mut file = File::create(&beside).map_err(failed("make", &beside))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed("write", &beside))?;
        fs::rename(&beside, &path).map_err(failed("replace", &path))?;
        let directory = File::open(&self.directory).and_then(|directory| directory.sync_all());
        directory.map_err(failed("sync", &self.directory))
    }
}

fn written(record: &Record) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(record)?;
    let sum = crc32c(Isa::active(), 0, &body);
    let mut bytes = format!("{MAGIC} crc32c={sum:08x} bytes={}\n", body.len()).into_bytes();
    bytes.extend_from_slice(&body);
    bytes.push(b'\n');
    Ok(bytes)
}

/// Total: whatever the bytes, a record or what is wrong with them.
fn read(bytes: &[u8]) -> Result<Record, String> {
    let line = bytes.iter().position(|byte| *byte == b'\n').ok_or("it has no first line")?;
    let (head, body) = (&bytes[..line], &bytes[line + 1..]);
    let head = std::str::from_utf8(head).map_err(|_| "its first line is not text")?;
    let mut words = head.split(' ');
    if words.next() != Some(MAGIC) {
        return Err("it is some other file".to_owned());
    }
    let sum = words.next().and_then(|word| word.strip_prefix("crc32c="));
    let sum =
        sum.and_then(|digits| u32::from_str_radix(digits, 16).ok()).ok_or("its first line is damaged")?;
    let length = words.next().and_then(|word| word.strip_prefix("bytes="));
    let length: usize = length.and_then(|digits| digits.parse().ok()).ok_or("its first line is damaged")?;
    if words.next().is_some() {
        return Err("its first line is damaged".to_owned());
    }
    if length.checked_add(1) != Some(body.len()) {
        return Err(format!(
            "it is torn: {length} bytes were written, {} are here",
            body.len().saturating_sub(1)
        ));
    }
    let body = &body[..length];
    if crc32c(Isa::active(), 0, body) != sum {
        return Err("its checksum is wrong".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| format!("its contents cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_saved_last_is_loaded_by_the_next_owner() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::open(directory.path()).unwrap();
        assert!(store.load().unwrap().is_none());
        for partitions in [3, 5] {
            store.save(&Record::new(7, 9, partitions, 1)).unwrap();
        }
        drop(store);
        let store = FileStore::open(directory.path()).unwrap();
        assert_eq!(store.load().unwrap(), Some(Record::new(7, 9, 5, 1)));
    }

    #[test]
    fn a_store_has_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let _store = FileStore::open(directory.path()).unwrap();
        let error = FileStore::open(directory.path()).unwrap_err();
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
        assert!(error.to_string().contains(&directory.path().display().to_string()));
    }

    #[test]
    fn a_crash_while_it_saves_leaves_the_old_record() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::open(directory.path()).unwrap();
        store.save(&Record::new(7, 9, 3, 1)).unwrap();
        let half = written(&Record::new(7, 9, 4, 1)).unwrap();
        fs::write(directory.path().join("state.new"), &half[..half.len() / 2]).unwrap();
        assert_eq!(store.load().unwrap(), Some(Record::new(7, 9, 3, 1)));
        store.save(&Record::new(7, 9, 5, 1)).unwrap();
        assert_eq!(store.load().unwrap(), Some(Record::new(7, 9, 5, 1)));
    }

    #[test]
    fn a_record_of_another_form_or_that_contradicts_itself_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::open(directory.path()).unwrap();
        store.save(&Record::new(7, 9, 0, 1)).unwrap();
        let error = store.load().unwrap_err();
        assert!(matches!(error, StoreError::Record { .. }) && error.to_string().contains("state"), "{error}");
    }

    proptest! {
        #[test]
        fn a_torn_or_changed_file_is_named_and_refused(cut in any::<usize>(), at in any::<usize>(), bit in 0u8..8) {
            let whole = written(&Record::new(7, 9, 3, 1)).unwrap();
            prop_assert!(read(&whole).is_ok());
            prop_assert!(read(&whole[..cut % whole.len()]).is_err());
            let mut changed = whole.clone();
            let at = at % whole.len();
            changed[at] ^= 1 << bit;
            // The newline at the end says nothing; a digit of the checksum may change its case.
            if at + 1 < whole.len() && !changed.eq_ignore_ascii_case(&whole) {
                prop_assert!(read(&changed).is_err());
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
