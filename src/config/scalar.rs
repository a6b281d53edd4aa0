//! What Milvus makes of a scalar in `milvus.yaml`.
//!
//! It reads files by yaml.v2 2.4.0, until 2.4 through viper, and turns every value into text by cast 1.3.1
//! (`pkg/config/file_source.go` and `config.go`). So `1.10` is `1.1`, `010` is `8`, and `yes` is `true`. The rules
//! are those of `resolve.go` of yaml.v2; `tests/data/milvus_yaml.json` has what the Go libraries themselves said.

use super::yaml::Scalar;

/// The text that Milvus has for a scalar that is not null.
pub(super) fn text(scalar: &Scalar) -> String {
    if scalar.plain {
        resolved(&scalar.text).unwrap_or_else(|| scalar.text.clone())
    } else {
        scalar.text.clone()
    }
}

/// The text of what is no string; `None` for a string.
fn resolved(text: &str) -> Option<String> {
    let known = match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => "true",
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            "false"
        }
        ".nan" | ".NaN" | ".NAN" => "NaN",
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => "+Inf",
        "-.inf" | "-.Inf" | "-.INF" => "-Inf",
        _ => "",
    };
    if !known.is_empty() {
        return Some(known.to_owned());
    }
    match text.chars().next()? {
        '.' => float(text),
        '0'..='9' | '+' | '-' => {
            // A date is a number to nobody: it has two signs within.
            let plain = text.replace('_', "");
            integer(&plain).or_else(|| float(&plain))
        }
        _ => None,
    }
}

/// A whole number of 64 bits, as `strconv.ParseInt` and `ParseUint` read it when they find the base themselves.
fn integer(text: &str) -> Option<String> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("+", &text[1..]),
        _ => ("", text),
    };
    let prefix = digits.get(..2).unwrap_or_default().to_ascii_lowercase();
    let (base, digits) = match prefix.as_str() {
        "0x" => (16, &digits[2..]),
        "0o" => (8, &digits[2..]),
        "0b" => (2, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    // Rust would take a second sign.
    if !digits.starts_with(|c: char| c.is_digit(base)) {
        return None;
    }
    if sign.is_empty() {
        return u64::from_str_radix(digits, base)
            .ok()
            .map(|n| n.to_string());
    }
    let number = i64::from_str_radix(&format!("{sign}{digits}"), base);
    number.ok().map(|n| n.to_string())
}

/// A decimal fraction, which is written without an exponent. One that is too large for 64 bits is a string.
fn float(text: &str) -> Option<String> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    // Of words, Rust takes `inf` and `nan` for numbers.
    if !unsigned.starts_with(|c: char| c == '.' || c.is_ascii_digit()) {
        return None;
    }
    let number: f64 = text.parse().ok()?;
    number.is_finite().then(|| number.to_string())
}
