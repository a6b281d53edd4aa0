//! Progress on standard error: a bar on a terminal, a line every ten seconds elsewhere, JSON lines
//! on demand.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use schemars::JsonSchema;
use serde::Serialize;

use super::output::count;
use super::values::took;
use crate::base::env::lock;
use crate::base::progress::{Amount, Progress};
use crate::base::text::Bytes;

/// How often a line is written where there is no terminal (the interface contract).
pub const LINE_EVERY: Duration = Duration::from_secs(10);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ProgressMode {
    /// A bar on a terminal, lines elsewhere.
    #[default]
    Auto,
    /// A bar.
    Bar,
    /// A line when a phase begins and ends, and every 10 s.
    Plain,
    /// The same as JSON lines.
    Json,
    /// Nothing.
    None,
}

/// Standard error, shared by progress and the log.
#[derive(Debug, Clone)]
pub struct Screen {
    bars: MultiProgress,
}

impl Screen {
    /// Standard error.
    #[must_use]
    pub fn stderr() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { bars }
    }

    /// Whether what is written may have colours.
    #[must_use]
    pub fn has_colours(&self) -> bool {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        io::stderr().is_terminal() && !plain
    }

    /// Writes whole lines, between two drawings of a bar.
    pub fn write(&self, bytes: &[u8]) {
        self.bars.suspend(|| {
            let _nowhere_to_say = io::stderr().write_all(bytes);
        });
    }
}

/// One line of `--progress json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ProgressLine {
    /// `begin`, `progress`, `end` or `note`.
    pub event: &'static str,
    /// The phase, such as `copy`.
    pub phase: Option<&'static str>,
    /// What the phase did so far.
    pub done: Amount,
    /// What it will do altogether, where that is known.
    pub total: Option<Amount>,
    /// How long the phase has run.
    pub elapsed_ms: u64,
    /// The text of a note.
    pub note: Option<String>,
}

impl ProgressLine {
    fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    fn text(&self) -> String {
        if let Some(note) = &self.note {
            return format!("note: {note}\n");
        }
        let phase = self.phase.unwrap_or("work");
        let amount = |amount: Amount| match amount {
            Amount { objects, bytes: 0 } => objects.to_string(),
            Amount { objects, bytes } => format!("{}, {}", count(objects, "object"), Bytes(bytes)),
        };
        let elapsed = took(Duration::from_millis(self.elapsed_ms));
        match (self.event, self.total) {
            ("begin", Some(total)) => format!("{phase}: {}\n", amount(total)),
            ("begin", None) => format!("{phase}\n"),
            ("end", _) if self.done == Amount::default() => format!("{phase}: done in {elapsed}\n"),
            ("end", _) => format!("{phase}: {} in {elapsed}\n", amount(self.done)),
            (_, Some(total)) => {
                format!(
                    "{phase}: {} of {}, {elapsed}\n",
                    amount(self.done),
                    amount(total)
                )
            }
            (_, None) => format!("{phase}: {}, {elapsed}\n", amount(self.done)),
        }
    }
}

/// Shows progress until dropped.
#[derive(Debug)]
pub struct Reporter {
    shared: Arc<Shared>,
    ticker: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    stop: Condvar,
    show: Show,
    screen: Screen,
}

#[derive(Debug, Default)]
struct State {
    phase: Option<Running>,
    stopped: bool,
}

#[derive(Debug)]
struct Running {
    name: &'static str,
    since: Instant,
    done: Amount,
    total: Option<Amount>,
    bar: Option<ProgressBar>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Show {
    Bar,
    Lines,
    Json,
    Nothing,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("show", &self.show)
            .finish_non_exhaustive()
    }
}

impl Reporter {
    /// Shows progress on `screen` as `mode` says.
    #[must_use]
    pub fn start(mode: ProgressMode, screen: Screen) -> Self {
        let show = match mode {
            ProgressMode::Auto if io::stderr().is_terminal() => Show::Bar,
            ProgressMode::Bar => Show::Bar,
            ProgressMode::Auto | ProgressMode::Plain => Show::Lines,
            ProgressMode::Json => Show::Json,
            ProgressMode::None => Show::Nothing,
        };
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            stop: Condvar::new(),
            show,
            screen,
        });
        let ticker = matches!(show, Show::Lines | Show::Json).then(|| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.tick())
        });
        Self { shared, ticker }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.end();
        lock(&self.shared.state).stopped = true;
        self.shared.stop.notify_all();
        if let Some(ticker) = self.ticker.take() {
            let _it_cannot_panic = ticker.join();
        }
    }
}

impl Shared {
    /// Writes a line every [`LINE_EVERY`], also while nothing advances.
    fn tick(&self) {
        let mut state = lock(&self.state);
        while !state.stopped {
            let waited = self.stop.wait_timeout(state, LINE_EVERY);
            let (guard, timeout) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
            state = guard;
            if timeout.timed_out()
                && let Some(running) = &state.phase
            {
                self.write(&running.line("progress"));
            }
        }
    }

