//! `eyrie init`: make a repository.

use crate::base::text::Bytes;
use crate::cli::context::Context;
use crate::cli::documents::{HexId, InitDocument, Note};
use crate::cli::output::{Page, Render};
use crate::instance::connect::{self, Make};
use crate::repo::{InitOptions, Repository, Unlock};
use crate::store::probe::{ConditionalCreate, Deletion, Findings, VersionsKept};
use crate::store::s3::UploadChecksums;
use crate::{Cause, Error, Result};

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

    /// The size of the files that hold the data: 1MiB to 1GiB. It is chosen once: larger ones mean
    /// fewer files, smaller ones that less is rewritten when old snapshots go
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub pack_size: Bytes,
}

/// Makes the repository.
///
/// # Errors
///
/// [`Cause::Invalid`] without a passphrase, [`Cause::Failed`] when there is a repository already.
pub fn run(args: &Args, context: &Context) -> Result<u8> {
    let config = context.config()?;
    let repository = context.repository(&config)?;
    let unlock = if args.no_encryption {
        Unlock::None
    } else {
        Unlock::Passphrase(repository.require_passphrase()?)
    };
    let resources = context.resources(&config.limits)?;
    let pack_size = u32::try_from(args.pack_size.0).map_err(|_| {
        let message = format!(
            "--pack-size {} is not possible: it is 1MiB to 1GiB",
            args.pack_size
        );
        Error::new(Cause::Invalid, message)
    })?;
    let (made, findings) = context.run(context.cancel.run(async {
        let env = &context.env;
        let mut store = connect::repository_store(repository, Make::Directory, env).await?;
        let mut options = InitOptions {
            pack_size,
            ..InitOptions::default()
        };
        let mut findings = None;
        if Repository::refuse_occupied(&store).await.is_ok() {
            let (probed, found) = connect::probed(store, repository, env).await?;
            store = probed;
            options.store = recorded(&found)?;
            findings = Some(found);
        }
        let made = Repository::init(store, unlock, options, &resources, env).await?;
        Ok((made, findings))
    }))?;
    let location = repository.location.to_string();
    let document = document(&repository.name, location, &made, findings.as_ref());
    context.output.show(&document)?;
    Ok(0)
}

/// What the probe found, as the repository's config keeps it.
fn recorded(findings: &Findings) -> Result<serde_json::Value> {
    serde_json::to_value(findings).map_err(|error| {
        Error::new(Cause::Failed, "writing the probe's findings").with_source(error)
    })
}

fn document(
    name: &str,
    location: String,
    made: &Repository,
    findings: Option<&Findings>,
) -> InitDocument {
    let is = |fact: fn(&Findings) -> bool| findings.is_some_and(fact);
    InitDocument {
        repository: name.to_owned(),
        id: HexId(made.id().to_string()),
        location,
        encrypted: made.encrypted(),
        format: 1,
        conditional_create: is(|f| f.conditional_create == ConditionalCreate::Works),
        versions: is(|f| f.versions == VersionsKept::Yes),
        writer_can_destroy: !is(|f| f.deletion == Deletion::Denied),
        notes: notes(made, findings),
    }
}

fn notes(made: &Repository, findings: Option<&Findings>) -> Vec<Note> {
    let note = Note::new;
    let mut notes = vec![if made.encrypted() {
        note(
            "keep-passphrase",
            "keep a copy of the passphrase elsewhere: without it nobody can read any snapshot",
        )
    } else {
        note(
            "not-encrypted",
            "whoever reads the repository reads all data in it, and the credentials of Milvus's \
             users",
        )
    }];
    let Some(found) = findings else {
        return notes;
    };
    match found.conditional_create {
        ConditionalCreate::Works => {}
        ConditionalCreate::Ignored | ConditionalCreate::Refused => notes.push(note(
            "conditional-create-missing",
            "the store cannot create a file only where none is; random names keep writers apart",
        )),
    }
    if found.versions == VersionsKept::Suspended {
        notes.push(note(
            "versions-suspended",
            "the bucket's versioning is suspended: what is deleted or replaced is gone",
        ));
    }
    if !found.list_after_write {
        notes.push(note(
            "list-lags",
            "a listing does not show at once what was written",
        ));
    }
    let without = match found.checksums {
        UploadChecksums::All => None,
        UploadChecksums::Single => Some("the parts of an upload"),
        UploadChecksums::None => Some("uploads"),
    };
    if let Some(without) = without {
        let what = format!(
            "the store takes no checksum with {without}: what is uploaded so is proved by its length and by \
             reading it back, which doubles the traffic"
        );
        notes.push(note("no-upload-checksums", &what));
    }
    if !found.left_behind.is_empty() {
        let left = found.left_behind.join(", ");
        notes.push(note(
            "append-only",
            &format!("these credentials cannot delete; the probe left {left}"),
        ));
    }
    notes
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
