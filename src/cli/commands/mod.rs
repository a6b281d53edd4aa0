//! The command line, declared: one tree, and the verbs, one file each: arguments, what is asked of
//! the library, and how the result looks.

#![allow(
    clippy::doc_markdown,
    reason = "the doc comments of arguments are their help texts"
)]

pub mod backup;
pub mod check;
pub mod completions;
pub mod config;
pub mod diff;
pub mod forget;
mod how;
pub mod init;
pub mod ls;
pub mod man;
pub mod prune;
pub mod restore;
pub mod show;
pub mod snapshots;
pub mod verify;

use std::time::Duration;

use clap::{Parser, Subcommand};

use super::context::Context;
use super::documents::Weakening;
use super::global::Global;
use super::output::Page;
use super::values::took;
use crate::Result;
use crate::instance::holds::HoldSpent;

/// What the exit code means; part of the help of every verb.
pub const EXIT_CODES: &str = "\
Exit codes:
  0            done as asked
  1            failed; the message says what, and what state it left
  2            the command line or the configuration is wrong
  3            done, but weakened in a way that was not asked for
  10 11 12 13  no repository there; locked by another; wrong passphrase or key; newer format
  20           the instance cannot be captured as asked
  21           the target refuses the restore
  22           verification found damage
  130 143      interrupted; holds released, repository whole";

const ABOUT: &str = "\
Back up a Milvus instance, metadata and segment objects, as one consistent snapshot";

const LONG_ABOUT: &str = "\
Back up a Milvus instance, metadata (etcd) and segment objects (MinIO, S3 or a directory), as one \
consistent snapshot, and put both back.

Begin with `eyrie config example > /etc/eyrie/eyrie.yaml`, then `eyrie config show`.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "eyrie",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_help = EXIT_CODES,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What every verb takes.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// One line a verb: its name in the tree and its module.
macro_rules! verbs {
    ($($verb:ident $module:ident)*) => {
        /// The verbs.
        #[allow(missing_docs, reason = "the help texts stand at the arguments")]
        #[derive(Debug, Subcommand)]
        pub enum Command {
            $($verb($module::Args),)*
        }

        impl Command {
            /// Runs the verb; the result is its exit code.
            pub(super) fn run(&self, context: &Context) -> Result<u8> {
                match self {
                    $(Self::$verb(args) => $module::run(args, context),)*
                }
            }
        }
    };
}

// The order is that of the help.
verbs! {
    Init init
    Check check
    Backup backup
    Snapshots snapshots
    Show show
    Ls ls
    Diff diff
    Verify verify
    Restore restore
    Forget forget
    Prune prune
    Config config
    Completions completions
    Man man
}

/// How long writes were denied, and what the time went into.
fn denied(ms: u64, spent: Option<HoldSpent>) -> String {
    let took = |ms| took(Duration::from_millis(ms));
    match spent {
        None => took(ms),
        Some(spent) => format!(
            "{} (until every proxy denied them {}, flush {}, reading {}, proving quiet {})",
            took(ms),
            took(spent.denial_ms),
            took(spent.flush_ms),
            took(spent.reading_ms),
            took(spent.quiet_ms)
        ),
    }
}

/// The lines of weakenings, those that nobody asked for first.
fn weakenings(page: &mut Page, weakened: &[Weakening]) {
    let line = |w: &&Weakening| format!("{}: {}", w.kind, w.what);
    let unasked = weakened.iter().filter(|w| !w.accepted);
    page.list("weakened", unasked.collect::<Vec<_>>().iter().map(line));
    let accepted = weakened.iter().filter(|w| w.accepted);
    page.list(
        "weakened as asked",
        accepted.collect::<Vec<_>>().iter().map(line),
    );
}
