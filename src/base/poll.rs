//! Waiting for what tells nobody when it happens.

use std::time::Duration;

use tokio::time::Instant;

use crate::Result;

/// Looks until `look` finds something, with `pause` between two looks; `None` when the last look ended
/// after `limit`. The first look is made in any case.
///
/// # Errors
///
/// Those of `look`, which end the waiting.
pub async fn poll<T>(
    limit: Duration,
    pause: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let give_up = Instant::now() + limit;
    loop {
        let found = look().await?;
        if found.is_some() || Instant::now() > give_up {
            return Ok(found);
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_look_after_the_limit_is_the_last() {
        let mut looks = 0;
        let found = poll(Duration::ZERO, PAUSE, async || {
            looks += 1;
            Ok((looks == 2).then_some(looks))
        });
        assert_eq!(found.await.unwrap(), Some(2));
        let nothing = poll(Duration::ZERO, PAUSE, async || Ok(None::<()>));
        assert_eq!(nothing.await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_ends_the_waiting() {
        let failed = poll(Duration::MAX / 4, PAUSE, async || {
            Err::<Option<()>, _>(crate::Error::new(crate::Cause::Failed, "broken"))
        });
        assert!(failed.await.is_err());
    }
}
