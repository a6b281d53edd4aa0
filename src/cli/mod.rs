//! One thin file per verb, and the output that they share.

use std::process::ExitCode;

/// Parses the command line, runs the verb and gives its exit code.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
