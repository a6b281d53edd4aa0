//! A file that has no name as an object yet, and the ways to give it one.

use std::fmt;
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

/// A file in the directory for temporary files; dropping it removes it unless it was [kept].
///
/// [kept]: Temporary::keep
pub(super) struct Temporary {
    directory: OwnedFd,
    name: String,
    file: File,
    kept: AtomicBool,
}

impl Temporary {
    /// Makes the file `name`, which must be new, in `directory`.
    pub(super) fn create(directory: OwnedFd, name: String, mode: Mode) -> nix::Result<Self> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = File::from(openat(&directory, name.as_str(), flags, mode)?);
        let kept = AtomicBool::new(false);
        Ok(Self {
            directory,
            name,
            file,
            kept,
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Leaves the file alone from now on: it has its name as an object.
    pub(super) fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Names the file `name` in `to` in one step, in place of what has that name.
    pub(super) fn replace(&self, to: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
        renameat(&self.directory, self.name.as_str(), to, name)
    }

    /// Names the file `name` in `to` in one step that fails with `EEXIST` when the name is taken.
    pub(super) fn name_if_absent(&self, to: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
        match self.rename_if_absent(to, name) {
            // Not every file system, kernel or C library has it.
            Err(Errno::EINVAL | Errno::ENOSYS) => self.link_if_absent(to, name),
            renamed => renamed,
        }
    }

    #[cfg(target_env = "gnu")]
    fn rename_if_absent(&self, to: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
        let flags = nix::fcntl::RenameFlags::RENAME_NOREPLACE;
        nix::fcntl::renameat2(&self.directory, self.name.as_str(), to, name, flags)
    }

    #[cfg(not(target_env = "gnu"))]
    fn rename_if_absent(&self, _to: BorrowedFd<'_>, _name: &str) -> nix::Result<()> {
        Err(Errno::ENOSYS)
    }

    fn link_if_absent(&self, to: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
        let from = self.name.as_str();
        linkat(&self.directory, from, to, name, AtFlags::empty())?;
        // The object has its name: a second one that stays behind is only a leftover.
        self.remove();
        Ok(())
    }

    fn remove(&self) {
        let name = self.name.as_str();
        let removed = unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir);
        if let Err(error) = removed {
            tracing::debug!(name, %error, "a temporary file stays behind");
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed) {
            self.remove();
        }
    }
}

impl fmt::Debug for Temporary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Temporary({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn both_ways_of_naming_refuse_a_taken_name() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = || OwnedFd::from(File::open(scratch.path()).unwrap());
        let create = |name: &str| {
            let mode = Mode::from_bits_truncate(0o600);
            Temporary::create(directory(), name.to_owned(), mode).unwrap()
        };
        let ways = [
            Temporary::name_if_absent,
            Temporary::rename_if_absent,
            Temporary::link_if_absent,
        ];
        for name_it in ways {
            let (first, second) = (create("first"), create("second"));
            let to = directory();
            assert_eq!(name_it(&first, to.as_fd(), "taken"), Ok(()));
            assert_eq!(name_it(&second, to.as_fd(), "taken"), Err(Errno::EEXIST));
            first.keep();
            drop(second);
            std::fs::remove_file(scratch.path().join("taken")).unwrap();
        }
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
