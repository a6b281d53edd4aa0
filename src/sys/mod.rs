//! The only unsafe code: calls of the operating system that no safe crate offers.
#![allow(unsafe_code, reason = "it is kept to this module")]

use nix::sys::signal::Signal;

/// Makes the child of `command` receive SIGKILL when the thread that started it ends, so that it
/// never outlives a killed agent.
pub fn kill_with_parent(command: &mut tokio::process::Command) {
    let set = || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from);
    // SAFETY: the closure runs in the child between fork and exec, where only async-signal-safe
    // calls are allowed; prctl(2) is one system call, and it allocates nothing.
    unsafe { command.pre_exec(set) };
}
