//! Receives files in a pod, verifies them and executes one of them.
//!
//! The program `jackal-seed` is the first thing of the operator in a cluster that has no registry. It is small enough for a
//! ConfigMap, and static, so that it runs in a container of any image. A client sends it a [`FileList`], whose digest is an
//! argument of the program, and then the files, through the port-forward of the API server.

pub mod file_list;
pub mod protocol;

pub use file_list::{FileList, ListError, ListedFile};
