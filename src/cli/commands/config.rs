//! `eyrie config`: what is in force, the schema, an example.

use clap::Subcommand;

use crate::Result;
use crate::cli::context::Context;
use crate::cli::documents::{ConfigShowDocument, ValueDocument};
use crate::cli::output::{Column, Page, Render};
use crate::config::{EXAMPLE, Resolved, Source};

/// Look at the configuration
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to print.
    #[command(subcommand)]
    pub what: What,
}

/// What to print.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum What {
    /// Print every value in force and where it comes from; secrets are masked
    ///
    /// Reads the configuration file and the files of Milvus that it names, connects to nothing and
    /// reads no secret. With -v, values that are not set are shown too.
    Show,
    /// Print the JSON Schema of the configuration file, for editors
    Schema,
    /// Print a commented configuration file to begin with
    Example,
}

/// Prints what was asked for.
///
/// # Errors
///
/// [`Cause::Invalid`](crate::Cause::Invalid) when the configuration is missing or wrong.
pub fn run(args: &Args, context: &Context) -> Result<u8> {
    match args.what {
        What::Show => {
            let document = document(&context.config()?);
            let unset = context.global.verbose > 0;
            context.output.show(&Shown { document, unset })?;
        }
        What::Schema => {
            let schema = schemars::schema_for!(crate::config::model::File);
            let text = serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n";
            context.output.raw(text.as_bytes())?;
        }
        What::Example => context.output.raw(EXAMPLE.as_bytes())?,
    }
    Ok(0)
}

/// The document of a configuration.
#[must_use]
pub fn document(config: &Resolved) -> ConfigShowDocument {
    let settings = config.settings.iter().map(|setting| ValueDocument {
        key: setting.key.clone(),
        value: setting.value.clone(),
        origin: origin(&setting.source).to_owned(),
        source: setting.source.to_string(),
    });
    ConfigShowDocument {
        file: config.path.display().to_string(),
        settings: settings.collect(),
    }
}

const fn origin(source: &Source) -> &'static str {
    match source {
        Source::Explicit(_) => "explicit",
        Source::Variable(_) => "variable",
        Source::MilvusEnv(_) => "milvus_env",
        Source::MilvusYaml(_) => "milvus_yaml",
        Source::Derived(_) => "derived",
        Source::Default => "default",
    }
}

#[derive(Debug, serde::Serialize)]
#[serde(transparent)]
struct Shown {
    document: ConfigShowDocument,
    #[serde(skip)]
    unset: bool,
}

impl Render for Shown {
    fn render(&self, page: &mut Page) {
        let columns = [
            Column::text("key"),
            Column::text("value"),
            Column::text("from"),
        ];
        let settings = self.document.settings.iter();
        let shown = settings.filter(|setting| self.unset || setting.value.is_some());
        let rows = shown.map(|setting| {
            let value = setting.value.clone().unwrap_or_else(|| "-".to_owned());
            vec![setting.key.clone(), value, setting.source.clone()]
        });
        page.table(&columns, rows);
    }
}
