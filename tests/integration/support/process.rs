//! Servers that are killed with the test, also when the test process is killed.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{OnceLock, mpsc};

/// A running server; dropping it kills it.
pub struct Server {
    child: Child,
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

impl Server {
    /// Starts `program` with `arguments`, its output going to `log`.
    pub fn start(program: &Path, arguments: &[&str], log: &Path) -> Self {
        Self::start_with(program, arguments, &[("OTEL_TRACES_EXPORTER", "none")], log)
    }

    /// Starts `program` with additional variables.
    pub fn start_with(program: &Path, arguments: &[&str], environment: &[(&str, &str)], log: &Path) -> Self {
        let log = std::fs::File::create(log).expect("a log file");
        // The kernel kills the server with the thread that started it, so that thread lives as long as the process.
        static STARTER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
        let starter = STARTER.get_or_init(|| {
            let (sender, orders) = mpsc::channel::<Order>();
            std::thread::spawn(move || {
                for (mut command, answer) in orders {
                    let _ = answer.send(command.spawn());
                }
            });
            sender
        });
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        let (answer, started) = mpsc::channel();
        starter.send((command, answer)).expect("the starter runs");
        let child = started.recv().expect("the starter answers");
        Self {
            child: child.expect("setpriv starts; it comes with util-linux"),
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.ended().is_some()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("its state")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        run("kill", &[&format!("-{name}"), &self.id().to_string()]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end and returns its output; panics when it fails or takes longer than a minute.
pub fn run(program: impl AsRef<Path>, arguments: &[&str]) -> String {
    let output = output(program.as_ref(), arguments);
    assert!(
        output.status.success(),
        "{} {arguments:?}: {}",
        program.as_ref().display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a program to its end, for at most a minute.
pub fn output(program: &Path, arguments: &[&str]) -> Output {
    Command::new("timeout")
        .args(["-k", "1", "60"])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("timeout starts; it comes with coreutils")
}
