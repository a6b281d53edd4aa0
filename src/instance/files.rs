//! What the files below directories are, to tell later whether anything was written there.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::{Cause, Error, Result, Side};

/// Size in bytes, time of the last change and inode of a file.
type Identity = (u64, i64, i64, u64);

/// The files below some directories. One that is not there has none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Files(BTreeMap<PathBuf, Identity>);

impl Files {
    /// Looks at every file below `directories`.
    ///
    /// # Errors
    ///
    /// [`Side::Source`] when a directory cannot be read.
    pub(crate) async fn below(directories: Vec<PathBuf>) -> Result<Self> {
        let looked = tokio::task::spawn_blocking(move || {
            let mut files = Self::default();
            for directory in directories.iter().filter(|directory| directory.exists()) {
                files.add_below(directory)?;
            }
            Ok(files)
        });
        let failed = |error| Error::new(Cause::Failed, "looking at files").with_source(error);
        looked.await.map_err(failed)?
    }

    fn add_below(&mut self, directory: &Path) -> Result<()> {
        let failed = |error: walkdir::Error| {
            let message = format!("reading the directory {}", directory.display());
            Side::Source
                .error(Cause::Failed, message)
                .with_source(error)
        };
        // What goes while it is looked at is not there.
        let gone = |error: &walkdir::Error| {
            let error = error.io_error();
            error.is_some_and(|error| error.kind() == ErrorKind::NotFound)
        };
        for entry in WalkDir::new(directory) {
            let (entry, meta) = match entry.and_then(|entry| Ok((entry.metadata()?, entry))) {
                Ok((meta, entry)) => (entry, meta),
                Err(error) if gone(&error) => continue,
                Err(error) => return Err(failed(error)),
            };
            if meta.is_dir() {
                continue;
            }
            let identity = (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ino());
            self.0.insert(entry.into_path(), identity);
        }
        Ok(())
    }

    /// Adds what was found elsewhere.
    pub(crate) fn add(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// A file that `later` has otherwise, or not, or that these do not have.
    pub(crate) fn first_change<'a>(&'a self, later: &'a Self) -> Option<&'a Path> {
        let all = self.0.keys().chain(later.0.keys());
        let mut changed = all.filter(|path| self.0.get(*path) != later.0.get(*path));
        changed.next().map(PathBuf::as_path)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    type Change = fn(&Path);

    #[tokio::test]
    async fn what_is_written_made_removed_or_replaced_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let look = || Files::below(vec![directory.path().to_owned(), path("absent")]);
        fs::create_dir(path("below")).unwrap();
        fs::write(path("below/a"), "a").unwrap();
        fs::write(path("b"), "b").unwrap();
        let before = look().await.unwrap();
        assert_eq!(before.first_change(&look().await.unwrap()), None);
        let changes: [(&str, Change); 4] = [
            ("below/a", |path| fs::write(path, "longer").unwrap()),
            ("new", |path| fs::write(path, "").unwrap()),
            ("b", |path| fs::remove_file(path).unwrap()),
            ("b", |path| {
                // The same size and time, another file.
                let time = fs::metadata(path).unwrap().modified().unwrap();
                let other = path.with_extension("other");
                fs::write(&other, "c").unwrap();
                fs::File::options()
                    .write(true)
                    .open(&other)
                    .unwrap()
                    .set_modified(time)
                    .unwrap();
                fs::rename(other, path).unwrap();
            }),
        ];
        for (name, change) in changes {
            fs::write(path("below/a"), "a").unwrap();
            fs::write(path("b"), "b").unwrap();
            let _ = fs::remove_file(path("new"));
            let before = look().await.unwrap();
            change(&path(name));
            let after = look().await.unwrap();
            assert_eq!(before.first_change(&after), Some(path(name).as_path()));
        }
    }
}
