//! The file operations of a local store: every path is walked from the root's handle, component by
//! component, without following a symbolic link.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use jiff::Timestamp;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, syncfs, unlinkat};

use super::temporary::Temporary;
use super::{Access, LocalSettings, MissingRoot, TEMP_DIRECTORY};
use crate::base::env;
use crate::store::{Durability, Key, Meta, PutMode, PutOptions};
use crate::{Cause, Error, Result};

/// How often a write makes its directories anew when a concurrent delete removes them as empty.
const PUBLISH_TRIES: usize = 16;

/// What to do with a directory that is missing on the way to a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Fail,
    Make,
}

/// Which temporary files to remove.
pub(super) enum Whose {
    /// Those that were last written before.
    Before(Timestamp),
    /// Those of one writer.
    Writer(String),
}

/// The root of a store and what is done below it.
pub(super) struct Tree {
    root: OwnedFd,
    path: PathBuf,
    access: Access,
    /// Tells this process's temporary files from those of others, also on another host.
    writer: String,
    written: AtomicU64,
}

impl Tree {
    pub(super) fn open(path: &Path, settings: LocalSettings) -> Result<Self> {
        let fail = |error: std::io::Error| {
            let path = path.display();
            Error::from(error).context(format!("open the directory {path}"))
        };
        let path = std::path::absolute(path).map_err(fail)?;
        if settings.missing == MissingRoot::Create {
            make_root(&path, settings.access).map_err(fail)?;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(&path, flags, Mode::empty()).map_err(|e| fail(e.into()))?;
        let mut writer = [0; 8];
        env::fill_secret(&mut writer);
        Ok(Self {
            root,
            path,
            access: settings.access,
            writer: hex::encode(writer),
            written: AtomicU64::new(0),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The error of doing `action` to the path `below` the root.
    pub(super) fn failed(&self, action: &str, below: &str, error: std::io::Error) -> Error {
        let path = self.path.join(below);
        let error = Error::from(error);
        let kind = error.cause();
        let error = error.context(format!("{action} {}", path.display()));
        match kind {
            Cause::NoSpace => error.with_hint("free space on this file system or raise the quota"),
            Cause::AccessDenied => error.with_hint("run as the owner, or change the permissions"),
            _ => error,
        }
    }

    fn refused_link(&self, below: &str) -> Error {
        let path = self.path.join(below);
        Error::new(
            Cause::Failed,
            format!("{} is a symbolic link", path.display()),
        )
        .with_hint("links below a store's root are not followed; move the data or mount it there")
    }

    /// Explains why the component `name` of `below` could not be opened.
    fn explain(&self, at: BorrowedFd<'_>, name: &str, below: &str, error: Errno) -> Error {
        let linked = matches!(error, Errno::ENOTDIR | Errno::ELOOP)
            && fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| file_type(&stat) == SFlag::S_IFLNK);
        if linked {
            self.refused_link(below)
        } else {
            self.failed("open", below, error.into())
        }
    }

    /// Opens the directories `names` below the root, outermost first.
    fn walk(&self, names: &[&str], missing: Missing) -> Result<Vec<OwnedFd>> {
        let mut opened: Vec<OwnedFd> = Vec::with_capacity(names.len());
        for (depth, name) in names.iter().enumerate() {
            let at = opened.last().map_or(self.root.as_fd(), AsFd::as_fd);
            let mut next = open_directory(at, name);
            if missing == Missing::Make && matches!(next, Err(Errno::ENOENT)) {
                match mkdirat(at, *name, self.directory_mode()) {
                    Ok(()) | Err(Errno::EEXIST) => next = open_directory(at, name),
                    Err(error) => next = Err(error),
                }
            }
            let directory =
                next.map_err(|e| self.explain(at, name, &names[..=depth].join("/"), e))?;
            opened.push(directory);
        }
        Ok(opened)
    }

    /// Opens the directory that `names` lead to; `None` when there is no such directory.
    pub(super) fn directory(&self, names: &[&str]) -> Result<Option<OwnedFd>> {
        if names.is_empty() {
            let root = self.root.try_clone();
            return root.map(Some).map_err(|e| self.failed("open", "", e));
        }
        match self.walk(names, Missing::Fail) {
            Ok(mut opened) => Ok(opened.pop()),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the directory of `key`; [`Cause::NotFound`] when there is none.
    fn parent<'k>(&self, key: &'k Key) -> Result<(OwnedFd, &'k str)> {
        let (names, name) = split(key);
        let reserved = names.first().unwrap_or(&name) == &TEMP_DIRECTORY;
        let directory = if reserved {
            None
        } else {
            self.directory(&names)?
        };
        let directory = directory.ok_or_else(|| self.absent(key))?;
        Ok((directory, name))
    }

    fn absent(&self, key: &Key) -> Error {
        let path = self.path.join(key.as_str());
        Error::new(
            Cause::NotFound,
            format!("{} does not exist", path.display()),
        )
    }

    pub(super) fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let (directory, name) = self.parent(key)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let opened = openat(&directory, name, flags, Mode::empty());
        let opened = opened.map_err(|e| match e {
            Errno::ENOENT => self.absent(key),
            e => self.explain(directory.as_fd(), name, key.as_str(), e),
        })?;
        let fail = |error| self.failed("read", key.as_str(), error);
        let stat = fstat(&opened).map_err(|e| fail(e.into()))?;
        if file_type(&stat) != SFlag::S_IFREG {
            return Err(self.absent(key));
        }
        let size = size_of(&stat);
        let range = range.unwrap_or(0..size);
        let length = range.end.min(size).saturating_sub(range.start);
        let too_large = |_| Error::new(Cause::Failed, format!("{key} exceeds memory"));
        let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(too_large)?);
        let mut file = File::from(opened);
        file.seek(SeekFrom::Start(range.start)).map_err(fail)?;
        file.take(length).read_to_end(&mut bytes).map_err(fail)?;
        Ok(bytes.into())
    }

    pub(super) fn stat(&self, key: Key) -> Result<Meta> {
        let (directory, name) = self.parent(&key)?;
        match fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => match file_type(&stat) {
                SFlag::S_IFREG => Ok(meta(key, &stat)),
                SFlag::S_IFLNK => Err(self.refused_link(key.as_str())),
                _ => Err(self.absent(&key)),
            },
            Err(Errno::ENOENT) => Err(self.absent(&key)),
            Err(error) => Err(self.failed("read", key.as_str(), error.into())),
        }
    }

    /// Gives `temporary` the name of `key`, durable as `options` ask.
    pub(super) fn publish(
        &self,
        temporary: &Temporary,
        key: &Key,
        options: PutOptions,
    ) -> Result<()> {
        let synced = options.durability == Durability::Synced;
        if synced {
            let flushed = temporary.file().sync_all();
            flushed.map_err(|e| self.failed("write", key.as_str(), e))?;
        }
        let (directories, name) = split(key);
        let mut tries = 0;
        let opened = loop {
            tries += 1;
            let walked = self.walk(&directories, Missing::Make);
            let opened = walked.and_then(|opened| {
                let directory = opened.last().map_or(self.root.as_fd(), AsFd::as_fd);
                let given = match options.mode {
                    PutMode::Overwrite => temporary.replace(directory, name),
                    PutMode::Create => temporary.name_if_absent(directory, name),
                };
                given.map_err(|e| self.failed("write", key.as_str(), e.into()))?;
                Ok(opened)
            });
            match opened {
                Ok(opened) => break opened,
                Err(error) if error.cause() == Cause::NotFound && tries < PUBLISH_TRIES => {}
                Err(error) => return Err(error),
            }
        };
        temporary.keep();
        if synced {
            for directory in opened.iter().rev().chain([&self.root]) {
                fsync(directory).map_err(|e| self.failed("write", key.as_str(), e.into()))?;
            }
        }
        Ok(())
    }

    /// Makes a temporary file for what will be `key`.
    pub(super) fn temporary(&self, key: &Key) -> Result<Temporary> {
        if key.as_str().split('/').next() == Some(TEMP_DIRECTORY) {
            return Err(Error::new(
                Cause::Invalid,
                format!("{key} lies in the directory for temporary files"),
            ));
        }
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let mut tries = 0;
        loop {
            tries += 1;
            let directory = self.walk(&[TEMP_DIRECTORY], Missing::Make)?.pop();
            let directory = directory.ok_or_else(|| self.absent(key))?;
            let name = format!("{}-{number}", self.writer);
            match Temporary::create(directory, name, self.file_mode()) {
                Ok(temporary) => return Ok(temporary),
                Err(Errno::ENOENT) if tries < PUBLISH_TRIES => {}
                Err(error) => return Err(self.failed("write", key.as_str(), error.into())),
            }
        }
    }

    pub(super) fn remove(&self, key: &Key) -> Result<()> {
        let (names, name) = split(key);
        if names.first().unwrap_or(&name) == &TEMP_DIRECTORY {
            return Ok(());
        }
        let mut opened = match self.walk(&names, Missing::Fail) {
            Ok(opened) => opened,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let directory = opened.last().map_or(self.root.as_fd(), AsFd::as_fd);
        match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::EISDIR) => return Ok(()),
            Err(error) => return Err(self.failed("delete", key.as_str(), error.into())),
        }
        for name in names.iter().rev() {
            opened.pop();
            let parent = opened.last().map_or(self.root.as_fd(), AsFd::as_fd);
            if unlinkat(parent, *name, UnlinkatFlags::RemoveDir).is_err() {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<()> {
        syncfs(&self.root).map_err(|e| self.failed("flush the file system of", "", e.into()))
    }

    /// Whose temporary files are those of this process.
    pub(super) fn writer(&self) -> &str {
        &self.writer
    }

    pub(super) fn remove_leftovers(&self, whose: &Whose) -> Result<u64> {
        let Some(directory) = self.directory(&[TEMP_DIRECTORY])? else {
            return Ok(0);
        };
        let mut removed = 0;
        for (name, _) in self.names(&directory, TEMP_DIRECTORY)? {
            if !is_temporary(&name) {
                continue;
            }
            let left = match whose {
                Whose::Before(before) => {
                    let stat = fstatat(&directory, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
                    stat.is_ok_and(|stat| modified(&stat).is_some_and(|at| at < *before))
                }
                Whose::Writer(writer) => name.split_once('-').is_some_and(|(of, _)| of == writer),
            };
            if left {
                match unlinkat(&directory, name.as_str(), UnlinkatFlags::NoRemoveDir) {
                    Ok(()) => removed += 1,
                    Err(Errno::ENOENT) => {}
                    Err(error) => {
                        return Err(self.failed("delete", TEMP_DIRECTORY, error.into()));
                    }
                }
            }
        }
        match unlinkat(&self.root, TEMP_DIRECTORY, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST) => Ok(removed),
            Err(error) => Err(self.failed("delete", TEMP_DIRECTORY, error.into())),
        }
    }

    /// The names in a directory that can be part of a key, unsorted, with their types.
    pub(super) fn names(&self, directory: &OwnedFd, below: &str) -> Result<Vec<(String, SFlag)>> {
        let fail = |error: Errno| self.failed("list", below, error.into());
        // A handle of its own: the position in a directory belongs to the open file.
        let mut entries = open_directory(directory.as_fd(), ".")
            .and_then(Dir::from_fd)
            .map_err(fail)?;
        let mut names = Vec::new();
        for entry in entries.iter() {
            let entry = entry.map_err(fail)?;
            let Ok(name) = entry.file_name().to_str() else {
                tracing::debug!(directory = below, "a name that is not UTF-8 is left out");
                continue;
            };
            if matches!(name, "." | "..") {
                continue;
            }
            let kind = match entry.file_type() {
                Some(nix::dir::Type::Directory) => SFlag::S_IFDIR,
                Some(nix::dir::Type::File) => SFlag::S_IFREG,
                Some(nix::dir::Type::Symlink) => SFlag::S_IFLNK,
                Some(_) => continue,
                None => match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                    Ok(stat) => file_type(&stat),
                    Err(Errno::ENOENT) => continue,
                    Err(error) => return Err(fail(error)),
                },
            };
            names.push((name.to_owned(), kind));
        }
        Ok(names)
    }

    /// Opens the directory `name` in `at`; `None` when it is gone.
    pub(super) fn enter(&self, at: &OwnedFd, name: &str, below: &str) -> Result<Option<OwnedFd>> {
        match open_directory(at.as_fd(), name) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(self.explain(at.as_fd(), name, below, error)),
        }
    }

    /// What the file `name` in `at` is; `None` when it is gone or is no regular file.
    pub(super) fn stat_in(&self, at: &OwnedFd, name: &str, key: Key) -> Result<Option<Meta>> {
        match fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if file_type(&stat) == SFlag::S_IFREG => Ok(Some(meta(key, &stat))),
            Ok(_) | Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(self.failed("list", key.as_str(), error.into())),
        }
    }

