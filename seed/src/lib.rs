//! Receives files in a pod, verifies them and executes one of them.
//!
//! The program `jackal-seed` is the first thing of the operator in a cluster that has no registry. It is small enough for a
//! ConfigMap, and static, so that it runs in a container of any image. A client sends it a [`FileList`], whose digest is an
//! argument of the program, and then the files, through the port-forward of the API server ([`protocol`]).
//!
//! # What is trusted
//!
//! Only the arguments. Every process in the network namespace of the node can connect. It can send files, which are accepted only with
//! the digests of the list, and it can disturb the connection of another client, which then continues. It cannot read anything.
//!
//! # Interruptions
//!
//! What was received of a file stays in the directory, so any client continues there. The digest is computed from the disk when
//! all bytes are there, and of all files when the program starts. When all files are right, the program executes its command, in the same
//! process. A child process answers clients from then on, so that one whose connection broke with the last byte learns that
//! its files arrived.
//!
//! # Limits
//!
//! The list limits names, sizes and their number, and the files must fit on the disk. There are at most eight connections; another one
//! ends the oldest. One connection receives a file at a time; another one that begins to send a file ends it. Each
//! connection has a buffer of 64 KiB and ends after a minute without a byte.

pub mod arguments;
pub mod file_list;
pub mod protocol;
mod server;
mod store;

pub use file_list::{FileList, ListError, ListedFile};
pub use server::{answer, receive};
pub use store::Store;
