//! Which process has an engine push images.

/// Which process has an engine push images. An engine has one agent, so an agent that finds a name of an agent that is not
/// its own knows that the process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pusher {
    /// The agent of the node.
    Agent,
    /// A command, of which several may run.
    Command,
}

impl Pusher {
    /// Its name in an image's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Command => "command",
        }
    }
}
