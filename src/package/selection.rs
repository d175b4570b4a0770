//! Selects the tags of images with a policy, and completes a package with them. No IO.

mod range;

use std::cmp::Ordering;

use regex::{Regex, RegexBuilder};

use self::range::{Range, version_of};
use crate::api::v1alpha1::{ImageEntry, ImagePolicy, ImageSpec, JackalPackageSpec, Selected, SourceKind, TagOrder};
use crate::fault::{Fault, Reason};
use crate::oci::Reference;

/// The most bytes of a compiled pattern.
const PATTERN_SIZE: usize = 1 << 20;
/// The number of tags that a message lists.
const NAMED: usize = 5;

/// The message for a policy with neither or both fields.
const POLICY: &str = "its policy needs one of semver and pattern; set just one";

/// An image whose tag is selected by a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyImage {
    /// The image without its tag, as the package writes it.
    pub image: String,
    /// Selects the tag.
    pub policy: ImagePolicy,
}

/// A selected tag.
struct SelectedTag<'t> {
    tag: &'t str,
    /// Why it was selected, for programs.
    reason: &'static str,
    /// Why it was selected, for people.
    message: String,
}

/// An image with a policy and its selected tag.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// The image and its policy.
    pub image: PolicyImage,
    /// Its tag, and why it was selected.
    pub selected: Selected,
}

impl PolicyImage {
    /// The image from `source` with `policy`.
    ///
    /// # Errors
    /// A stalled fault if the policy is invalid, the image has a tag or digest already, or its source is not a registry.
    pub fn of(image: &str, source: SourceKind, policy: &ImagePolicy) -> Result<Self, Fault> {
        let policy_image = Self {
            image: image.to_owned(),
            policy: policy.clone(),
        };
        if source != SourceKind::Registry {
            return Err(
                policy_image.invalid("a policy needs a registry's tags; set source: Registry, or remove policy")
            );
        }
        if has_tag_or_digest(image) {
            return Err(policy_image.invalid("its policy selects the tag; write the image without tag and digest"));
        }
        if policy.semver.is_some() == policy.pattern.is_some() {
            return Err(policy_image.invalid(POLICY));
        }
        if policy.order.is_some() && policy.pattern.is_none() {
            return Err(policy_image.invalid("order applies only to pattern; remove it"));
        }
        policy_image.repository()?;
        Ok(policy_image)
    }

    /// The repository whose tags are listed. The tag of the returned reference has no meaning.
    pub fn repository(&self) -> Result<Reference, Fault> {
        let parsed = self.image.parse();
        parsed.map_err(|error: crate::oci::ReferenceError| Fault::stalled(Reason::InvalidReference, error.to_string()))
    }

    /// Selects one of `tags`, independent of their order. It is a retryable fault if none matches: a new tag may.
    pub fn choose(&self, tags: &[String]) -> Result<Selection, Fault> {
        let tags = tags.iter().map(String::as_str).filter(|tag| !is_referrers_tag(tag));
        let selected = match (&self.policy.semver, &self.policy.pattern) {
            (Some(semver), None) => self.newest_in_range(&semver.range, tags)?,
            (None, Some(pattern)) => self.last_match(pattern, tags)?,
            _ => return Err(self.invalid(POLICY)),
        };
        Ok(Selection {
            image: self.clone(),
            selected: Selected {
                tag: selected.tag.to_owned(),
                reason: selected.reason.to_owned(),
                message: selected.message,
            },
        })
    }

    fn newest_in_range<'t>(&self, range: &str, tags: impl Iterator<Item = &'t str>) -> Result<SelectedTag<'t>, Fault> {
        let range = Range::parse(range).map_err(|error| self.invalid(&error.to_string()))?;
        let mut versions: Vec<_> = tags.filter_map(|tag| Some((version_of(tag)?, tag))).collect();
        // Of two tags for one version, 1.2.0 is preferred to 1.2, and one without `v` to one with it.
        let dots = |tag: &str| tag.matches('.').count();
        versions.sort_by(|(one, tag), (other, other_tag)| {
            let order = other.cmp_precedence(one).then(dots(other_tag).cmp(&dots(tag)));
            order.then_with(|| tag.cmp(other_tag))
        });
        // The list is sorted, the newest first.
        match versions.iter().find(|(version, _)| range.contains(version)) {
            Some((_, tag)) => Ok(SelectedTag {
                tag,
                reason: "NewestInRange",
                message: format!("the newest in {range}"),
            }),
            None => {
                let existing: Vec<&str> = versions.iter().map(|(_, tag)| *tag).collect();
                Err(self.no_match(&format!("is in {range}"), "the newest are", &existing))
            }
        }
    }

    fn last_match<'t>(&self, pattern: &str, tags: impl Iterator<Item = &'t str>) -> Result<SelectedTag<'t>, Fault> {
        let regex = compiled(pattern).map_err(|why| self.invalid(&why))?;
        let order = self.policy.order.unwrap_or_default();
        let tags: Vec<&str> = tags.collect();
        let matching = tags.iter().filter_map(|tag| Some((value(&regex, tag)?, *tag)));
        let chosen = match order {
            TagOrder::Alphabetical => matching.max(),
            TagOrder::Numerical => matching
                .filter(|(value, _)| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()))
                .max_by(|(one, tag), (other, other_tag)| numerically(one, other).then_with(|| tag.cmp(other_tag))),
        };
        if let Some((_, tag)) = chosen {
            let (reason, which) = match order {
                TagOrder::Alphabetical => ("LastAlphabetical", "the last in alphabetical order"),
                TagOrder::Numerical => ("HighestNumber", "the highest by number"),
            };
            return Ok(SelectedTag {
                tag,
                reason,
                message: format!("{which} that matches {pattern}"),
            });
        }
        let what = match order {
            TagOrder::Alphabetical => format!("matches {pattern}"),
            TagOrder::Numerical => {
                format!("matches {pattern} with a number (its first group, or all that matches, in digits)")
            }
        };
        let mut existing = tags;
        existing.sort_by(|one, other| other.cmp(one));
        Err(self.no_match(&what, "the last in alphabetical order are", &existing))
    }

    fn no_match(&self, what: &str, which: &str, existing: &[&str]) -> Fault {
        let existing = match existing {
            [] => "no tag is a candidate".to_owned(),
            some => format!("{which} {}", some[..some.len().min(NAMED)].join(", ")),
        };
        Fault::retryable(
            Reason::SourceNotFound,
            format!(
                "no tag of {} {what}: {existing}; correct the policy, or push such a tag",
                self.image
            ),
        )
    }

    fn invalid(&self, why: &str) -> Fault {
        Fault::stalled(Reason::InvalidSpec, format!("image `{}`: {why}", self.image))
    }
}

