//! The `eyrie` command: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    eyrie::cli::main()
}
