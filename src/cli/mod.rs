//! One thin file per verb, and the output that they share.
//!
//! A verb parses ([`commands`]), plans and acts (the library), and renders one of the
//! [`documents`]. Results go to standard output, everything else to standard error.

pub mod commands;
pub mod context;
pub mod documents;
pub mod global;
pub mod logging;
pub mod output;
pub mod progress;
pub mod report;
pub mod stored;
pub mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::{Cause, Error, sys};
use commands::Cli;
use context::Context;
use output::Format;

/// Parses the command line, runs the verb and gives its exit code.
pub fn main() -> ExitCode {
    sys::return_large_buffers();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &arguments),
    };
    let context = Context::system(cli.global);
    let global = &context.global;
    logging::start(
        global.verbosity(),
        global.log_format(),
        context.screen.clone(),
    );
    match cli.command.run(&context) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report::report(&error, context.global.format());
            ExitCode::from(error.exit_code())
        }
    }
}

/// Help and version go to standard output; a wrong command line to standard error with code 2.
fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let asked_for_help = !error.use_stderr();
    let json = arguments.iter().any(|argument| argument == "--json");
    if asked_for_help || !json {
        // A closed pipe is no error, and there is nowhere else to say another one.
        let _unsaid = error.print();
    } else {
        let rendered = error.render().to_string();
        let message = match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "no verb was given",
            _ => rendered
                .lines()
                .next()
                .unwrap_or("the command line is wrong"),
        };
        let message = message.trim_start_matches("error: ").trim_end();
        let error = Error::new(Cause::Invalid, message).with_hint("see `eyrie --help`");
        report::report(&error, Format::Json);
    }
    if asked_for_help {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Cause::Invalid.exit_code(None))
    }
}