fn compiled(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern).size_limit(PATTERN_SIZE).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => format!("the pattern `{pattern}` is too large; make it simpler"),
        // The last of several lines is the reason.
        other => {
            let text = other.to_string();
            let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("the pattern `{pattern}` is not a regular expression ({why})")
        }
    })
}

/// The part of a tag that is compared: the first group, or the whole match.
fn value<'t>(regex: &Regex, tag: &'t str) -> Option<&'t str> {
    let found = regex.captures(tag)?;
    let value = found.get(1).or_else(|| found.get(0))?;
    Some(value.as_str())
}

/// Compares digits of any length as numbers.
fn numerically(one: &str, other: &str) -> Ordering {
    let (one, other) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

/// Whether a tag is derived from a digest, as tags of referrers are.
fn is_referrers_tag(tag: &str) -> bool {
    let hash = tag.strip_prefix("sha256-").or_else(|| tag.strip_prefix("sha512-"));
    hash.is_some_and(|hash| hash.len() >= 64 && hash.bytes().take(64).all(|byte| byte.is_ascii_hexdigit()))
}

/// The distinct images of `spec` with a policy. All faults are stalled.
pub fn policy_images(spec: &JackalPackageSpec) -> Result<Vec<PolicyImage>, Fault> {
    let mut all: Vec<PolicyImage> = Vec::new();
    for image in image_objects(spec) {
        let Some(policy) = &image.policy else { continue };
        let policy_image = PolicyImage::of(&image.image, image.source, policy)?;
        if !all.contains(&policy_image) {
            all.push(policy_image);
        }
    }
    if let Some(from) = &spec.version_from
        && !all.iter().any(|known| known.image == from.image)
    {
        return Err(Fault::stalled(
            Reason::InvalidSpec,
            format!(
                "versionFrom names `{}`, but no image of the package has this name and a policy",
                from.image
            ),
        ));
    }
    Ok(all)
}

/// The image entries of `spec` that are objects.
fn image_objects(spec: &JackalPackageSpec) -> impl Iterator<Item = &ImageSpec> {
    let entries = spec.components.iter().flat_map(|component| &component.images);
    entries.filter_map(|entry| match entry {
        ImageEntry::Spec(spec) => Some(spec),
        ImageEntry::Name(_) | ImageEntry::Invalid(_) => None,
    })
}

fn has_tag_or_digest(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.contains([':', '@'])
}

/// Whether `spec` needs selected tags to be complete.
pub fn has_policies(spec: &JackalPackageSpec) -> bool {
    spec.version_from.is_some() || image_objects(spec).any(|image| image.policy.is_some())
}

/// `spec` with the tags of `selections`, and with its version if that is a selected tag. `None` if a selection is missing.
pub fn with_selected_tags(spec: &JackalPackageSpec, selections: &[Selection]) -> Option<JackalPackageSpec> {
    let mut spec = spec.clone();
    if let Some(from) = spec.version_from.take() {
        let selection = selections.iter().find(|selection| selection.image.image == from.image);
        spec.version = Some(selection?.selected.tag.clone());
    }
    for entry in spec.components.iter_mut().flat_map(|component| &mut component.images) {
        let ImageEntry::Spec(image) = entry else { continue };
        let Some(policy) = image.policy.take() else { continue };
        let is = |selection: &&Selection| selection.image.image == image.image && selection.image.policy == policy;
        image.image = selections.iter().find(is)?.name();
    }
    Some(spec)
}

impl Selection {
    /// The image with its tag.
    fn name(&self) -> String {
        format!("{}:{}", self.image.image, self.selected.tag)
    }

    /// Whether `image`, of a spec with selected tags, is this one.
    pub fn is_of(&self, image: &ImageSpec) -> bool {
        image.image == self.name()
    }
}

#[cfg(test)]
mod tests;
