//! Which snapshots are to stay: the rules of `retention:` and of `eyrie forget` (docs/retention.md).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Span;
use jiff::tz::TimeZone;

use crate::base::label::Label;

/// A rule that counts: it keeps the newest snapshot of each of so many periods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// The last ones; each is a period of its own.
    Last,
    /// Hours on the clock of the time zone.
    Hourly,
    /// Days of the time zone.
    Daily,
    /// ISO weeks, which begin on Monday.
    Weekly,
    /// Months.
    Monthly,
    /// Years.
    Yearly,
}

impl Rule {
    /// All of them, the finest first.
    pub const ALL: [Self; 6] = [
        Self::Last,
        Self::Hourly,
        Self::Daily,
        Self::Weekly,
        Self::Monthly,
        Self::Yearly,
    ];

    /// Its name, as in `--keep-daily`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }
}

/// How many periods a rule keeps a snapshot of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// So many.
    Number(u32),
    /// All.
    All,
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            _ => text
                .parse()
                .map(Self::Number)
                .map_err(|_| format!("{text:?} is neither a number nor `all`")),
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::All => f.write_str("all"),
        }
    }
}

/// A stretch of time in units of the calendar, more than none: `7d`, `2w`, `1y 6mo`.
#[derive(Debug, Clone, Copy)]
pub struct Stretch(pub Span);

impl FromStr for Stretch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<Span>() {
            Ok(span) if span.is_positive() => Ok(Self(span)),
            _ => Err(format!(
                "{text:?} is no stretch of time; write 36h, 7d, 2w, 6mo or 1y 6mo"
            )),
        }
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

/// The time zone of this name, such as `Europe/Berlin`, or `UTC`.
///
/// # Errors
///
/// A sentence when there is none.
pub fn time_zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| {
        format!("{name:?} is no time zone; write a name such as Europe/Berlin, or UTC")
    })
}

/// A policy of retention.
#[derive(Debug, Clone)]
pub struct Retention {
    /// How many periods each rule keeps; a rule that is not there keeps none.
    pub counts: BTreeMap<Rule, Keep>,
    /// All snapshots that are at most so much older than the newest.
    pub within: Option<Stretch>,
    /// All snapshots that have one of these labels.
    pub labels: Vec<Label>,
    /// Whose hours, days, weeks, months and years these are.
    pub zone: TimeZone,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            counts: BTreeMap::new(),
            within: None,
            labels: vec![],
            zone: TimeZone::UTC,
        }
    }
}

impl Retention {
    /// Whether it has no rule that could keep a snapshot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let counted = self.counts.values().any(|keep| *keep != Keep::Number(0));
        !counted && self.within.is_none() && self.labels.is_empty()
    }

    /// The name of the time zone.
    #[must_use]
    pub fn zone_name(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_stretches_and_zones_are_read_and_nonsense_is_named() {
        assert_eq!("all".parse(), Ok(Keep::All));
        assert_eq!("7".parse(), Ok(Keep::Number(7)));
        for wrong in ["-1", "7.5", "seven", "", "4294967296"] {
            assert!(wrong.parse::<Keep>().is_err(), "{wrong}");
        }
        for (text, shown) in [
            ("7d", "7d"),
            ("36h", "36h"),
            ("1y 6mo", "1y 6mo"),
            ("P2W", "2w"),
        ] {
            assert_eq!(text.parse::<Stretch>().unwrap().to_string(), shown);
        }
        for wrong in ["0d", "7d ago", "-7d", "7", "", "soon"] {
            assert!(wrong.parse::<Stretch>().is_err(), "{wrong}");
        }
        assert!(time_zone("Europe/Berlin").is_ok() && time_zone("UTC").is_ok());
        assert!(
            time_zone("Berlin/Europe")
                .unwrap_err()
                .contains("Berlin/Europe")
        );
    }
}