    /// The error for a symbolic link found by listing.
    pub(super) fn link_listed(&self, below: &str) -> Error {
        self.refused_link(below)
    }

    fn directory_mode(&self) -> Mode {
        Mode::from_bits_truncate(directory_bits(self.access))
    }

    fn file_mode(&self) -> Mode {
        match self.access {
            Access::Private => Mode::from_bits_truncate(0o600),
            Access::Umask => Mode::from_bits_truncate(0o666),
        }
    }
}

fn open_directory(at: BorrowedFd<'_>, name: &str) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(at, name, flags, Mode::empty())
}

fn directory_bits(access: Access) -> u32 {
    match access {
        Access::Private => 0o700,
        Access::Umask => 0o777,
    }
}

/// Makes `path` and its missing parents, each durable.
fn make_root(path: &Path, access: Access) -> std::io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|p| !p.exists()).collect();
    for directory in missing.into_iter().rev() {
        let made = std::fs::DirBuilder::new()
            .mode(directory_bits(access))
            .create(directory);
        match made {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if let Some(parent) = directory.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    Ok(())
}

fn split(key: &Key) -> (Vec<&str>, &str) {
    let mut names: Vec<&str> = key.as_str().split('/').collect();
    let name = names.pop().unwrap_or_default();
    (names, name)
}

/// Whether an error of walking says that there is no such directory.
fn is_absent(error: &Error) -> bool {
    let not_directory = |source: &(dyn std::error::Error + 'static)| {
        source
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::NotADirectory)
    };
    error.cause() == Cause::NotFound
        || std::iter::successors(std::error::Error::source(error), |e| e.source())
            .any(not_directory)
}

fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn size_of(stat: &FileStat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

fn modified(stat: &FileStat) -> Option<Timestamp> {
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).ok()?;
    Timestamp::new(stat.st_mtime, nanoseconds).ok()
}

fn meta(key: Key, stat: &FileStat) -> Meta {
    Meta {
        key,
        size: size_of(stat),
        modified: modified(stat),
        version: None,
        identity: format!(
            "{}:{}.{:09}:{}.{:09}:{}",
            stat.st_size,
            stat.st_mtime,
            stat.st_mtime_nsec,
            stat.st_ctime,
            stat.st_ctime_nsec,
            stat.st_ino
        ),
        archived: false,
    }
}

/// Whether a file has the name of one of ours: who wrote it, in 16 hex digits, and a number.
fn is_temporary(name: &str) -> bool {
    name.split_once('-').is_some_and(|(writer, number)| {
        writer.len() == 16
            && writer.bytes().all(|b| b.is_ascii_hexdigit())
            && number.parse::<u64>().is_ok()
    })
}
