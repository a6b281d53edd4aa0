//! The verbs, one file each: arguments, what is asked of the library, and how the result looks.

#![allow(
    clippy::doc_markdown,
    reason = "the doc comments of arguments are their help texts"
)]

pub mod backup;
pub mod check;
pub mod completions;
pub mod config;
pub mod diff;
pub mod init;
pub mod ls;
pub mod man;
pub mod restore;
pub mod show;
pub mod snapshots;
pub mod verify;

use super::documents::Weakening;
use super::output::Page;

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
