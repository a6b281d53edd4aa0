//! The log on standard error, which never tears a progress bar.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::progress::Screen;

/// The variable that sets the log's filter, such as `eyrie=trace,h2=debug`.
pub const FILTER_VARIABLE: &str = "EYRIE_LOG";

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors only, no progress.
    Quiet,
    /// Warnings.
    Normal,
    /// What is done (`-v`).
    Verbose,
    /// How it is done (`-vv`).
    Debug,
    /// Everything of eyrie's own (`-vvv`).
    Trace,
}

impl Verbosity {
    const fn filter(self) -> &'static str {
        match self {
            Self::Quiet => "error",
            Self::Normal => "warn",
            Self::Verbose => "warn,eyrie=info",
            Self::Debug => "info,eyrie=debug",
            Self::Trace => "info,eyrie=trace",
        }
    }
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// JSON, where progress is JSON too.
    Json,
}

/// Starts the log; a second call changes nothing.
pub fn start(verbosity: Verbosity, format: LogFormat, screen: Screen) {
    let filter = std::env::var(FILTER_VARIABLE)
        .ok()
        .and_then(|text| text.parse::<EnvFilter>().ok())
        .unwrap_or_else(|| EnvFilter::new(verbosity.filter()));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(screen.has_colours())
        .with_writer(Lines(screen));
    let _already_started = match (format, verbosity) {
        (LogFormat::Json, _) => builder.json().try_init().is_ok(),
        (LogFormat::Text, Verbosity::Debug | Verbosity::Trace) => builder.try_init().is_ok(),
        (LogFormat::Text, _) => builder.without_time().with_target(false).try_init().is_ok(),
    };
}

#[derive(Debug, Clone)]
struct Lines(Screen);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            screen: self.0.clone(),
            bytes: Vec::new(),
        }
    }
}

/// One line of the log, written whole when dropped.
#[derive(Debug)]
struct Line {
    screen: Screen,
    bytes: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.screen.write(&self.bytes);
    }
}
