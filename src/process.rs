//! Child processes that are ended together with all their descendants.

use rustix::process::{Pid, Signal};

/// The process group of a child (`Command::process_group(0)`), which is killed when this value is dropped.
pub struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    /// The group whose leader is the child with the process ID `id`; empty for a child that has exited.
    pub fn with_leader(id: Option<u32>) -> Self {
        Self(id.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    /// The process ID of the child.
    pub fn leader(&self) -> Option<Pid> {
        self.0
    }

    /// Does not kill the remaining processes of the group.
    pub fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}
