//! What an image's spec asks a source for.

use crate::api::v1alpha1::JackalImageSpec;
use crate::fault::{Fault, Reason};
use crate::oci::{Platform, PlatformError, Reference, ReferenceError};

/// The image and the platforms that `spec` asks for. Every fault is stalled: nobody can read it before it changes.
pub fn wish(spec: &JackalImageSpec) -> Result<(Reference, Vec<Platform>), Fault> {
    let reference = spec
        .image
        .parse()
        .map_err(|error: ReferenceError| Fault::stalled(Reason::InvalidReference, error.to_string()))?;
    let platforms = spec
        .platforms
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()
        .map_err(|error: PlatformError| Fault::stalled(Reason::InvalidSpec, error.to_string()))?;
    Ok((reference, platforms))
}
