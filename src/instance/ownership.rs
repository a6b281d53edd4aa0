//! Whose files a restore leaves: Milvus often runs as another user than the one who restores.

use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::{Error, Result, Side};

/// The owner of a directory as it was before the restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// The owner of `path`, or of the nearest directory above that is there.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(|error| looking(path, error))?;
        for ancestor in path.ancestors() {
            match std::fs::metadata(ancestor) {
                Ok(meta) => {
                    return Ok(Self {
                        uid: meta.uid(),
                        gid: meta.gid(),
                    });
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(looking(ancestor, error)),
            }
        }
        Ok(Self { uid: 0, gid: 0 })
    }

    /// Gives everything at and below each of `paths` to this owner. Only root can and needs to;
    /// for anyone else the files are already those of who restores.
    ///
    /// # Errors
    ///
    /// [`crate::Cause::AccessDenied`] when the file system refuses.
    pub(crate) fn adopt(self, paths: &[PathBuf]) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        for path in paths.iter().filter(|path| path.exists()) {
            for entry in WalkDir::new(path).contents_first(true) {
                let entry = entry.map_err(|e| looking(path, e.into()))?;
                let meta = entry
                    .metadata()
                    .map_err(|e| looking(entry.path(), e.into()))?;
                if (meta.uid(), meta.gid()) != (self.uid, self.gid) {
                    lchown(entry.path(), Some(self.uid), Some(self.gid)).map_err(|error| {
                        let path = entry.path().display();
                        Error::from(error)
                            .on(Side::Target)
                            .context(format!("giving {path} to its owner"))
                    })?;
                }
            }
        }
        Ok(())
    }
}

fn looking(path: &Path, error: std::io::Error) -> Error {
    Error::from(error)
        .on(Side::Target)
        .context(format!("looking at the owner of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_what_is_missing_is_that_of_the_directory_above() {
        let dir = tempfile::tempdir().unwrap();
        let here = Owner::of(dir.path()).unwrap();
        assert_eq!(Owner::of(&dir.path().join("a/b/c")).unwrap(), here);
    }

    #[test]
    fn root_gives_files_to_their_owner() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a/b");
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(&file, "x").unwrap();
        Owner { uid: 12, gid: 34 }
            .adopt(&[dir.path().join("a"), dir.path().join("none")])
            .unwrap();
        let meta = std::fs::metadata(&file).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (12, 34));
        assert_eq!(std::fs::metadata(dir.path()).unwrap().uid(), 0);
    }
}
