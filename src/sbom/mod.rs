//! SBOMs of images: made by syft and stored as referrers of the images' manifests.
//!
//! [`Format`] is one of the three formats that one run of syft writes. [`normalise`] removes from a document what
//! differs between two runs. [`Sboms`] is the SBOMs that the referrers of a manifest list. These three are free of IO.
//! [`Syft`] runs the program with limits and in a sandbox. [`generate()`] performs all steps: check, run, upload, attach.
//!
//! # The syft process
//!
//! syft is the only program that the operator starts for content of images. Its memory is limited by RLIMIT_DATA, which
//! `prlimit` sets from outside (the crate has no `unsafe`, so no code of ours runs between fork and exec). Go reports
//! this limit as `out of memory` instead of being killed. A limit on the address space does not work, because Go
//! reserves much more than it uses. `oom_score_adj` makes the kernel kill syft and not the operator when the pod runs
//! out of memory. syft has its own process group, which is killed after every run.
//!
//! syft's image library stereoscope unpacks every layer into `TMPDIR`, whether it reads an image from a registry, a
//! layout or an archive. So a run needs the disk space of the unpacked image: a private directory that is measured
//! during the run and removed afterwards. A lock on it shows the next start which directories are unused. The operator
//! reads the image and writes it into that directory (`content`), which needs disk space for the compressed layers too.
//! So syft needs neither network nor credentials, and no proxy, authority or token of a registry is passed to it.
//!
//! A thread that has given up its own rights starts syft (`isolation`). Landlock and seccomp apply to a thread and the
//! processes that it starts, so neither an intermediate program nor `unsafe` is needed, and the rest of the process
//! keeps its rights. The crates are `landlock` (by the authors of the kernel feature), `seccompiler` (of Firecracker)
//! and `libc` (numbers of system calls).
//!
//! # Finding and trusting SBOMs
//!
//! An existing SBOM is found by the annotation `dev.jackal.sbom.content` of its referrer, which a list of referrers
//! repeats: one request gives the digest and length of the blob, and neither the referrers' manifests nor the blobs are
//! read. If a list does not repeat it, each referrer is read once. `sboms.tar` needs the blobs when it is made; their
//! digests show when it need not be made.
//!
//! Such a referrer may have been pushed by anyone with write access. So only SBOMs that this process made
//! ([`SbomCache`]), or whose documents are those of a proven `sboms.tar`, are accepted: the identities of a tar are the
//! digests of its documents. After a restart the recorded artifacts fill the cache.
//!
//! A failed run is repeated after ten minutes: most failures repeat, and a run is expensive.

mod cache;
mod content;
mod document;
mod format;
mod generate;
mod isolation;
mod private_directory;
mod referrer;
mod syft;

pub use cache::SbomCache;
pub use document::{Sbom, SbomError, normalise};
pub use format::Format;
pub use generate::{CONTENT_LIMIT, ExistingSboms, find, find_claimed, generate, unable};
pub use isolation::Isolation;
pub use referrer::{Sboms, is_catalogued, referrer};
pub use syft::{Limits, Syft};
