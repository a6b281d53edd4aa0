//! Where the target's etcd lives: a server of its own, or the directory of one inside Milvus.
//!
//! An embedded etcd cannot be asked while Milvus is stopped, so a restore prepares a new one in
//! `DATA_DIR/.eyrie-restore`, served by an etcd of ours, and puts its `member` in place in one
//! rename when it is complete. Until then Milvus finds what it left, or nothing.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempDir;

use crate::base::error::Context as _;
use crate::etcd::{Anchor, Etcd, MEMBER, Process, Status, find_binary, program_version};
use crate::instance::embedded::EtcdCopy;
use crate::instance::liveness;
use crate::instance::old_content::{self, Part};
use crate::instance::ownership::Owner;
use crate::{Cause, Error, Result, Side};

/// Where a new etcd is prepared.
const STAGING: &str = ".eyrie-restore";

/// The file in [`STAGING`] that says that its etcd has once been up. One that is killed during its
/// very first start leaves a log without members, which no etcd ever comes up on again.
const READY: &str = "ready";

/// The file in [`STAGING`] that says which data the swap moves aside: the number of its inode, 0 for
/// none. What is in its place later is somebody else's.
const MOVED: &str = "moved";

/// The series of etcd that Milvus has inside; what a later one has written it does not open.
const SERIES: &str = "3.5.";

/// The directory of an embedded etcd.
#[derive(Debug)]
pub(crate) struct Embedded {
    data_dir: PathBuf,
    binary: PathBuf,
    owner: Owner,
    logs: TempDir,
    process: Option<Process>,
    /// What was there when it was read.
    seen: Option<Trace>,
}

/// What changes when an etcd runs on a directory: which it is, and when its database and its log were
/// written last.
type Trace = (u64, Option<SystemTime>, Option<SystemTime>);

/// What the directory of an embedded etcd holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// Nothing.
    Nothing,
    /// The data of an etcd.
    Member,
    /// What an interrupted restore has prepared, and perhaps the data of an etcd.
    Staged,
}

impl Embedded {
    /// Looks at the directory, which may be missing.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`](crate::Cause::Invalid) when there is no etcd program on this host.
    pub(crate) fn open(data_dir: &Path, binary: Option<&Path>) -> Result<Self> {
        let logs = tempfile::Builder::new().prefix("eyrie-log-").tempdir();
        Ok(Self {
            data_dir: data_dir.to_owned(),
            binary: find_binary(binary)?,
            owner: Owner::of(data_dir)?,
            logs: logs.map_err(|e| failed("making a directory for etcd's log", data_dir, e))?,
            process: None,
            seen: None,
        })
    }

    /// The version of the etcd program, and why nothing can be prepared with it: Milvus does not open what a
    /// later series has written, and an older one does not open what Milvus left.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`] when it does not tell one.
    pub(crate) async fn program(&self) -> Result<(String, Option<String>)> {
        let version = program_version(&self.binary).await?;
        let why = (!version.starts_with(SERIES)).then(|| {
            format!(
                "{} is etcd {version}, and the etcd inside Milvus is 3.5: it would not open what that one prepares",
                self.binary.display()
            )
        });
        Ok((version, why))
    }

    /// What is there.
    pub(crate) fn holds(&self) -> Holds {
        if self.staging().join(MEMBER).is_dir() && self.staging().join(READY).is_file() {
            Holds::Staged
        } else if self.data_dir.join(MEMBER).is_dir() {
            Holds::Member
        } else {
            Holds::Nothing
        }
    }

    /// Where it is, for people.
    pub(crate) fn place(&self) -> String {
        self.data_dir.display().to_string()
    }

    /// Whether an embedded etcd has left data there.
    pub(crate) fn has_left(&self) -> bool {
        self.data_dir.join(MEMBER).is_dir()
    }

