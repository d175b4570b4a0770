//! The custom resources of the group `jackal.dev`.
//!
//! # Design of the schema
//!
//! - Lists of named items are maps in the CRDs, so that two appliers may each own components of one package. The API
//!   server rejects a repeated name and says which one; `build` does the same.
//! - `build` validates a file against the schema of the CRD (`schema`), with paths, lines and suggestions that an API
//!   server does not give. The CEL rules are evaluated by `kube-cel`, so no rule is written twice.
//! - An image is a string or an object. A structural schema can describe the object's fields but not the type, so the
//!   API server documents them, checks each against its own schema, and CEL rules do not apply to them. An invalid
//!   entry that it accepts is kept (`ImageEntry::Invalid`), so that the object is still reconciled and deleted, and its
//!   condition says what is wrong.
//! - A field is `nullable` if users may write it and it has no default. The API server drops a `null` when it creates
//!   an object, but `kubectl apply --server-side` is rejected for it.
//! - `status` has the default `observedGeneration: -1`, as in Flux: kstatus treats an object without a status, which
//!   every object is between `apply` and the first reconciliation, as ready. `status.observedGeneration` is that of the
//!   Ready condition and is never ahead of it.

pub mod schema;
pub mod v1alpha1;
