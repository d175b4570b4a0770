//! Serves the connections of clients.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::file_list::MAX_LIST;
use crate::protocol::{Answer, Command, MAX_LINE, Refusal, greeting};
use crate::store::{Refused, Store};

/// Connections at the same time. Another one ends the oldest, which a tunnel that broke may have left behind.
const MAX_CONNECTIONS: usize = 8;
/// Bytes that a connection reads at once.
const BUFFER: usize = 64 * 1024;
/// The stack of the thread of a connection.
const STACK: usize = 128 * 1024;
/// How long to wait when a connection cannot be accepted.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);

/// What the connections share.
struct Shared {
    store: Mutex<Store>,
    /// Held while a file is received.
    receiving: Mutex<()>,
    /// The connection that receives a file. The next that wants to ends it: it may be what a broken tunnel left behind.
    receiver: Mutex<Option<Open>>,
    /// How long a client may send or take nothing.
    idle: Duration,
    complete: SyncSender<()>,
}

/// A connection that others may end.
struct Open {
    id: u64,
    stream: TcpStream,
}

impl Open {
    fn end(&self) {
        // It has ended already if this fails.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Receives files until all are there. Does not return before; ends with the process.
///
/// `idle` is how long a client may send or take nothing.
///
/// # Errors
/// When no thread can be started.
pub fn receive(listener: TcpListener, store: Store, idle: Duration) -> io::Result<()> {
    if store.is_complete() {
        return Ok(());
    }
    // The thread of the last file does not wait.
    let (complete, completed) = sync_channel(MAX_CONNECTIONS);
    thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || accept(&listener, store, idle, complete))?;
    completed.recv().map_err(io::Error::other)
}

/// Answers that all files are there, for as long as the process runs.
pub fn answer(listener: &TcpListener, store: Store, idle: Duration) {
    let (complete, _completed) = sync_channel(MAX_CONNECTIONS);
    accept(listener, store, idle, complete);
}

fn accept(listener: &TcpListener, store: Store, idle: Duration, complete: SyncSender<()>) {
    let shared = Arc::new(Shared {
        store: Mutex::new(store),
        receiving: Mutex::new(()),
        receiver: Mutex::new(None),
        idle,
        complete,
    });
    let open: Arc<Mutex<VecDeque<Open>>> = Arc::default();
    let next = AtomicU64::new(0);
    loop {
        let id = next.fetch_add(1, Ordering::Relaxed);
        let started = listener.accept().and_then(|(stream, _)| {
            let other = Open {
                id,
                stream: stream.try_clone()?,
            };
            let mut all = locked(&open);
            if all.len() >= MAX_CONNECTIONS
                && let Some(oldest) = all.pop_front()
            {
                oldest.end();
            }
            all.push_back(other);
            let (shared, open) = (Arc::clone(&shared), Arc::clone(&open));
            let connection = move || {
                if let Err(error) = Connection::new(&shared, &stream, id).and_then(Connection::run) {
                    eprintln!("jackal-seed: a connection ended: {error}");
                }
                locked(&open).retain(|other| other.id != id);
                let _ = stream.shutdown(Shutdown::Both);
            };
            thread::Builder::new().stack_size(STACK).spawn(connection)?;
            Ok(())
        });
        if let Err(error) = started {
            eprintln!("jackal-seed: cannot accept a connection: {error}");
            locked(&open).retain(|other| other.id != id);
            thread::sleep(ACCEPT_DELAY);
        }
    }
}

/// A thread does not panic while it holds a lock, so the value is as it should be.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection of a client.
struct Connection<'a> {
    shared: &'a Shared,
    stream: &'a TcpStream,
    from: BufReader<&'a TcpStream>,
    id: u64,
}

/// Why a command was not done.
enum Failure {
    Refused(Refused),
    Connection(io::Error),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Connection(error)
    }
}

