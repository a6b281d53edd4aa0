//! Clock, randomness and ids, passed in so that a year of schedules or a crash at write 317 is an
//! ordinary test.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;

/// What a component takes from the outside world besides its stores.
#[derive(Debug, Clone)]
pub struct Env {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// A source of time.
pub trait Clock: Debug + Send + Sync {
    /// Wall-clock time, for records that people read; it may jump.
    fn now(&self) -> Timestamp;

    /// Time since an arbitrary start that does not jump and counts suspension (`CLOCK_BOOTTIME`);
    /// leases are judged by it.
    fn boottime(&self) -> Duration;
}

/// A source of ids that must not collide. Keys and nonces never come from here.
pub trait Random: Debug + Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

impl Env {
    /// The system's clock and randomness.
    #[must_use]
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        }
    }

    /// A clock that stands still until told, and ids from a counter under `seed`.
    #[must_use]
    pub fn simulated(start: Timestamp, seed: u64) -> (Self, Arc<SimulatedClock>) {
        let clock = Arc::new(SimulatedClock(Mutex::new((start, Duration::ZERO))));
        let env = Self {
            clock: clock.clone(),
            random: Arc::new(SeededRandom(Mutex::new((seed, 0)))),
        };
        (env, clock)
    }

    /// Wall-clock time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Monotonic time that counts suspension.
    #[must_use]
    pub fn boottime(&self) -> Duration {
        self.clock.boottime()
    }

    /// A new random 256-bit id.
    #[must_use]
    pub fn id(&self) -> [u8; 32] {
        let mut id = [0; 32];
        self.random.fill(&mut id);
        id
    }
}

#[cfg(test)]
impl Env {
    /// The clock of tokio, which tests pause, and ids from a counter under `seed`.
    pub(crate) fn of_tokio(seed: u64) -> Self {
        Self {
            clock: Arc::new(TokioClock(tokio::time::Instant::now())),
            random: Arc::new(SeededRandom(Mutex::new((seed, 0)))),
        }
    }
}

#[cfg(test)]
#[derive(Debug)]
struct TokioClock(tokio::time::Instant);

#[cfg(test)]
impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let now = Timestamp::UNIX_EPOCH.checked_add(self.boottime());
        now.unwrap_or(Timestamp::MAX)
    }

    fn boottime(&self) -> Duration {
        self.0.elapsed()
    }
}

#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn boottime(&self) -> Duration {
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map(Duration::from)
            .unwrap_or_default()
    }
}

#[derive(Debug)]
struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        fill_secret(bytes);
    }
}

/// Fills `bytes` from the system's generator; keys and nonces come from here only.
///
/// # Panics
///
/// When the operating system has no randomness to give, as nothing safe can follow.
pub fn fill_secret(bytes: &mut [u8]) {
    assert!(
        aws_lc_rs::rand::fill(bytes).is_ok(),
        "the system's random generator failed"
    );
}

/// A clock under a test's control.
#[derive(Debug)]
pub struct SimulatedClock(Mutex<(Timestamp, Duration)>);

impl SimulatedClock {
    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let mut state = lock(&self.0);
        state.0 = state.0.checked_add(by).unwrap_or(Timestamp::MAX);
        state.1 += by;
    }

    /// Sets the wall clock only, as an operator or NTP does.
    pub fn set_wall(&self, to: Timestamp) {
        lock(&self.0).0 = to;
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        lock(&self.0).0
    }

    fn boottime(&self) -> Duration {
        lock(&self.0).1
    }
}

#[derive(Debug)]
struct SeededRandom(Mutex<(u64, u64)>);

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = lock(&self.0);
        state.1 += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&state.0.to_le_bytes());
        hasher.update(&state.1.to_le_bytes());
        hasher.finalize_xof().fill(bytes);
    }
}

/// Locks `mutex`, also after a panic elsewhere: the data it guards is valid at every point.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
