//! Files that are whole or not there.
//!
//! A result is written under a temporary name in its own folder, synced, and renamed over the old one. A failure on
//! the way removes the temporary file; so does an interrupted program, whose signal
//! thread ends it through [`discard_and_exit`]. A kill -9 can leave a `.NAME.PID.tmp` behind, never a partial file
//! under the result's name.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Temporary files that exist now. One lock for the process: it is taken twice a file.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Why a result could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}: {cause}; {}", path.display(), advice(cause))]
pub struct PublishError {
    step: &'static str,
    path: PathBuf,
    cause: io::Error,
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "free some space or name a path on another disk; nothing was left behind"
        }
        io::ErrorKind::NotFound => "create the folder first or name a path in one that exists",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "name a path that you may write to"
        }
        io::ErrorKind::IsADirectory => "name a file, not a folder",
        _ => "name another path and run again; nothing was left behind",
    }
}

/// Writes `path` by `fill` so that a reader finds either what was there before or all that `fill` wrote.
///
/// # Errors
/// [`PublishError`] names the step and the path; nothing is left behind.
pub fn publish(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), PublishError> {
    let fail = |step| move |cause| PublishError { step, path: path.to_path_buf(), cause };
    if path.is_dir() {
        return Err(fail("write")(io::ErrorKind::IsADirectory.into()));
    }
    let (folder, temporary) = temporary_name(path).map_err(fail("write"))?;
    let (mut unfinished, file) = Unfinished::create(temporary).map_err(fail("create"))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out).map_err(fail("write"))?;
    let file = out.into_inner().map_err(|e| fail("write")(e.into_error()))?;
    // Some file systems report a full disk only here.
    file.sync_all().map_err(fail("write"))?;
    unfinished.rename(path).map_err(fail("write"))?;
    // The rename is durable once the folder is. Some file systems refuse to sync a folder; the file itself is safe.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Checks early that a result could be written to `path`: its folder exists and takes new files.
///
/// # Errors
/// [`PublishError`], as [`publish`] would have it hours later.
pub fn probe(path: &Path) -> Result<(), PublishError> {
    let fail = |step| move |cause| PublishError { step, path: path.to_path_buf(), cause };
    if path.is_dir() {
        return Err(fail("write")(io::ErrorKind::IsADirectory.into()));
    }
    let (_, temporary) = temporary_name(path).map_err(fail("write"))?;
    Unfinished::create(temporary).map(drop).map_err(fail("create"))
}

/// Ends the process at once, leaving no temporary file: for the thread that hears of an interrupt.
pub fn discard_and_exit(code: i32) -> ! {
    // Held to the end, so that no file is begun or renamed after its removal.
    let list = unfinished_files();
    for path in list.iter() {
        let _ = fs::remove_file(path);
    }
    std::process::exit(code)
}

fn unfinished_files() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn temporary_name(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.tmp", std::process::id()));
    let temporary = folder.join(hidden);
    Ok((folder, temporary))
}

/// A temporary file; gone when dropped unless renamed.
struct Unfinished {
    path: PathBuf,
    renamed: bool,
}

impl Unfinished {
    fn create(path: PathBuf) -> io::Result<(Self, File)> {
        let mut list = unfinished_files();
        let file = File::options().write(true).create(true).truncate(true).open(&path)?;
        list.push(path.clone());
        Ok((Self { path, renamed: false }, file))
    }

    fn rename(&mut self, to: &Path) -> io::Result<()> {
        let _list = unfinished_files();
        fs::rename(&self.path, to)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut list = unfinished_files();
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
        list.retain(|p| *p != self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_result_replaces_the_old_one_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result");
        fs::write(&path, "old").unwrap();
        publish(&path, |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(names(folder.path()), ["result"]);
    }

    #[test]
    fn a_failed_write_keeps_the_old_result_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result");
        fs::write(&path, "old").unwrap();
        let error = publish(&path, |out| {
            out.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(error.to_string().contains("free some space"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(folder.path()), ["result"]);
    }

    #[test]
    fn a_missing_folder_and_a_folder_as_target_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = probe(&folder.path().join("no/result")).unwrap_err().to_string();
        assert!(missing.contains("no/result") && missing.contains("create the folder"), "{missing}");
        let target = publish(folder.path(), |_| Ok(())).unwrap_err().to_string();
        assert!(target.contains("not a folder"), "{target}");
        assert_eq!(names(folder.path()), [] as [&str; 0]);
    }
}
