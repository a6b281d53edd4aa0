//! Signals end a run as the contract says. One test in a process of its own: a signal reaches
//! every listener of a process.

use std::process::Command;

use eyrie::Cause;
use eyrie::cancel::Cancel;
use nix::sys::signal::{Signal, raise};

/// Set in the child that is to die of its second signal.
const CHILD: &str = "EYRIE_TEST_SECOND_SIGNAL";

#[test]
fn the_first_signal_asks_and_the_second_ends_at_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let cancel = Cancel::new();
        cancel.on_signals().unwrap();
        raise(Signal::SIGTERM).unwrap();
        cancel.requested().await;
        assert_eq!(cancel.error().cause(), Cause::Terminated);
        if std::env::var_os(CHILD).is_some() {
            raise(Signal::SIGINT).unwrap();
            std::future::pending::<()>().await;
        }
    });
    if std::env::var_os(CHILD).is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let status = child.env(CHILD, "1").output().unwrap().status;
        assert_eq!(status.code(), Some(130));
    }
}
