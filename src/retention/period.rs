//! The periods that rules count: hours, days, weeks, months and years of a time zone.

use std::fmt;

use jiff::Zoned;

use crate::config::retention::Rule;

/// A period on the clock of a time zone, or a snapshot's own number. Two are equal when they are the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// The snapshot with this number, counted from 1 for the newest.
    Number(usize),
    /// An hour. One that comes twice, when clocks are set back, is two.
    Hour {
        /// Its day.
        date: jiff::civil::Date,
        /// 0 to 23.
        hour: i8,
        /// Seconds by which the zone is ahead of UTC then.
        offset: i32,
    },
    /// A day.
    Day(jiff::civil::Date),
    /// An ISO week: its year and number.
    Week(i16, i8),
    /// A month: its year and number.
    Month(i16, i8),
    /// A year.
    Year(i16),
}

impl Period {
    /// The period of `rule` that `time` is in; `number` counts the snapshots before it.
    pub(super) fn of(rule: Rule, time: &Zoned, number: usize) -> Self {
        match rule {
            Rule::Last => Self::Number(number + 1),
            Rule::Hourly => Self::Hour {
                date: time.date(),
                hour: time.hour(),
                offset: time.offset().seconds(),
            },
            Rule::Daily => Self::Day(time.date()),
            Rule::Weekly => {
                let week = time.date().iso_week_date();
                Self::Week(week.year(), week.week())
            }
            Rule::Monthly => Self::Month(time.year(), time.month()),
            Rule::Yearly => Self::Year(time.year()),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "number {number}"),
            Self::Hour { date, hour, offset } => {
                let (sign, minutes) = (if *offset < 0 { '-' } else { '+' }, offset.abs() / 60);
                write!(
                    f,
                    "{date} {hour:02}h{sign}{:02}:{:02}",
                    minutes / 60,
                    minutes % 60
                )
            }
            Self::Day(date) => date.fmt(f),
            Self::Week(year, week) => write!(f, "{year}-W{week:02}"),
            Self::Month(year, month) => write!(f, "{year}-{month:02}"),
            Self::Year(year) => year.fmt(f),
        }
    }
}