    /// Gives up what was prepared.
    pub(crate) fn discard(&self) -> Result<()> {
        let staging = self.staging();
        match std::fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("removing", &staging, error))
            }
            _ => Ok(()),
        }
    }

    /// Who has the directory open, for people.
    pub(crate) fn in_use(&self) -> Result<Option<String>> {
        for (directory, who) in [
            (&self.data_dir, "its embedded etcd"),
            (&self.staging(), "another restore"),
        ] {
            if liveness::etcd_directory_in_use(directory).on(Side::Target)? {
                return Ok(Some(format!("{who} holds {}", directory.display())));
            }
        }
        Ok(None)
    }

    /// Fails when Milvus has been started on the directory while its new etcd is prepared: it makes data
    /// of its own there, or still holds what was moved aside.
    ///
    /// # Errors
    ///
    /// [`Side::Target`], naming the directory.
    pub(crate) fn alone(&self) -> Result<()> {
        let member = self.data_dir.join(MEMBER);
        let aside = old_content::place(&self.data_dir);
        let moved = std::fs::read_dir(&aside).into_iter().flatten().flatten();
        let mut held = false;
        for entry in moved {
            held |= liveness::database_in_use(&entry.path().join("snap/db")).on(Side::Target)?;
        }
        if held {
            let message = format!("a Milvus holds {}, which was moved there", aside.display());
            let hint = "stop it, then run the same command again: it goes on where it stopped";
            return Err(Side::Target.error(Cause::Refused, message).with_hint(hint));
        }
        if !member.exists() {
            return Ok(());
        }
        let message = format!(
            "a Milvus was started on the target while it was replaced: its etcd has made {}",
            member.display()
        );
        Err(Side::Target.error(Cause::Refused, message).with_hint(
            "stop it; what it wrote since is in that directory and nowhere else: move it to a safe place, then run \
             the same command again",
        ))
    }

    fn staging(&self) -> PathBuf {
        self.data_dir.join(STAGING)
    }

    /// Reads what the embedded etcd left, from a copy.
    pub(crate) async fn read_left(&mut self, prefix: &str) -> Result<(Anchor, Status)> {
        self.seen = self.trace();
        let (copy, mut etcd, status) =
            EtcdCopy::start(&self.binary, &self.data_dir, Side::Target).await?;
        let read = etcd.read_prefix(prefix).await;
        copy.stop().await?;
        Ok((read?, status))
    }

    /// Takes what a finished restore of ours left back into preparation.
    pub(crate) fn unsettle(&self) -> Result<()> {
        let staging = self.staging();
        self.discard()?;
        make(&staging)?;
        ready(&staging)?;
        let moved = std::fs::rename(self.data_dir.join(MEMBER), staging.join(MEMBER));
        moved.map_err(|e| failed("moving etcd's data to", &staging, e))?;
        old_content::sync(&self.data_dir)
    }

    /// Starts an etcd on what is being prepared.
    pub(crate) async fn start(&mut self) -> Result<Etcd> {
        let staging = self.staging();
        if self.holds() != Holds::Staged {
            self.discard()?;
            make(&staging)?;
        }
        let log = self.logs.path().join("etcd.log");
        let (process, mut etcd, _) =
            Process::start(&self.binary, &staging, &log, Side::Target).await?;
        self.process = Some(process);
        // Only an etcd with a leader answers a read.
        etcd.get(READY).await?;
        ready(&staging)?;
        Ok(etcd)
    }

    fn trace(&self) -> Option<Trace> {
        let member = self.data_dir.join(MEMBER);
        let of = |path: PathBuf| std::fs::metadata(path).ok();
        let log = std::fs::read_dir(member.join("wal")).ok();
        let written = log.and_then(|log| {
            let times = log.filter_map(|entry| entry.ok()?.metadata().ok()?.modified().ok());
            times.max()
        });
        let database = of(member.join("snap/db")).and_then(|meta| meta.modified().ok());
        Some((of(member)?.ino(), database, written))
    }

    /// Fails when Milvus has run since its data was read, or runs now.
    ///
    /// # Errors
    ///
    /// [`Side::Target`], with the way out.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        self.check_unused()?;
        if self.trace() == self.seen {
            return Ok(());
        }
        let message = format!(
            "a Milvus has run on the target since it was looked at: {} has changed",
            self.data_dir.display()
        );
        let hint = "run the same command again: it looks again";
        Err(Side::Target.error(Cause::Refused, message).with_hint(hint))
    }

    /// Fails while an etcd holds the data that is in place.
    fn check_unused(&self) -> Result<()> {
        if !liveness::etcd_directory_in_use(&self.data_dir).on(Side::Target)? {
            return Ok(());
        }
        let place = self.data_dir.display();
        let message = format!("a Milvus runs on the target: its etcd holds {place}");
        let hint = "stop it, then run the same command again";
        Err(Side::Target.error(Cause::Refused, message).with_hint(hint))
    }

    /// Notes which data the swap moves aside, unless that is noted. Gives the number of its inode, 0 for none.
    pub(crate) fn note_what_is_moved(&self) -> Result<u64> {
        let noted = self.staging().join(MOVED);
        match std::fs::read_to_string(&noted) {
            Ok(text) => {
                if let Ok(own) = text.trim().parse() {
                    return Ok(own);
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed("reading", &noted, error)),
        }
        let own = self.trace().map_or(0, |(inode, ..)| inode);
        let write = || -> std::io::Result<()> {
            let mut new = tempfile::NamedTempFile::new_in(self.staging())?;
            new.write_all(own.to_string().as_bytes())?;
            new.as_file().sync_all()?;
            new.persist(&noted)?;
            Ok(())
        };
        write().map_err(|error| failed("writing", &noted, error))?;
        old_content::sync(&self.staging())?;
        Ok(own)
    }

    /// Puts what another restore has prepared aside: it goes with what is replaced, at the end.
    pub(crate) fn give_up_staging(&self) -> Result<()> {
        let aside = old_content::place(&self.data_dir);
        std::fs::create_dir_all(&aside).map_err(|e| failed("making", &aside, e))?;
        let mut to = aside.join("prepared");
        let mut number = 1;
        while to.exists() {
            to = aside.join(format!("prepared.{number}"));
            number += 1;
        }
        let moved = std::fs::rename(self.staging(), &to);
        moved.map_err(|e| failed("moving aside what was prepared to", &to, e))?;
        old_content::sync(&self.data_dir)
    }

    /// Whether the data of an etcd was moved aside and none is in its place.
    pub(crate) fn is_moved_aside(&self) -> bool {
        let aside = old_content::place(&self.data_dir);
        !self.has_left() && aside.join(MEMBER).exists()
    }

    /// Moves what the embedded etcd left aside: from here on the only way is forward.
    ///
    /// # Errors
    ///
    /// [`Side::Target`] when what is there was made after the swap had begun: it is nobody's copy.
    pub(crate) fn begin_swap(&self) -> Result<()> {
        self.check_unused()?;
        let own = self.note_what_is_moved()?;
        match self.trace() {
            Some((inode, ..)) if inode != own => self.alone(),
            _ => old_content::move_aside(&self.data_dir, Part::Member),
        }
    }

    /// Stops our etcd.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.stop().await,
            None => Ok(()),
        }
    }

    /// Stops our etcd and puts what was prepared in place.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        self.stop().await?;
        let (staging, member) = (self.staging(), self.data_dir.join(MEMBER));
        self.owner.adopt(std::slice::from_ref(&staging))?;
        let moved = std::fs::rename(staging.join(MEMBER), &member);
        moved.map_err(|e| failed("putting etcd's data in place at", &member, e))?;
        old_content::sync(&self.data_dir)?;
        self.discard()?;
        self.owner.adopt(std::slice::from_ref(&self.data_dir))
    }

    /// Removes what the embedded etcd left.
    pub(crate) fn remove_aside(&self) -> Result<()> {
        old_content::remove(&self.data_dir)
    }
}

