//! Moving what is in a directory aside, within it, so that it works on a mount point too.

use std::path::{Path, PathBuf};

use crate::etcd::MEMBER;
use crate::{Error, Result, Side};

/// Where a directory's old content waits until it is removed at the very end.
const ASIDE: &str = ".eyrie-replaced";

/// Which part of a directory is moved aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything that is in the directory.
    All,
    /// `member`, the data of an etcd.
    Member,
}

/// Where the old content of `directory` is.
pub(crate) fn place(directory: &Path) -> PathBuf {
    directory.join(ASIDE)
}

/// Moves what is in `directory` aside. What was moved before stays there, so that an interrupted
/// call can be repeated.
pub(crate) fn move_aside(directory: &Path, part: Part) -> Result<()> {
    if !directory.is_dir() {
        return Ok(());
    }
    let moving = |error| failed("moving aside what is in", directory, error);
    let aside = place(directory);
    for entry in std::fs::read_dir(directory).map_err(moving)? {
        let entry = entry.map_err(moving)?;
        let name = entry.file_name();
        let wanted = match part {
            Part::All => name != ASIDE,
            Part::Member => name == MEMBER,
        };
        if !wanted {
            continue;
        }
        std::fs::create_dir_all(&aside).map_err(moving)?;
        let mut to = aside.join(&name);
        let mut number = 1;
        while to.exists() {
            to = aside.join(format!("{}.{number}", name.to_string_lossy()));
            number += 1;
        }
        std::fs::rename(entry.path(), to).map_err(moving)?;
    }
    sync(directory)
}

/// Removes what was moved aside.
pub(crate) fn remove(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(place(directory)) {
        Ok(()) => sync(directory),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("removing what was replaced in", directory, error)),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync(directory: &Path) -> Result<()> {
    std::fs::File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(|error| failed("syncing", directory, error))
}

fn failed(doing: &str, directory: &Path, error: std::io::Error) -> Error {
    Error::from(error)
        .on(Side::Target)
        .context(format!("{doing} {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_moves_aside_repeatedly_and_goes_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        move_aside(&root.join("none"), Part::All).unwrap();
        for _ in 0..2 {
            std::fs::write(root.join("000001.log"), "x").unwrap();
            move_aside(root, Part::All).unwrap();
            assert!(!root.join("000001.log").exists());
        }
        assert_eq!(std::fs::read_dir(place(root)).unwrap().count(), 2);
        std::fs::write(root.join("new"), "y").unwrap();
        move_aside(root, Part::Member).unwrap();
        remove(root).unwrap();
        remove(root).unwrap();
        let left: Vec<_> = std::fs::read_dir(root)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["new"]);
    }
}
