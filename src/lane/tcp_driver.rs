//! Which driver a port's TCP lanes use: chosen by `GRADWIRE_TCP`, by default the faster one by measurement, and epoll where
//! io_uring cannot be set up. A fallback is told once a process and shown in every status.

use std::ffi::OsStr;
use std::sync::{Once, OnceLock};

use gradwire_ffi::MachineError;
use gradwire_ffi::uring::{Threading, Uring};

use super::PortError;
use super::driver::{Driver, EpollDriver};
use super::uring_driver::UringDriver;

/// Names the driver: `uring` or `epoll`.
pub const TCP_VARIABLE: &str = "GRADWIRE_TCP";

/// What moves the bytes of a port's TCP lanes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpDriver {
    /// `uring` or `epoll`.
    pub name: &'static str,
    /// Why it is epoll although io_uring was to be used.
    pub fallback: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Uring,
    Epoll,
}

/// By measurement (decision 0006): io_uring moves bulk as fast, but a round trip costs it a third more.
const DEFAULT: Choice = Choice::Epoll;

fn choose(value: Option<&OsStr>) -> Result<Choice, PortError> {
    match value {
        None => Ok(DEFAULT),
        Some(value) if value == "uring" => Ok(Choice::Uring),
        Some(value) if value == "epoll" => Ok(Choice::Epoll),
        Some(value) => Err(PortError::Driver { value: value.to_string_lossy().into_owned() }),
    }
}

/// Whether [`TCP_VARIABLE`] names a driver or is unset, for those who want to say so before any work.
///
/// # Errors
/// [`PortError::Driver`]: it names none.
pub fn check_tcp_variable() -> Result<(), PortError> {
    choose(std::env::var_os(TCP_VARIABLE).as_deref()).map(|_| ())
}

/// The driver of a new port.
pub(super) fn open(threading: Threading) -> Result<(Box<dyn Driver + Send>, TcpDriver), PortError> {
    open_by(choose(std::env::var_os(TCP_VARIABLE).as_deref())?, || Uring::create(threading))
}

fn open_by(
    choice: Choice,
    set_up: impl FnOnce() -> Result<Uring, MachineError>,
) -> Result<(Box<dyn Driver + Send>, TcpDriver), PortError> {
    let epoll = |fallback| -> Result<(Box<dyn Driver + Send>, TcpDriver), PortError> {
        Ok((Box::new(EpollDriver::create()?), TcpDriver { name: "epoll", fallback }))
    };
    if choice == Choice::Epoll {
        return epoll(None);
    }
    match set_up() {
        Ok(ring) => Ok((Box::new(UringDriver::over(ring)), TcpDriver { name: "uring", fallback: None })),
        Err(error) => {
            let reason = error.to_string();
            tell(&reason);
            epoll(Some(reason))
        }
    }
}

static LISTENER: OnceLock<fn(&str)> = OnceLock::new();

/// Has `listener` told, once, the line of a fallback from io_uring to epoll. The first call of a process counts.
pub fn on_tcp_fallback(listener: fn(&str)) {
    LISTENER.get_or_init(|| listener);
}

fn tell(reason: &str) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        let line = format!("tcp lanes use epoll, because io_uring is not to be had: {reason}");
        tracing::warn!("{line}");
        if let Some(listener) = LISTENER.get() {
            listener(&line);
        }
    });
}

#[cfg(test)]
#[path = "tcp_driver_tests.rs"]
mod tests;
