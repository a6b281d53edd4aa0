//! What every verb takes.

#![allow(
    clippy::doc_markdown,
    reason = "the doc comments of arguments are their help texts"
)]

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::logging::{LogFormat, Verbosity};
use super::output::Format;
use super::progress::ProgressMode;

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
