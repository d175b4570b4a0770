//! Child processes that are ended together with all their descendants.

use rustix::process::{Pid, Signal};

/// The process group of a child (`Command::process_group(0)`), which is killed with this value.
pub struct Group(Option<Pid>);

impl Group {
    /// The group that the child with the process id `id` leads; none for a child that was waited for.
    pub fn of(id: Option<u32>) -> Self {
        Self(id.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    /// The child.
    pub fn leader(&self) -> Option<Pid> {
        self.0
    }

    /// Lets what is left of the group run on.
    pub fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}
