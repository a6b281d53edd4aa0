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

/// Buffers of so many bytes go back to the system when they are freed.
#[cfg(target_env = "gnu")]
const LARGE: std::ffi::c_int = 1 << 20;

/// Makes memory of large buffers go back to the system as soon as they are freed.
///
/// glibc raises the size from which a buffer has a mapping of its own to that of the largest buffer that was
/// freed, up to 32 MiB (mallopt(3), `M_MMAP_THRESHOLD`). After that pieces of objects come from the arenas of
/// the threads, which keep what was freed, and a backup within a budget of 64 MiB held 350 MiB.
pub fn return_large_buffers() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) sets a parameter of the allocator under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