impl<'a> Connection<'a> {
    fn new(shared: &'a Shared, stream: &'a TcpStream, id: u64) -> io::Result<Self> {
        stream.set_read_timeout(Some(shared.idle))?;
        stream.set_write_timeout(Some(shared.idle))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            shared,
            stream,
            from: BufReader::with_capacity(BUFFER, stream),
            id,
        })
    }

    /// Serves commands until the client ends the connection, or one is refused.
    fn run(mut self) -> io::Result<()> {
        let greeting = greeting(locked(&self.shared.store).digest());
        self.write(&format!("{greeting}\n"))?;
        while let Some(line) = self.read_line()? {
            match self.execute(&line) {
                Ok(()) => {}
                Err(Failure::Connection(error)) => return Err(error),
                Err(Failure::Refused((refusal, explanation))) => {
                    eprintln!("jackal-seed: {explanation}");
                    self.write(&format!("{}\n", Answer::Refused(refusal, explanation)))?;
                    return self.linger();
                }
            }
        }
        Ok(())
    }

    fn execute(&mut self, line: &str) -> Result<(), Failure> {
        let command = Command::parse(line).ok_or_else(|| (Refusal::Command, "unknown command".to_owned()))?;
        match command {
            Command::List { length } => self.list(length)?,
            Command::Files => return self.files(),
            Command::File { index, offset } => {
                self.file(index, offset)?;
                // The process may end as soon as the last file is announced, so the answer goes first.
                self.write(&format!("{}\n", Answer::Done))?;
                return self.announce();
            }
        }
        self.write(&format!("{}\n", Answer::Done))?;
        self.announce()
    }

    /// Tells the main thread when all files are there. A list may have none, or those that are there already.
    fn announce(&self) -> Result<(), Failure> {
        if locked(&self.shared.store).is_complete() {
            // It is full if it was told already.
            let _ = self.shared.complete.try_send(());
        }
        Ok(())
    }

    fn list(&mut self, length: u64) -> Result<(), Failure> {
        if length > MAX_LIST as u64 {
            return Err((Refusal::List, format!("a list has at most {MAX_LIST} bytes")).into());
        }
        let mut text = Vec::new();
        self.from.by_ref().take(length).read_to_end(&mut text)?;
        if text.len() as u64 != length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(locked(&self.shared.store).set_list(&text)?)
    }

    fn files(&mut self) -> Result<(), Failure> {
        let presence = locked(&self.shared.store).presence();
        let presence = presence.map_err(|error| (Refusal::Storage, error.to_string()))?;
        let presence = presence.ok_or_else(|| (Refusal::NoList, "there is no list yet".to_owned()));
        let presence = match presence {
            Ok(presence) => presence,
            // The only refusal that does not end the connection: the list follows.
            Err((refusal, explanation)) => {
                return Ok(self.write(&format!("{}\n", Answer::Refused(refusal, explanation)))?);
            }
        };
        let mut text = format!("{}\n", Answer::Files(presence.len() as u64));
        for presence in presence {
            text.push_str(&format!("{presence}\n"));
        }
        Ok(self.write(&text)?)
    }

    fn file(&mut self, index: u64, offset: u64) -> Result<(), Failure> {
        let _receiving = self.take_turn()?;
        let (mut partial, mut missing) = locked(&self.shared.store).receive(index, offset)?;
        while missing > 0 {
            let bytes = self.from.fill_buf()?;
            if bytes.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let length = usize::try_from(missing).map_or(bytes.len(), |missing| missing.min(bytes.len()));
            partial.write(bytes.get(..length).unwrap_or_default())?;
            self.from.consume(length);
            missing -= length as u64;
        }
        let verified = partial.verify()?;
        Ok(locked(&self.shared.store).finish(verified)?)
    }

    /// Ends the connection that receives a file now, and waits until it has.
    fn take_turn(&self) -> Result<MutexGuard<'a, ()>, Failure> {
        let own = Open {
            id: self.id,
            stream: self.stream.try_clone()?,
        };
        let previous = locked(&self.shared.receiver).replace(own);
        if let Some(previous) = previous.filter(|previous| previous.id != self.id) {
            previous.end();
        }
        Ok(locked(&self.shared.receiving))
    }

    /// The next line without its end; `None` where the client ended the connection.
    fn read_line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        self.from
            .by_ref()
            .take(MAX_LINE as u64 + 1)
            .read_until(b'\n', &mut line)?;
        match line.pop() {
            None => Ok(None),
            Some(b'\n') => String::from_utf8(line).map(Some).map_err(io::Error::other),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        let mut stream = self.stream;
        stream.write_all(text.as_bytes())
    }

    /// Lets the client read a refusal: ending a connection with bytes that were not read would discard it.
    fn linger(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let most = 64 << 20;
        io::copy(&mut self.from.by_ref().take(most), &mut io::sink())?;
        Ok(())
    }
}
