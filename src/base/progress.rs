//! What long work tells about itself while it runs; the command line shows it, tests record it.

use std::fmt::Debug;
use std::ops::{Add, AddAssign};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

/// An amount of work: objects (or whatever a phase counts) and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Amount {
    /// Objects, keys or steps, as the phase counts.
    pub objects: u64,
    /// Bytes; 0 in a phase that moves none.
    pub bytes: u64,
}

impl Amount {
    /// `objects` objects of `bytes` bytes altogether.
    #[must_use]
    pub const fn new(objects: u64, bytes: u64) -> Self {
        Self { objects, bytes }
    }

    /// One object of `bytes` bytes.
    #[must_use]
    pub const fn object(bytes: u64) -> Self {
        Self::new(1, bytes)
    }
}

impl Add for Amount {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, by: Self) {
        self.objects = self.objects.saturating_add(by.objects);
        self.bytes = self.bytes.saturating_add(by.bytes);
    }
}

/// Takes progress; cheap enough to be called for every object, from any thread.
pub trait Progress: Debug + Send + Sync {
    /// A phase begins, such as `flush` or `copy`, and the one before ends; `total` where it is known.
    fn begin(&self, phase: &'static str, total: Option<Amount>);

    /// The current phase will do this much altogether.
    fn expect(&self, total: Amount);

    /// The current phase did this much more.
    fn advance(&self, by: Amount);

    /// Something worth a line of its own that is no warning.
    fn note(&self, text: &str);

    /// The last phase ended.
    fn end(&self);
}

/// Progress that several tasks report to.
pub type SharedProgress = Arc<dyn Progress>;

/// What tests report to.
#[cfg(test)]
pub mod testing {
    use std::sync::Mutex;

    use super::*;
    use crate::base::env::lock;

    /// Shows nothing.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct Silent;

    impl Progress for Silent {
        fn begin(&self, _: &'static str, _: Option<Amount>) {}
        fn expect(&self, _: Amount) {}
        fn advance(&self, _: Amount) {}
        fn note(&self, _: &str) {}
        fn end(&self) {}
    }

    /// Keeps the phases and what each did, for tests.
    #[derive(Debug, Default)]
    pub struct Recorder {
        phases: Mutex<Vec<Phase>>,
        notes: Mutex<Vec<String>>,
    }

    /// One phase that a [`Recorder`] saw.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Phase {
        /// Its name.
        pub name: &'static str,
        /// What it did.
        pub done: Amount,
        /// What it said it would do.
        pub total: Option<Amount>,
    }

    impl Recorder {
        /// The phases in order.
        #[must_use]
        pub fn phases(&self) -> Vec<Phase> {
            lock(&self.phases).clone()
        }

        /// The notes in order.
        #[must_use]
        pub fn notes(&self) -> Vec<String> {
            lock(&self.notes).clone()
        }

        fn current(&self, change: impl FnOnce(&mut Phase)) {
            if let Some(phase) = lock(&self.phases).last_mut() {
                change(phase);
            }
        }
    }

    impl Progress for Recorder {
        fn begin(&self, name: &'static str, total: Option<Amount>) {
            let done = Amount::default();
            lock(&self.phases).push(Phase { name, done, total });
        }

        fn expect(&self, total: Amount) {
            self.current(|phase| phase.total = Some(total));
        }

        fn advance(&self, by: Amount) {
            self.current(|phase| phase.done += by);
        }

        fn note(&self, text: &str) {
            lock(&self.notes).push(text.to_owned());
        }

        fn end(&self) {}
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Phase, Recorder};
    use super::*;

    #[test]
    fn a_recorder_sums_each_phase() {
        let recorder = Arc::new(Recorder::default());
        let progress: SharedProgress = recorder.clone();
        progress.advance(Amount::object(1));
        progress.begin("copy", None);
        progress.expect(Amount::new(2, 30));
        progress.advance(Amount::object(10));
        progress.advance(Amount::object(20));
        progress.note("one object was known");
        progress.end();
        let total = Some(Amount::new(2, 30));
        let done = Amount::new(2, 30);
        let name = "copy";
        assert_eq!(recorder.phases(), [Phase { name, done, total }]);
        assert_eq!(recorder.notes(), ["one object was known"]);
    }
}
