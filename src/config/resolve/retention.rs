//! `retention:`, at the top and of a repository.

use super::super::model::{CountValue, RetentionSection};
use super::super::parse::shown;
use super::super::retention::{Keep, Retention, Rule, time_zone};
use super::{Resolver, wrong};
use crate::Result;

impl Resolver<'_> {
    /// The policy that `section`, at the key `at`, says.
    pub(super) fn retention(&mut self, at: &str, section: &RetentionSection) -> Result<Retention> {
        let mut retention = Retention::default();
        let counts = [
            &section.keep_last,
            &section.keep_hourly,
            &section.keep_daily,
            &section.keep_weekly,
            &section.keep_monthly,
            &section.keep_yearly,
        ];
        for (rule, value) in Rule::ALL.into_iter().zip(counts) {
            let keep = match value {
                None => continue,
                Some(CountValue::Number(number)) => Keep::Number(*number),
                Some(CountValue::Text(text)) => {
                    self.parsed(&format!("{at}.keep_{}", rule.name()), text.parse())?
                }
            };
            self.note(&format!("{at}.keep_{}", rule.name()), &keep.to_string());
            retention.counts.insert(rule, keep);
        }
        if let Some(text) = &section.keep_within {
            let key = format!("{at}.keep_within");
            retention.within = Some(self.parsed(&key, text.parse())?);
            self.note(&key, text);
        }
        for text in section.keep_label.as_slice() {
            let key = format!("{at}.keep_label");
            retention.labels.push(self.parsed(&key, text.parse())?);
        }
        if !retention.labels.is_empty() {
            let labels = section.keep_label.as_slice().join(", ");
            self.note(&format!("{at}.keep_label"), &labels);
        }
        if let Some(name) = &section.time_zone {
            let key = format!("{at}.time_zone");
            retention.zone = self.parsed(&key, time_zone(name))?;
            self.note(&key, name);
        }
        Ok(retention)
    }

    fn parsed<T>(&self, key: &str, parsed: Result<T, String>) -> Result<T> {
        parsed.map_err(|what| {
            let hint = "docs/retention.md has all rules; `eyrie config example` shows some";
            wrong(
                &self.explicit(key),
                &format!("{}: {what}", shown(key)),
                hint,
            )
        })
    }
}
