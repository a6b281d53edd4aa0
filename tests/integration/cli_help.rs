//! The help of every verb, as a reader at 3 a.m. sees it.

use clap::{Args, Command, CommandFactory as _};
use eyrie::cli::commands::{
    Cli, backup, check, completions, config, diff, init, ls, man, restore, show, snapshots, verify,
};

/// The help of one verb at the width of the narrowest terminal that matters.
fn help<A: Args>(verb: &'static str) -> String {
    let command = A::augment_args(Command::new(verb).bin_name(format!("eyrie {verb}")));
    let text = command
        .term_width(100)
        .disable_help_subcommand(true)
        .render_long_help();
    text.to_string()
}

#[test]
fn the_whole_command() {
    let mut command = Cli::command().term_width(100);
    insta::assert_snapshot!("eyrie", command.render_long_help().to_string());
}

#[test]
fn every_verb() {
    for (verb, help) in [
        ("init", help::<init::Args>("init")),
        ("check", help::<check::Args>("check")),
        ("backup", help::<backup::Args>("backup")),
        ("snapshots", help::<snapshots::Args>("snapshots")),
        ("show", help::<show::Args>("show")),
        ("ls", help::<ls::Args>("ls")),
        ("diff", help::<diff::Args>("diff")),
        ("verify", help::<verify::Args>("verify")),
        ("restore", help::<restore::Args>("restore")),
        ("config", help::<config::Args>("config")),
        ("completions", help::<completions::Args>("completions")),
        ("man", help::<man::Args>("man")),
    ] {
        insta::assert_snapshot!(verb, help);
    }
}

#[test]
fn the_tree_is_sound() {
    Cli::command().debug_assert();
}
