//! What a package consists of, and the artifact that contains it.
//!
//! [`Plan`] lists the images of a package and their locations. [`Definition`] is the document that the commands of
//! Jackal and Zarf read. [`component`] lays out what a component holds beside images, and [`Archive`] is the result as
//! a tar. [`Artifact`] is everything that the registry has to hold, computed without IO. [`publish`] uploads it.
//!
//! # Artifact
//!
//! The definition is `jackal.yaml` or `zarf.yaml`, depending on `format`: each tool requires its own name, and both
//! files would have to be in each other's checksums. It is the artifact's first layer, before the others in the order
//! of their digests: Flux's OCIRepository takes the first layer of a media type, and all layers have the same.
//!
//! Processes that publish architectures of one version at the same time read the index again a moment after they wrote
//! it (ten times the duration of the write, 0.1 to 5 s) and add their entry again if another write removed it. A
//! registry has no conditional writes, and checks immediately before and after the write were not enough: three
//! simultaneous builds lost an entry in 25 of 60 runs, with the delay in none of 40.
//!
//! # Reusing tars
//!
//! A tar whose identities equal those of a stored tar is not made again, so files and charts are read only when
//! something in their component changed. The identities are in an annotation that anyone with push access can write, so
//! [`ReusableTars`] requires a proof: the object's status records the artifact, or, for a signed package, the package's
//! key has signed identities, digest and length of the tar together. The proof is stored with the layer, so it is valid
//! under every tag and digest and costs no request. The artifact's own signature is not used as the proof: the same key
//! signs images, and an image made by someone else could carry the annotation. A tar without a proof is made and
//! compared without sending anything, and sent only if it differs.
//!
//! # Verification and signing
//!
//! `verification` reads signatures from a registry or layout; [`signing`](crate::signing) judges them.
//! [`VerifiedSource`] wraps an image source, so that requirements are checked when an image is *resolved*: before a
//! claim, before a transfer, on dry runs too, and equally by the controller and `build`. Results are cached by
//! repository, digest and requirements ([`VerificationCache`], bounded). A cached result stays valid, because the time
//! of a signature is proved by data that belongs to the signature. The check is repeated for the digest that a package
//! is about to contain.
//!
//! `signature` makes the signature first, whose digest is then known, and asks the registry whether it exists. The
//! index under a package's tag is signed only if the key has signed each package that it lists, because other writers
//! may have added entries. The provenance records how the images were read, which cannot be found out later from the
//! registry. It is written before the package's first signature, so an existing signature shows that the provenance
//! exists, and a repeat needs no request for it. Statements are signed over their exact bytes, so one function signs
//! signatures, provenance and SBOMs.
//!
//! # Tag policies
//!
//! `selection` selects tags without IO. It has its own version ranges on top of the crate `semver`: one crate for
//! ranges requires commas and has no `||`, and the others follow npm's rules, which treat pre-releases differently (and
//! one reads `>=6.0, <7` as `<7.0.0`).

mod archive;
mod artifact;
mod assembly;
pub mod component;
mod definition;
mod differential;
mod existing_index;
mod names;
mod packed;
mod packed_definition;
mod plan;
mod provenance;
mod publish;
mod recipe;
mod request;
mod requirement;
mod sboms;
mod selection;
mod signature;
mod verification;
mod yaml;

pub(crate) use archive::tar_header;
pub use archive::{Archive, Entry, EntrySource, ReusableTars, StoredTar};
pub use artifact::{Artifact, ArtifactContents, ArtifactImage, Mount, SignDefinition};
pub(crate) use artifact::{BASE_NAME, LAYOUT_BLOBS, LAYOUT_INDEX, LAYOUT_MARKER, REF_NAME, TITLE};
pub use definition::Definition;
pub use names::NameOwners;
pub use packed::PackedImage;
pub use packed_definition::{CHECKSUMS, PackedDefinition};
pub use plan::{Plan, PlannedImage, check_images, package_reference};
pub use provenance::Material;
pub use publish::{
    PackageContents, PublishedPackage, TransferredImage, package_index, publish, publish_manifest, published_index,
};
pub use recipe::{BuildHost, BuiltPackage, Recipe, SbomProgress, build_package};
pub use request::ImageRequest;
pub use requirement::{EntryReader, requirements};
pub use sboms::PackageSboms;
pub(crate) use sboms::{SBOMS, sbom_file};
pub use selection::{PolicyImage, Selection, has_policies, policy_images, with_selected_tags};
pub use signature::{SignedPackage, attest, sign};
pub use verification::{VerificationCache, VerifiedSource, applicable, verify};
pub use yaml::yaml;

/// The repository of a package's artifact: its name, below `prefix` (may be empty).
pub fn repository(prefix: &str, name: &str) -> String {
    match prefix.trim_matches('/') {
        "" => name.to_owned(),
        prefix => format!("{prefix}/{name}"),
    }
}
