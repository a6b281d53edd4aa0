//! Being told to stop: SIGINT and SIGTERM become a handle that long work checks between steps.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{Cause, Error, Result};

/// How long after stopping was asked for things may still be put in order. With what the runtime
/// waits for at its end a process is gone within five seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Half of the time, for what has more to follow.
    First,
    /// All of it.
    Last,
}

impl Turn {
    const fn time(self) -> Duration {
        match self {
            Self::First => Duration::from_millis(1_250),
            Self::Last => Duration::from_millis(2_500),
        }
    }
}

/// Tells work that it should stop; all clones are one handle.
///
/// Stopping is asked for, never forced: who sees it releases its holds, leaves the repository
/// whole and returns [`Cancel::error`].
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    token: CancellationToken,
    request: Arc<OnceLock<(Cause, Instant)>>,
}

impl Cancel {
    /// A handle that nobody has asked to stop.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop because of `cause`, [`Cause::Interrupted`] or [`Cause::Terminated`]; the first
    /// cause stays.
    pub fn request(&self, cause: Cause) {
        let _first_cause_stays = self.request.set((cause, Instant::now()));
        self.token.cancel();
    }

    /// Whether stopping was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until stopping is asked for.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// The error to return after stopping; its exit code is 130 or 143.
    #[must_use]
    pub fn error(&self) -> Error {
        match self.request.get() {
            Some((Cause::Terminated, _)) => Error::new(Cause::Terminated, "terminated by SIGTERM"),
            _ => Error::new(Cause::Interrupted, "interrupted"),
        }
    }

    /// Fails when stopping was asked for.
    ///
    /// # Errors
    ///
    /// [`Cancel::error`].
    pub fn check(&self) -> Result<()> {
        if self.is_requested() {
            Err(self.error())
        } else {
            Ok(())
        }
    }

    /// Runs `work` unless stopping is asked for first; `work` is then dropped where it waits, so it
    /// must not hold what only its own end would release.
    ///
    /// # Errors
    ///
    /// Those of `work`, and [`Cancel::error`].
    pub async fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.requested() => Err(self.error()),
            result = work => result,
        }
    }

    /// Does `work`, which puts things in order: releases a hold, ends a session. `None` when it was not
    /// done in time after stopping was asked for, because a server does not answer; what is left then
    /// ends by itself.
    pub async fn in_order<T>(&self, turn: Turn, work: impl Future<Output = T>) -> Option<T> {
        let late = async {
            self.requested().await;
            if let Some((_, since)) = self.request.get() {
                tokio::time::sleep_until(*since + turn.time()).await;
            }
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = late => None,
        }
    }

    /// Listens for SIGINT and SIGTERM in the current runtime: the first asks to stop, the second
    /// ends the process at once with 130 or 143, leaving leases to run out by themselves (I3).
    ///
    /// # Errors
    ///
    /// [`Cause::Failed`] when the handlers cannot be installed.
    pub fn on_signals(&self) -> Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let cancel = self.clone();
        tokio::spawn(async move {
            loop {
                let cause = tokio::select! {
                    received = interrupt.recv() => received.map(|()| Cause::Interrupted),
                    received = terminate.recv() => received.map(|()| Cause::Terminated),
                };
                let Some(cause) = cause else { return };
                if cancel.is_requested() {
                    std::process::exit(i32::from(cause.exit_code(None)));
                }
                tracing::warn!("stopping: releasing holds; a second signal ends at once");
                cancel.request(cause);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_cause_decides_the_exit_code() {
        let cancel = Cancel::new();
        assert!(cancel.check().is_ok());
        assert_eq!(cancel.run(async { Ok(7) }).await.unwrap(), 7);
        let other = cancel.clone();
        other.request(Cause::Terminated);
        other.request(Cause::Interrupted);
        let error = cancel
            .run(std::future::pending::<Result<()>>())
            .await
            .unwrap_err();
        assert_eq!(error.exit_code(), 143);
        assert_eq!(cancel.check().unwrap_err().cause(), Cause::Terminated);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_put_in_order_has_its_time_once_stopping_was_asked_for() {
        let cancel = Cancel::new();
        let minute = || tokio::time::sleep(Duration::from_mins(1));
        assert!(cancel.in_order(Turn::First, minute()).await.is_some());
        cancel.request(Cause::Terminated);
        let began = Instant::now();
        assert!(cancel.in_order(Turn::First, minute()).await.is_none());
        assert!(began.elapsed() < Turn::Last.time());
        assert!(cancel.in_order(Turn::Last, minute()).await.is_none());
        assert!(cancel.in_order(Turn::Last, minute()).await.is_none());
        assert_eq!(began.elapsed().as_millis(), Turn::Last.time().as_millis());
        assert_eq!(cancel.in_order(Turn::First, async { 7 }).await, Some(7));
    }
}