/// Makes a directory that only its owner may read, as etcd wants it.
fn make(directory: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|e| failed("making", directory, e))
}

/// Says that the etcd in `staging` has been up.
fn ready(staging: &Path) -> Result<()> {
    let path = staging.join(READY);
    std::fs::write(&path, "").map_err(|e| failed("writing", &path, e))?;
    old_content::sync(staging)
}

fn failed(doing: &str, path: &Path, error: std::io::Error) -> Error {
    Error::from(error)
        .on(Side::Target)
        .context(format!("{doing} {}", path.display()))
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    fn embedded(data_dir: &Path) -> Embedded {
        Embedded {
            data_dir: data_dir.to_owned(),
            binary: PathBuf::from("/nowhere/etcd"),
            owner: Owner::of(data_dir).unwrap(),
            logs: tempfile::tempdir().unwrap(),
            process: None,
            seen: None,
        }
    }

    fn member(directory: &Path, content: &str) {
        std::fs::create_dir_all(directory.join(MEMBER)).unwrap();
        std::fs::write(directory.join(MEMBER).join("db"), content).unwrap();
    }

    #[tokio::test]
    async fn what_was_prepared_takes_the_place_of_what_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let mut home = embedded(dir.path());
        assert_eq!(home.holds(), Holds::Nothing);
        member(dir.path(), "old");
        assert_eq!(home.holds(), Holds::Member);
        member(&home.staging(), "never came up");
        assert_eq!(home.holds(), Holds::Member);
        member(&home.staging(), "new");
        ready(&home.staging()).unwrap();
        assert_eq!(home.holds(), Holds::Staged);
        home.seen = home.trace();
        home.check_unchanged().unwrap();
        let own = home.note_what_is_moved().unwrap();
        assert!(own > 0 && home.note_what_is_moved().unwrap() == own);
        // Torn by a crash: nothing was moved yet.
        std::fs::write(home.staging().join(MOVED), "").unwrap();
        assert_eq!(home.note_what_is_moved().unwrap(), own);
        home.begin_swap().unwrap();
        home.begin_swap().unwrap();
        assert!(home.is_moved_aside());
        assert!(!dir.path().join(MEMBER).exists());
        home.alone().unwrap();
        // What was moved aside under a Milvus that runs is still its own.
        let aside = old_content::place(dir.path()).join("member.1/snap");
        std::fs::create_dir_all(&aside).unwrap();
        let database = std::fs::File::create(aside.join("db")).unwrap();
        let held = Flock::lock(database, FlockArg::LockExclusive).unwrap();
        assert_eq!(home.alone().unwrap_err().exit_code(), 21);
        drop(held);
        home.alone().unwrap();
        // A Milvus that is started meanwhile makes data of its own, which is not moved after the old.
        member(dir.path(), "of a user");
        home.alone().unwrap_err();
        assert_eq!(home.begin_swap().unwrap_err().exit_code(), 21);
        let made = dir.path().join(MEMBER);
        assert!(made.join("db").exists());
        home.check_unchanged().unwrap_err();
        std::fs::remove_dir_all(made).unwrap();
        home.settle().await.unwrap();
        let db = dir.path().join(MEMBER).join("db");
        assert_eq!(std::fs::read_to_string(&db).unwrap(), "new");
        assert_eq!(home.holds(), Holds::Member);
        home.remove_aside().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        home.unsettle().unwrap();
        assert_eq!(home.holds(), Holds::Staged);
        // What another restore had prepared is kept until the end of the one that gives it up.
        home.give_up_staging().unwrap();
        assert_eq!(home.holds(), Holds::Nothing);
        let kept = old_content::place(dir.path()).join("prepared/member/db");
        assert_eq!(std::fs::read_to_string(kept).unwrap(), "new");
        home.remove_aside().unwrap();
    }
}
