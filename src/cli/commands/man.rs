//! `eyrie man`: manual pages.

use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_mangen::Man;

use super::Cli;
use crate::cli::context::Context;
use crate::{Error, Result};

/// Print the manual page, or write one page per verb
///
/// To read it: eyrie man | man -l -
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Write eyrie.1, eyrie-backup.1 and so on into this directory
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Prints or writes the pages.
///
/// # Errors
///
/// When standard output or the directory cannot be written.
pub fn run(args: &Args, context: &Context) -> Result<u8> {
    let command = Cli::command();
    if let Some(dir) = &args.dir {
        let written = clap_mangen::generate_to(command, dir);
        let what = || format!("cannot write manual pages into {}", dir.display());
        written.map_err(|error| Error::from(error).context(what()))?;
    } else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        context.output.raw(&page)?;
    }
    Ok(0)
}
