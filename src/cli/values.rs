//! Values on the command line: durations, labels, samples, snapshots.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::verify::Sample;

/// A duration: `90s`, `5m`, `1h 30m`, `7d`.
///
/// # Errors
///
/// A sentence when `text` is none, or zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err(format!("{text:?} is no time at all")),
        Ok(duration) => Ok(duration),
        Err(_) => Err(format!("{text:?} is no duration; write 90s, 5m or 7d")),
    }
}

/// A duration that may be none: `24h`, `0s`.
///
/// # Errors
///
/// A sentence when `text` is none.
pub fn patience(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is no duration; write 24h, 7d or 0s"))
}

/// A part in percent: `5%`, 0 or more.
///
/// # Errors
///
/// A sentence when `text` is none.
pub fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>();
    match number {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok(number),
        _ => Err(format!("{text:?} is no part; write 5%")),
    }
}

/// A duration for people: milliseconds under a second, tenths under a minute, else whole seconds.
#[must_use]
pub fn took(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string(),
    }
}

impl FromStr for Sample {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no sample; write 10% or 3/7");
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
            let good = percent > 0.0 && percent <= 100.0;
            return if good {
                Ok(Self::Percent(percent))
            } else {
                Err(wrong())
            };
        }
        let (part, of) = text.split_once('/').ok_or_else(wrong)?;
        let part: u32 = part.trim().parse().map_err(|_| wrong())?;
        let of: u32 = of.trim().parse().map_err(|_| wrong())?;
        let good = part >= 1 && part <= of;
        if good {
            Ok(Self::Part { part, of })
        } else {
            Err(wrong())
        }
    }
}

/// A snapshot as it is named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotName {
    /// The newest.
    Latest,
    /// A lower-case hexadecimal id or the beginning of one.
    Prefix(String),
}

impl FromStr for SnapshotName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let hex = text.to_ascii_lowercase();
        let good = !hex.is_empty() && hex.len() <= 64 && hex.chars().all(|c| c.is_ascii_hexdigit());
        if good {
            Ok(Self::Prefix(hex))
        } else {
            Err(format!(
                "{text:?} names no snapshot; write latest, an id or the beginning of one"
            ))
        }
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Prefix(hex) => f.write_str(hex),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::label::Label;

    #[test]
    fn durations_samples_labels_and_snapshots() {
        assert_eq!(duration("7d"), Ok(Duration::from_hours(7 * 24)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_mins(90)));
        assert!(duration("0s").is_err() && duration("5").is_err());
        assert_eq!(patience("0s"), Ok(Duration::ZERO));
        assert!(patience("soon").is_err());
        assert_eq!((percent("5%"), percent("12.5 %")), (Ok(5.0), Ok(12.5)));
        assert!(percent("-1%").is_err() && percent("NaN").is_err() && percent("").is_err());
        assert_eq!("10%".parse(), Ok(Sample::Percent(10.0)));
        assert_eq!("3/7".parse(), Ok(Sample::Part { part: 3, of: 7 }));
        for text in ["0%", "101%", "0/7", "8/7", "half", "NaN%", "1/0"] {
            assert!(text.parse::<Sample>().is_err(), "{text}");
        }
        let label = Label {
            key: "env".into(),
            value: "a=b".into(),
        };
        assert_eq!("env=a=b".parse(), Ok(label));
        assert!("=x".parse::<Label>().is_err() && "x".parse::<Label>().is_err());
        assert_eq!("latest".parse(), Ok(SnapshotName::Latest));
        assert_eq!("AB12".parse(), Ok(SnapshotName::Prefix("ab12".into())));
        assert!("xyz".parse::<SnapshotName>().is_err() && "".parse::<SnapshotName>().is_err());
    }

    #[test]
    fn times_are_shown_short() {
        let shown = [7, 1_950, 61_200, 3_600_000].map(|ms| took(Duration::from_millis(ms)));
        assert_eq!(shown, ["7 ms", "1.9 s", "1m 1s", "1h"]);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".*") {
            let _any = (duration(&text), text.parse::<Sample>());
            let _any = (patience(&text), percent(&text));
            let _any = (text.parse::<Label>(), text.parse::<SnapshotName>());
        }
    }
}
