//! Which tag an image has that follows a policy, and the package that comes of it. No IO.

mod range;

use std::cmp::Ordering;

use regex::{Regex, RegexBuilder};

use self::range::{Range, version_of};
use crate::api::v1alpha1::{ImageEntry, ImagePolicy, ImageSpec, JackalPackageSpec, Selected, SourceKind, TagOrder};
use crate::fault::{Fault, Reason};
use crate::oci::Reference;

/// The size in bytes that a pattern may take when it is compiled.
const PATTERN_SIZE: usize = 1 << 20;
/// The tags that a message names.
const NAMED: usize = 5;

/// What is wrong with a policy that says nothing, or two things.
const POLICY: &str = "its policy needs one of semver and pattern; set just one";

/// An image whose tag a policy chooses.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyImage {
    /// The image without its tag, as the package writes it.
    pub image: String,
    /// How the tag is chosen.
    pub policy: ImagePolicy,
}

/// A tag, and the reason and message that say why it is that one.
type Choice<'t> = (&'t str, &'static str, String);

/// A followed image and the tag that it has now.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Which image.
    pub image: PolicyImage,
    /// Its tag, and why it is that one.
    pub selected: Selected,
}

impl PolicyImage {
    /// The image of `source` that follows `policy`.
    ///
    /// # Errors
    /// A stalled fault where there is nothing to choose: it has a tag or digest already, or comes from no registry.
    pub fn of(image: &str, source: SourceKind, policy: &ImagePolicy) -> Result<Self, Fault> {
        let followed = Self {
            image: image.to_owned(),
            policy: policy.clone(),
        };
        if source != SourceKind::Registry {
            return Err(
                followed.invalid("only a registry's tags can be followed; set source: Registry, or remove policy")
            );
        }
        if has_tag_or_digest(image) {
            return Err(followed.invalid("its policy chooses the tag; write the image without tag and digest"));
        }
        if policy.semver.is_some() == policy.pattern.is_some() {
            return Err(followed.invalid(POLICY));
        }
        if policy.order.is_some() && policy.pattern.is_none() {
            return Err(followed.invalid("order is for pattern, since versions have an order of their own; remove it"));
        }
        followed.repository()?;
        Ok(followed)
    }

    /// The repository whose tags are looked at; its tag says nothing.
    pub fn repository(&self) -> Result<Reference, Fault> {
        let parsed = self.image.parse();
        parsed.map_err(|error: crate::oci::ReferenceError| Fault::stalled(Reason::InvalidReference, error.to_string()))
    }

    /// Chooses among `tags`, in whatever order they come. That none fits may end by a new tag.
    pub fn choose(&self, tags: &[String]) -> Result<Selection, Fault> {
        let tags = tags.iter().map(String::as_str).filter(|tag| !is_referrers(tag));
        let (chosen, reason, message) = match (&self.policy.semver, &self.policy.pattern) {
            (Some(semver), None) => self.newest(&semver.range, tags)?,
            (None, Some(pattern)) => self.last(pattern, tags)?,
            _ => return Err(self.invalid(POLICY)),
        };
        Ok(Selection {
            image: self.clone(),
            selected: Selected {
                tag: chosen.to_owned(),
                reason: reason.to_owned(),
                message,
            },
        })
    }

