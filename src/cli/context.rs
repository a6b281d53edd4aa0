//! What a verb works with: configuration, output, progress, cancellation.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::global::Global;
use super::output::Output;
use super::progress::{Reporter, Screen};
use crate::base::cancel::Cancel;
use crate::base::env::Env;
use crate::base::progress::SharedProgress;
use crate::base::resources::{Limits, Resources};
use crate::config::{DEFAULT_PATH, Repository, Resolved, Variables};
use crate::{Cause, Error, Result};

/// How long tasks that nobody waits for may go on after a verb ended.
const GRACE: Duration = Duration::from_secs(2);

/// What a verb works with.
#[derive(Debug)]
pub struct Context {
    /// What every verb takes.
    pub global: Global,
    /// Our own environment variables.
    pub variables: Variables,
    /// Clock, randomness and ids.
    pub env: Env,
    /// Where results go.
    pub output: Output,
    /// Standard error.
    pub screen: Screen,
    /// Whether to stop.
    pub cancel: Cancel,
    resources: OnceLock<Resources>,
}

impl Context {
    /// The context of this process.
    #[must_use]
    pub fn system(global: Global) -> Self {
        Self {
            output: Output::stdout(global.format()),
            variables: Variables::system(),
            env: Env::system(),
            screen: Screen::stderr(),
            cancel: Cancel::new(),
            resources: OnceLock::new(),
            global,
        }
    }

    /// Where the configuration is.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        let given = self.global.config.clone();
        let given = given.or_else(|| self.variables.config_path());
        given.unwrap_or_else(|| PathBuf::from(DEFAULT_PATH))
    }

    /// Reads the configuration.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`] when it is missing or wrong.
    pub fn config(&self) -> Result<Resolved> {
        Resolved::load(&self.config_path(), &self.variables)
    }

    /// The repository that `--repo` names, or the first.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`] when there is none.
    pub fn repository<'a>(&self, config: &'a Resolved) -> Result<&'a Repository> {
        config.repository(self.global.repo.as_deref())
    }

    /// Threads, memory and bytes a second of this process, made at the first call.
    ///
    /// # Errors
    ///
    /// Those of [`Resources::new`].
    pub fn resources(&self, limits: &Limits) -> Result<Resources> {
        if let Some(made) = self.resources.get() {
            return Ok(made.clone());
        }
        let made = Resources::new(limits)?;
        Ok(self.resources.get_or_init(|| made).clone())
    }

    /// Shows progress as the command line asked, until the last handle is dropped.
    #[must_use]
    pub fn progress(&self) -> SharedProgress {
        Arc::new(Reporter::start(self.global.progress(), self.screen.clone()))
    }

    /// Runs `work` on a new runtime that listens for SIGINT and SIGTERM.
    ///
    /// # Errors
    ///
    /// Those of `work`, and [`Cause::Failed`] when no runtime can be started.
    pub fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| {
                Error::new(Cause::Failed, "cannot start the runtime").with_source(error)
            })?;
        let result = runtime.block_on(async {
            self.cancel.on_signals()?;
            work.await
        });
        runtime.shutdown_timeout(GRACE);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_with_signals_and_is_told_to_stop() {
        let context = Context::system(Global::default());
        let progress = context.progress();
        let cancel = context.cancel.clone();
        let result = context.run(async {
            progress.note("working");
            cancel.request(Cause::Interrupted);
            cancel.run(std::future::pending::<Result<()>>()).await
        });
        assert_eq!(result.unwrap_err().exit_code(), 130);
    }

    #[test]
    fn the_flag_outranks_the_variable_and_that_the_default() {
        let mut context = Context::system(Global::default());
        context.variables = Variables::default();
        assert_eq!(context.config_path(), PathBuf::from(DEFAULT_PATH));
        let pair = ("EYRIE_CONFIG".to_owned(), "/variable".to_owned());
        context.variables = Variables::from_pairs([pair]);
        assert_eq!(context.config_path(), PathBuf::from("/variable"));
        context.global.config = Some("/flag".into());
        assert_eq!(context.config_path(), PathBuf::from("/flag"));
    }
}