    fn write(&self, line: &ProgressLine) {
        match self.show {
            Show::Bar | Show::Lines => self.screen.write(line.text().as_bytes()),
            Show::Json => self.screen.write(line.json().as_bytes()),
            Show::Nothing => {}
        }
    }

    fn bar(&self, name: &'static str, total: Option<Amount>) -> Option<ProgressBar> {
        if self.show != Show::Bar {
            return None;
        }
        let bar = self.screen.bars.add(ProgressBar::no_length());
        bar.set_prefix(name);
        style(&bar, total);
        bar.enable_steady_tick(Duration::from_millis(120));
        Some(bar)
    }

    fn finish(&self, running: &Running) {
        if let Some(bar) = &running.bar {
            bar.finish_and_clear();
            self.screen.bars.remove(bar);
        }
        self.write(&running.line("end"));
    }
}

impl Running {
    fn line(&self, event: &'static str) -> ProgressLine {
        ProgressLine {
            event,
            phase: Some(self.name),
            done: self.done,
            total: self.total,
            elapsed_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            note: None,
        }
    }

    fn draw(&self) {
        let Some(bar) = &self.bar else { return };
        match self.total {
            Some(Amount { bytes: 0, .. }) => bar.set_position(self.done.objects),
            Some(_) => {
                bar.set_position(self.done.bytes);
                bar.set_message(count(self.done.objects, "object"));
            }
            None if self.done == Amount::default() => {}
            None => bar.set_message(format!(
                "{}, {}",
                count(self.done.objects, "object"),
                Bytes(self.done.bytes)
            )),
        }
    }
}

/// Gives `bar` the length and template that fit `total`.
fn style(bar: &ProgressBar, total: Option<Amount>) {
    let (length, template) = match total {
        None => (None, "{prefix:<10} {spinner} {elapsed} {msg}"),
        Some(Amount { objects, bytes: 0 }) => (
            Some(objects),
            "{prefix:<10} [{bar:30}] {pos}/{len} {elapsed}",
        ),
        Some(Amount { bytes, .. }) => (
            Some(bytes),
            "{prefix:<10} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta} {msg}",
        ),
    };
    if let Some(length) = length {
        bar.set_length(length);
    }
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

impl Progress for Reporter {
    fn begin(&self, phase: &'static str, total: Option<Amount>) {
        let mut state = lock(&self.shared.state);
        if let Some(before) = state.phase.take() {
            self.shared.finish(&before);
        }
        let running = Running {
            name: phase,
            since: Instant::now(),
            done: Amount::default(),
            total,
            bar: self.shared.bar(phase, total),
        };
        if running.bar.is_none() {
            self.shared.write(&running.line("begin"));
        }
        state.phase = Some(running);
    }

    fn expect(&self, total: Amount) {
        if let Some(running) = &mut lock(&self.shared.state).phase {
            running.total = Some(total);
            if let Some(bar) = &running.bar {
                style(bar, Some(total));
            }
            running.draw();
        }
    }

    fn advance(&self, by: Amount) {
        if let Some(running) = &mut lock(&self.shared.state).phase {
            running.done += by;
            running.draw();
        }
    }

    fn note(&self, text: &str) {
        let state = lock(&self.shared.state);
        let line = ProgressLine {
            event: "note",
            phase: state.phase.as_ref().map(|running| running.name),
            done: Amount::default(),
            total: None,
            elapsed_ms: 0,
            note: Some(text.to_owned()),
        };
        self.shared.write(&line);
    }

    fn end(&self) {
        if let Some(last) = lock(&self.shared.state).phase.take() {
            self.shared.finish(&last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: &'static str, done: Amount, total: Option<Amount>) -> ProgressLine {
        ProgressLine {
            event,
            phase: Some("copy"),
            done,
            total,
            elapsed_ms: 12_340,
            note: None,
        }
    }

    #[test]
    fn lines_say_phase_amount_and_time() {
        let (none, some) = (Amount::default(), Amount::new(12, 3 << 20));
        let total = Some(Amount::new(40, 1 << 30));
        let mut lines = vec![
            line("begin", none, None),
            line("begin", none, total),
            line("progress", some, total),
            line("progress", Amount::new(3, 0), Some(Amount::new(9, 0))),
            line("progress", some, None),
            line("end", some, total),
            line("end", none, None),
        ];
        lines.push(ProgressLine {
            note: Some("garbage collection cannot be paused".into()),
            ..line("note", none, None)
        });
        let text: String = lines.iter().map(ProgressLine::text).collect();
        let json: String = lines.iter().map(ProgressLine::json).collect();
        insta::assert_snapshot!(text + &json);
    }

    #[test]
    fn a_reporter_takes_calls_in_any_order_and_stops() {
        for mode in [ProgressMode::None, ProgressMode::Bar, ProgressMode::Plain] {
            let reporter = Reporter::start(mode, Screen::stderr());
            reporter.advance(Amount::object(1));
            reporter.expect(Amount::object(1));
            reporter.begin("one", None);
            reporter.advance(Amount::object(1));
            reporter.expect(Amount::object(4));
            reporter.begin("two", Some(Amount::new(2, 0)));
            reporter.end();
            reporter.end();
        }
    }
}
