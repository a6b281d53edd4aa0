//! `eyrie init`: make a repository.

use crate::Result;
use crate::cli::context::Context;
use crate::cli::documents::{HexId, InitDocument};
use crate::cli::output::{Page, Render};
use crate::connect::{self, Make};
use crate::repo::{InitOptions, Repository, Unlock};

/// Make the repository, after probing what its store can do
///
/// The passphrase comes from the repository's passphrase_file. Keep a copy of it elsewhere: without
/// it no snapshot can be read, by anyone. An existing repository is left as it is, and is an error.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Args {
    /// Keep the keys in the clear: whoever reads the repository reads all data in it, and the
    /// credentials of Milvus's users
    #[arg(long)]
    pub no_encryption: bool,
}

/// Makes the repository.
///
/// # Errors
///
/// [`Kind::Usage`] without a passphrase, [`Kind::Failed`] when there is a repository already.
pub fn run(args: &Args, context: &Context) -> Result<u8> {
    let config = context.config()?;
    let repository = context.repository(&config)?;
    let unlock = if args.no_encryption {
        Unlock::None
    } else {
        Unlock::Passphrase(repository.require_passphrase()?)
    };
    let document = context.run(async {
        let store = connect::repository_store(repository, Make::Directory, &context.env).await?;
        let capabilities = store.capabilities();
        let made = Repository::init(store, unlock, InitOptions::default(), &context.env).await?;
        Ok(InitDocument {
            repository: repository.name.clone(),
            id: HexId(made.id().to_string()),
            location: repository.location.to_string(),
            encrypted: made.encrypted(),
            format: 1,
            conditional_create: capabilities.conditional_create,
            versions: capabilities.versions,
            writer_can_destroy: true,
            notes: Vec::new(),
        })
    })?;
    context.output.show(&document)?;
    Ok(0)
}

impl Render for InitDocument {
    fn render(&self, page: &mut Page) {
        let yes = |yes: bool, word: &str| {
            if yes {
                word.to_owned()
            } else {
                format!("no {word}")
            }
        };
        page.line(format!(
            "repository {} made at {}",
            self.repository, self.location
        ));
        page.pairs(&[
            ("id", self.id.0.clone()),
            ("format", self.format.to_string()),
            (
                "keys",
                if self.encrypted {
                    "under the passphrase"
                } else {
                    "IN THE CLEAR"
                }
                .to_owned(),
            ),
            (
                "store",
                format!(
                    "{}, {}",
                    yes(self.conditional_create, "conditional create"),
                    yes(self.versions, "versions"),
                ),
            ),
        ]);
        if self.writer_can_destroy {
            page.line("whoever holds these credentials can delete every snapshot in it");
        }
        page.list("notes", self.notes.iter().map(|note| note.what.clone()));
    }
}
