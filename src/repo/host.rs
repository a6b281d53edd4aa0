//! Which process of which host holds a lease, and whether it is provably gone.

use serde::{Deserialize, Serialize};

/// A process, named so that another one on the same host can tell whether it still runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The host's name.
    pub name: String,
    /// `/etc/machine-id`; empty where there is none.
    pub machine: String,
    /// The kernel's boot id; empty where it does not tell.
    pub boot: String,
    /// The process id, in its own pid namespace.
    pub pid: u32,
    /// When the process started, in clock ticks after the boot.
    pub start: u64,
    /// The pid namespace: two containers of one host share everything above but this.
    pub pid_ns: String,
}

impl Host {
    /// This process.
    pub(crate) fn current() -> Self {
        let read = |path: &str| {
            std::fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .unwrap_or_default()
        };
        let pid = std::process::id();
        Self {
            name: nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok())
                .unwrap_or_default(),
            machine: read("/etc/machine-id"),
            boot: read("/proc/sys/kernel/random/boot_id"),
            pid,
            start: running_since(pid).unwrap_or_default(),
            pid_ns: std::fs::read_link("/proc/self/ns/pid")
                .map(|link| link.to_string_lossy().into_owned())
                .unwrap_or_default(),
        }
    }

    /// Whether `other` ran on this host, in this boot and pid namespace, and runs no more.
    ///
    /// False when that cannot be proved.
    pub(crate) fn proves_dead(&self, other: &Self) -> bool {
        self.sees(other) && running_since(other.pid) != Some(other.start)
    }

    /// Whether `other` runs on this host, in this boot and pid namespace.
    ///
    /// False when that cannot be proved.
    pub(crate) fn proves_alive(&self, other: &Self) -> bool {
        self.sees(other) && running_since(other.pid) == Some(other.start)
    }

    fn sees(&self, other: &Self) -> bool {
        let same = |a: &str, b: &str| !a.is_empty() && a == b;
        same(&self.boot, &other.boot)
            && same(&self.pid_ns, &other.pid_ns)
            && same(&self.name, &other.name)
            && self.machine == other.machine
    }
}

/// When the process started, in clock ticks after the boot; `None` when there is none, or only
/// what its parent has not collected yet (`/proc/<pid>/stat`, fields 3 and 22 of `proc(5)`).
fn running_since(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_is_gone_is_proved_dead() {
        let here = Host::current();
        assert!(here.start > 0 && !here.boot.is_empty());
        assert!(!here.proves_dead(&here) && here.proves_alive(&here));
        let reused = Host {
            start: here.start + 1,
            ..here.clone()
        };
        assert!(here.proves_dead(&reused));
        let gone = Host {
            pid: u32::MAX,
            ..here.clone()
        };
        assert!(here.proves_dead(&gone));
        for elsewhere in [
            Host {
                boot: "other".into(),
                ..gone.clone()
            },
            Host {
                pid_ns: "pid:[1]".into(),
                ..gone.clone()
            },
            Host {
                name: "other".into(),
                ..gone.clone()
            },
            Host {
                machine: "other".into(),
                ..gone.clone()
            },
        ] {
            assert!(!here.proves_dead(&elsewhere) && !here.proves_alive(&elsewhere));
        }
    }
}