    fn newest<'t>(&self, range: &str, tags: impl Iterator<Item = &'t str>) -> Result<Choice<'t>, Fault> {
        let range = Range::parse(range).map_err(|error| self.invalid(&error.to_string()))?;
        let mut versions: Vec<_> = tags.filter_map(|tag| Some((version_of(tag)?, tag))).collect();
        // Of two tags for one version the one that says all of it, 1.2.0 rather than 1.2, and without a v.
        let dots = |tag: &str| tag.matches('.').count();
        versions.sort_by(|(one, tag), (other, other_tag)| {
            let order = other.cmp_precedence(one).then(dots(other_tag).cmp(&dots(tag)));
            order.then_with(|| tag.cmp(other_tag))
        });
        match best(&versions, &range) {
            Some(tag) => Ok((tag, "NewestInRange", format!("the newest in {range}"))),
            None => {
                let there: Vec<&str> = versions.iter().map(|(_, tag)| *tag).collect();
                Err(self.none(&format!("is in {range}"), "the newest there are", &there))
            }
        }
    }

    fn last<'t>(&self, pattern: &str, tags: impl Iterator<Item = &'t str>) -> Result<Choice<'t>, Fault> {
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
                TagOrder::Alphabetical => ("LastAlphabetical", "the last in the alphabet"),
                TagOrder::Numerical => ("HighestNumber", "the highest by number"),
            };
            return Ok((tag, reason, format!("{which} that matches {pattern}")));
        }
        let what = match order {
            TagOrder::Alphabetical => format!("matches {pattern}"),
            TagOrder::Numerical => {
                format!("matches {pattern} with a number (its first group, or all that matches, in digits)")
            }
        };
        let mut there = tags;
        there.sort_by(|one, other| other.cmp(one));
        Err(self.none(&what, "the last in the alphabet are", &there))
    }

    fn none(&self, what: &str, which: &str, there: &[&str]) -> Fault {
        let there = match there {
            [] => "there are none that could be".to_owned(),
            some => format!("{which} {}", some[..some.len().min(NAMED)].join(", ")),
        };
        Fault::retryable(
            Reason::SourceNotFound,
            format!(
                "no tag of {} {what}: {there}; correct the policy, or push such a tag",
                self.image
            ),
        )
    }

    fn invalid(&self, why: &str) -> Fault {
        Fault::stalled(Reason::InvalidSpec, format!("image `{}`: {why}", self.image))
    }
}

/// The first that is in `range`. The list is sorted, the newest first.
fn best<'t>(versions: &[(semver::Version, &'t str)], range: &Range) -> Option<&'t str> {
    let within = versions.iter().find(|(version, _)| range.contains(version));
    within.map(|(_, tag)| *tag)
}

fn compiled(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern).size_limit(PATTERN_SIZE).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => format!("the pattern `{pattern}` is too large; make it simpler"),
        // The last of several lines says what is wrong.
        other => {
            let text = other.to_string();
            let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("the pattern `{pattern}` is no regular expression ({why})")
        }
    })
}

/// What of a tag is compared: the first group, or all that matches.
fn value<'t>(regex: &Regex, tag: &'t str) -> Option<&'t str> {
    let found = regex.captures(tag)?;
    let value = found.get(1).or_else(|| found.get(0))?;
    Some(value.as_str())
}

/// Compares digits of any length by the number that they are.
fn numerically(one: &str, other: &str) -> Ordering {
    let (one, other) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

/// Whether a tag is made of a digest, for what refers to it.
fn is_referrers(tag: &str) -> bool {
    let hash = tag.strip_prefix("sha256-").or_else(|| tag.strip_prefix("sha512-"));
    hash.is_some_and(|hash| hash.len() >= 64 && hash.bytes().take(64).all(|byte| byte.is_ascii_hexdigit()))
}

/// The images of `spec` that follow a policy, each once. Every fault is stalled.
pub fn policy_images(spec: &JackalPackageSpec) -> Result<Vec<PolicyImage>, Fault> {
    let mut all: Vec<PolicyImage> = Vec::new();
    for image in fields_of_images(spec) {
        let Some(policy) = &image.policy else { continue };
        let followed = PolicyImage::of(&image.image, image.source, policy)?;
        if !all.contains(&followed) {
            all.push(followed);
        }
    }
    if let Some(from) = &spec.version_from
        && !all.iter().any(|followed| followed.image == from.image)
    {
        return Err(Fault::stalled(
            Reason::InvalidSpec,
            format!(
                "versionFrom names `{}`, and no image of the package is written so and has a policy",
                from.image
            ),
        ));
    }
    Ok(all)
}

/// The images of `spec` of which more is said than the name.
fn fields_of_images(spec: &JackalPackageSpec) -> impl Iterator<Item = &ImageSpec> {
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

/// Whether `spec` is complete only with tags that are chosen.
pub fn has_policies(spec: &JackalPackageSpec) -> bool {
    spec.version_from.is_some() || fields_of_images(spec).any(|image| image.policy.is_some())
}

/// `spec` with the tags of `selections`, and its version where that is one of them: complete as though somebody had
/// written them there. None where one is missing.
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

    /// Whether an image of the effective spec is this one.
    pub fn made(&self, image: &ImageSpec) -> bool {
        image.image == self.name()
    }
}

#[cfg(test)]
mod tests;
