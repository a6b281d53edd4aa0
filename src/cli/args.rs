//! The command line: one tree, declared.

#![allow(
    clippy::doc_markdown,
    reason = "the doc comments of arguments are their help texts"
)]

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use super::commands::{
    backup, check, completions, config, diff, init, ls, man, restore, show, snapshots, verify,
};
use super::logging::{LogFormat, Verbosity};
use super::output::Format;
use super::progress::ProgressMode;

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

/// What every verb takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The configuration file [default: $EYRIE_CONFIG, else /etc/eyrie/eyrie.yaml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The repository, by its name in the configuration [default: the first]
    #[arg(long, global = true, value_name = "NAME")]
    pub repo: Option<String>,

    /// Print one JSON document on standard output, and errors as JSON on standard error
    #[arg(long, global = true)]
    pub json: bool,

    /// Show errors only: no warnings, no progress
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Log what is done; twice: how it is done ($EYRIE_LOG sets a filter of its own)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// How to show progress on standard error
    #[arg(long, global = true, value_enum, default_value_t, value_name = "HOW")]
    pub progress: ProgressMode,
}

impl Global {
    /// How results and errors are written.
    #[must_use]
    pub const fn format(&self) -> Format {
        if self.json {
            Format::Json
        } else {
            Format::Text
        }
    }

    /// How much is logged.
    #[must_use]
    pub const fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, 0) => Verbosity::Normal,
            (false, 1) => Verbosity::Verbose,
            (false, 2) => Verbosity::Debug,
            (false, _) => Verbosity::Trace,
        }
    }

    /// How the log looks: as progress does, so that one reader understands all of standard error.
    #[must_use]
    pub const fn log_format(&self) -> LogFormat {
        match self.progress {
            ProgressMode::Json => LogFormat::Json,
            _ => LogFormat::Text,
        }
    }

    /// How progress is shown.
    #[must_use]
    pub const fn progress(&self) -> ProgressMode {
        if self.quiet {
            ProgressMode::None
        } else {
            self.progress
        }
    }
}

/// The verbs.
#[allow(missing_docs, reason = "the help texts stand at the arguments")]
#[derive(Debug, Subcommand)]
pub enum Command {
    Init(init::Args),
    Check(check::Args),
    Backup(backup::Args),
    Snapshots(snapshots::Args),
    Show(show::Args),
    Ls(ls::Args),
    Diff(diff::Args),
    Verify(verify::Args),
    Restore(restore::Args),
    Config(config::Args),
    Completions(completions::Args),
    Man(man::Args),
}
