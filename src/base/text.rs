//! Sizes and lists as people write and read them.

use std::fmt;
use std::str::FromStr;

/// Units of sizes: IEC and, without the `i`, SI.
const UNITS: &[(&str, u64)] = &[
    ("b", 1),
    ("k", 1_000),
    ("kb", 1_000),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("t", 1_000_000_000_000),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
];

/// A number of bytes, or of bytes a second: `4096`, `10MiB`, `1.5 GB`, `50MiB/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.trim().trim_end_matches("/s").to_ascii_lowercase();
        let cut = bare
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(bare.len());
        let (number, unit) = bare.split_at(cut);
        let wrong = || format!("{text:?} is no size; write 4096, 10MiB or 1.5GB");
        let unit = match unit.trim() {
            "" => 1,
            unit => {
                UNITS
                    .iter()
                    .find(|(name, _)| *name == unit)
                    .ok_or_else(wrong)?
                    .1
            }
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let bytes = whole.checked_mul(unit).ok_or_else(wrong)?;
        // Eighteen digits are more than the largest unit has.
        let digits = fraction.get(..18).unwrap_or(fraction);
        let rest = match digits {
            "" => 0,
            digits => digits.parse::<u64>().map_err(|_| wrong())?,
        };
        let scale = 10_u128.pow(u32::try_from(digits.len()).unwrap_or(0));
        let rest = u128::from(rest) * u128::from(unit) / scale;
        let rest = u64::try_from(rest).map_err(|_| wrong())?;
        bytes.checked_add(rest).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let step = (self.0.ilog2() / 10).min(6);
        // Tenths, rounded down, in whole numbers: a size is never shown larger than it is.
        let tenths = (u128::from(self.0) * 10) >> (step * 10);
        let name = NAMES[step as usize - 1];
        write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// The first `most` of `items`, separated by `separator`, and how many there are beside them.
#[must_use]
pub fn first<T: fmt::Display>(items: &[T], most: usize, separator: &str) -> String {
    cut(items, most, |more| format!("and {more} more")).join(separator)
}

/// The first `most` of `items`, and what `more` says of how many there are beside them.
pub fn cut<T: fmt::Display>(
    items: impl IntoIterator<Item = T>,
    most: usize,
    more: impl FnOnce(usize) -> String,
) -> Vec<String> {
    let mut items = items.into_iter();
    let mut named: Vec<String> = items.by_ref().take(most).map(|i| i.to_string()).collect();
    match items.count() {
        0 => {}
        unnamed => named.push(more(unnamed)),
    }
    named
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_in_both_systems() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("10MiB", 10 << 20),
            ("10 mb", 10_000_000),
            ("1.5GiB", 3 << 29),
            ("50MiB/s", 50 << 20),
            ("1k", 1_000),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "MiB", "10x", "-1", "1.2.3", "99999999999TiB", "1e3"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(first(&["a", "b"], 2, ", "), "a, b");
        assert_eq!(first(&[1, 2, 3, 4], 2, "; "), "1; 2; and 2 more");
        assert_eq!(first::<u8>(&[], 2, ", "), "");
    }

    #[test]
    fn sizes_are_shown_short() {
        let shown =
            [0, 1023, 1024, 1536, (10 << 20) - 1, 3 << 40, u64::MAX].map(|b| Bytes(b).to_string());
        assert_eq!(
            shown,
            [
                "0 B", "1023 B", "1.0 KiB", "1.5 KiB", "9.9 MiB", "3.0 TiB", "15.9 EiB"
            ]
        );
    }

    proptest! {
        #[test]
        fn whole_numbers_of_any_unit_are_exact(n in 0..1_000_000_u64, unit in 0..UNITS.len()) {
            let (name, factor) = UNITS[unit];
            prop_assert_eq!(format!("{n}{name}").parse(), Ok(Bytes(n * factor)));
        }

        #[test]
        fn nothing_panics(text in ".*") {
            let _any = text.parse::<Bytes>();
        }
    }
}
