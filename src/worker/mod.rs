//! Transfers images that exist as `JackalImage` objects. The controller uses the worker for images from registries, the
//! agent for images of its node. The differences between the two are in a [`Role`](crate::runtime::Role).
//!
//! A `JackalImage` is to a worker what a Pod is to a kubelet. A transfer is a task outside the reconciler, identified
//! by the object's uid and a key (generation, request, image ID or tag, tag owner). A change of the key, deletion,
//! `suspend` and SIGTERM cancel the task by dropping its future, which closes its connections.
//!
//! A task first compares the digest at the source with the destination. When they are equal, it writes neither a claim
//! nor content. Otherwise it takes a claim by optimistic concurrency, renews it with the progress every 5 s, and
//! removes it at the end. A process that was suspended and wakes up checks its claim before it takes another step.
//! While the API server does not answer and another process may hold the claim, the task pauses: otherwise it could
//! restore an image that was replaced meanwhile.
//!
//! # Concurrency
//!
//! A process transfers at most `--concurrency` images from one source and eight times as many in total. At most half of
//! the total go to one destination, and at most half belong to one namespace (`concurrency`). So a slow or unavailable
//! registry delays only its own images. The number of concurrent requests to a registry is limited by its client
//! (`registry::host_limits`), not by the number of images.

mod claim;
mod concurrency;
mod context;
mod prepare;
mod reconcile;
mod record;
mod task;
mod transfer;

pub use reconcile::run;
