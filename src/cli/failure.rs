//! How a command fails: an exit code and one line.

use std::fmt::Display;
use std::io;

use crate::app::lr::LrError;
use crate::app::model::ModelError;
use crate::app::{PredictError, PublishError};
use crate::client;
use crate::data::DataError;
use crate::lane::PortError;
use crate::server::ServerError;
use crate::server::coordinator::CoordinatorError;

/// The work failed, or was asked for wrongly.
#[derive(Debug)]
pub(super) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Wrong usage: exit 2.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// Wrong usage that the user was told of already.
    pub(super) fn usage_shown() -> Self {
        Self::usage("")
    }

    /// Ctrl-C, where there was something to clear away first.
    pub(super) fn interrupted() -> Self {
        Self { code: 130, message: String::new() }
    }

    /// The work failed, and standard output says how: exit 1.
    pub(super) fn told() -> Self {
        Self { code: 1, message: String::new() }
    }

    /// The work failed: exit 1.
    pub(super) fn work(message: impl Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    pub(super) fn code(&self) -> u8 {
        self.code
    }

    /// The message as one line, whatever the parts of it held.
    pub(super) fn line(&self) -> String {
        self.message.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

impl From<io::Error> for Failure {
    /// Only standard output and the machine itself fail so; files have errors that name them.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // The reader of our results left: nobody to tell, but not a success either.
            return Self { code: 1, message: String::new() };
        }
        Self::work(format!("cannot write results: {error}; check where standard output goes"))
    }
}

impl From<PortError> for Failure {
    fn from(error: PortError) -> Self {
        match error {
            PortError::Driver { .. } => Self::usage(error.to_string()),
            PortError::Machine(_) => Self::work(error),
        }
    }
}

impl From<DataError> for Failure {
    /// Flags that contradict themselves are known before any file is read.
    fn from(error: DataError) -> Self {
        match error {
            DataError::Spec { .. } | DataError::Sources { .. } => Self::usage(error.to_string()),
            _ => Self::work(error),
        }
    }
}

macro_rules! fails_with_exit_1 {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::work(error)
            }
        }
    )*};
}
fails_with_exit_1!(
    client::Error,
    client::KeysError,
    CoordinatorError,
    LrError,
    ModelError,
    PredictError,
    PublishError,
    ServerError,
    gradwire_kernels::IsaError,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_many_lines_is_shown_as_one() {
        assert_eq!(Failure::work("a\n  b\n\nc").line(), "a b c");
    }

    #[test]
    fn a_reader_that_left_is_told_nothing() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.code(), failure.line().as_str()), (1, ""));
    }
}
