//! Listing a directory tree in byte order of keys, with the memory of one path of directories.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use nix::sys::stat::SFlag;
use tokio::sync::mpsc;

use super::TEMP_DIRECTORY;
use super::tree::Tree;
use crate::Result;
use crate::store::{Key, ListOptions, Meta, may_begin_a_key};

/// How many entries pass from the walking thread at once.
const BATCH: usize = 512;

/// How many batches may wait for the reader.
const BATCHES: usize = 2;

pub(super) fn stream(
    tree: Arc<Tree>,
    prefix: &str,
    options: ListOptions,
) -> BoxStream<'static, Result<Meta>> {
    let prefix = prefix.to_owned();
    let start = move || {
        let (sender, receiver) = mpsc::channel(BATCHES);
        tokio::task::spawn_blocking(move || {
            let mut walk = Walk {
                tree: &tree,
                prefix: &prefix,
                after: options.after.as_ref().map(Key::as_str),
                batch: Vec::new(),
                sender,
            };
            if let Err(error) = walk.run() {
                walk.batch.push(Err(error));
            }
            walk.send();
        });
        receiver
    };
    // Nothing runs before the first item is asked for.
    stream::once(async move { start() })
        .flat_map(|receiver| {
            stream::unfold(receiver, |mut receiver| async move {
                let batch: Vec<Result<Meta>> = receiver.recv().await?;
                Some((stream::iter(batch), receiver))
            })
        })
        .flatten()
        .boxed()
}

/// Whether the reader still listens.
#[derive(PartialEq, Eq)]
enum Reader {
    Listens,
    Gone,
}

struct Walk<'a> {
    tree: &'a Tree,
    prefix: &'a str,
    after: Option<&'a str>,
    batch: Vec<Result<Meta>>,
    sender: mpsc::Sender<Vec<Result<Meta>>>,
}

/// A directory on the path that is being walked.
struct Level {
    directory: OwnedFd,
    /// Its path from the root, with a trailing `/` unless it is the root.
    path: String,
    names: std::vec::IntoIter<(String, SFlag)>,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        let start = self.prefix.rsplit_once('/').map_or("", |(start, _)| start);
        let names: Vec<&str> = start.split('/').filter(|_| !start.is_empty()).collect();
        if !may_begin_a_key(self.prefix) || names.first() == Some(&TEMP_DIRECTORY) {
            return Ok(());
        }
        let Some(directory) = self.tree.directory(&names)? else {
            return Ok(());
        };
        let path = names.iter().flat_map(|name| [*name, "/"]).collect();
        let mut levels = vec![self.level(directory, path)?];
        while let Some(level) = levels.last_mut() {
            let Some((name, kind)) = level.names.next() else {
                levels.pop();
                continue;
            };
            let path = format!("{}{name}", level.path);
            if kind == SFlag::S_IFDIR {
                let name = name.trim_end_matches('/');
                if let Some(directory) = self.tree.enter(&level.directory, name, &path)? {
                    levels.push(self.level(directory, path)?);
                }
                continue;
            }
            if kind == SFlag::S_IFLNK {
                return Err(self.tree.link_listed(&path));
            }
            let meta = self.tree.stat_in(&level.directory, &name, Key(path))?;
            self.batch.extend(meta.map(Ok));
            if self.batch.len() >= BATCH && self.send() == Reader::Gone {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads a directory and sorts what is wanted of it: a directory sorts with the `/` that its
    /// keys go on with, so that the order is that of whole keys.
    fn level(&self, directory: OwnedFd, path: String) -> Result<Level> {
        let mut names = self.tree.names(&directory, &path)?;
        for (name, kind) in &mut names {
            if *kind == SFlag::S_IFDIR {
                name.push('/');
            }
        }
        names.retain(|(name, kind)| self.wants(&format!("{path}{name}"), *kind));
        names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Level {
            directory,
            path,
            names: names.into_iter(),
        })
    }

    fn wants(&self, path: &str, kind: SFlag) -> bool {
        if path.strip_suffix('/') == Some(TEMP_DIRECTORY) {
            return false;
        }
        let directory = kind == SFlag::S_IFDIR;
        let matches = path.starts_with(self.prefix) || directory && self.prefix.starts_with(path);
        let follows = self
            .after
            .is_none_or(|after| path > after || directory && after.starts_with(path));
        matches && follows
    }

    fn send(&mut self) -> Reader {
        let batch = std::mem::take(&mut self.batch);
        match self.sender.blocking_send(batch) {
            Ok(()) => Reader::Listens,
            Err(_) => Reader::Gone,
        }
    }
}
