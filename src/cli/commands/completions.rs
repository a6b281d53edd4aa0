//! `eyrie completions`: a script that completes the command line.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;
use crate::Result;
use crate::cli::context::Context;

/// Print a shell completion script
///
/// For bash: eyrie completions bash > /etc/bash_completion.d/eyrie
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the script.
///
/// # Errors
///
/// When standard output cannot be written.
pub fn run(args: &Args, context: &Context) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "eyrie", &mut script);
    context.output.raw(&script)?;
    Ok(0)
}
