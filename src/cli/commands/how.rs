//! How to capture, as `backup` and `check` take it from the command line.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::Result;
use crate::capture::Options;
use crate::instance::methods::Method;
use crate::snapshot::Mode;

/// The mode and the method of a capture.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct How {
    /// How writers are treated
    #[arg(long, value_enum, default_value_t = Mode::Quiesced)]
    pub mode: Mode,

    /// How objects are captured
    #[arg(long, value_enum, default_value_t = MethodChoice::Auto)]
    pub method: MethodChoice,
}

impl How {
    /// The capture, with the default limits.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`](crate::Cause::Invalid) when this eyrie does not have the method.
    pub(super) fn options(self) -> Result<Options> {
        let method = match self.method {
            MethodChoice::Auto => Method::Copy,
            MethodChoice::By(method) => method,
        };
        Ok(Options {
            mode: self.mode,
            ..Options::new(method.open()?)
        })
    }
}

/// A capture method to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodChoice {
    /// The cheapest that keeps the promise.
    Auto,
    /// This one.
    By(Method),
}

impl ValueEnum for MethodChoice {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Auto,
            Self::By(Method::Copy),
            Self::By(Method::Versions),
            Self::By(Method::Filesystem),
            Self::By(Method::Ebs),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Auto => {
                Some(PossibleValue::new("auto").help("The cheapest that keeps the promise"))
            }
            Self::By(method) => method.to_possible_value(),
        }
    }
}
