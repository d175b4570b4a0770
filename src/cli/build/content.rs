//! One object of a file: its images are copied and, for a package, its artifact is built.

use super::report::Named;
use super::{Build, BuildContext, Report, Target, prefix};
use crate::api::v1alpha1::JackalPackageSpec;
use crate::cli::package_file::{FileObjects, Kind, Object};
use crate::cli::progress::{Display, bytes};
use crate::cli::registry_clients::RegistryClients;
use crate::package::component::ComponentContent;
use crate::package::{
    Definition, NameOwners, PackageParts, Plan, ReusableTars, TransferredImage, assemble, component, repository,
};
use crate::signing::SigningKey;

impl Build {
    /// Builds or checks `object`, whose file has earlier objects with `names`. The result so far is in `report`, even after
    /// an error.
    pub(super) async fn object(
        &self,
        object: &Object,
        given: &FileObjects,
        (target, names): (&Target, &mut NameOwners),
        display: &Display,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let access = RegistryClients::new(&self.authorities, &self.limits, self.idle(object)).await?;
        let access = &self.trusting(access, &object.spec, given, target, display)?;
        let spec = &self.followed(&object.spec, given, target, access).await?;
        report.version = spec.version.clone();
        let address = spec.registry.address.clone().unwrap_or_else(|| target.address());
        let prefix = prefix(target, spec);
        let mut plan = match object.kind {
            Kind::Package => Plan::package_below(&object.name, spec, &address, &prefix)?,
            Kind::Image => Plan::below(spec, &address, &prefix)?,
        };
        if !object.plain_tag {
            for image in &mut plan.images {
                image.plain_tag = false;
                image.location.tags.truncate(1);
            }
        }
        let owner = object.shown();
        if object.kind == Kind::Package {
            let repository = repository(&prefix, &object.name);
            names.add_artifact(&owner, &repository, spec);
            names.check_artifact(&owner, &repository, spec)?;
        }
        names.add_images(&owner, &mut plan, spec.compression)?;
        report.planned = plan.images.len();
        let definition = match object.kind {
            Kind::Package => Some(Definition::of(&object.name, spec, &plan)?),
            Kind::Image => None,
        };
        if self.check {
            return self.check_all(&plan, spec, given, access, display, report).await;
        }
        let found = self.gather(&spec.components, given, target, access).await?;
        report.charts = component::pinned(spec, &found);
        report.missing_images = component::missing_images(spec, &plan, &found);
        self.say_missing(report, display);
        let key = self.signing_key(spec, given).await?;
        let works = BuildContext::open(self, &plan, target.clone(), access, given).await?;
        let forms = (spec.compression, spec.referrers);
        self.move_all(&works, forms, &plan, display, report).await;
        if !report.failures.is_empty() {
            return Ok(());
        }
        if self.dry_run {
            let to = self.to.as_deref().unwrap_or_default();
            display.say(format_args!("would move {} to {to}", bytes(report.moved_bytes)));
            return Ok(());
        }
        let Some(definition) = definition else {
            return Ok(());
        };
        let content = Content {
            definition: definition.with_contents(spec, &found),
            name: repository(&prefix, &object.name),
            address,
            spec,
            plan: &plan,
            found: &found,
            key: key.as_ref(),
        };
        self.put_together(content, &works, display, report).await
    }

    /// Builds the artifact of a package whose images exist in the destination.
    async fn put_together(
        &self,
        content: Content<'_>,
        works: &BuildContext,
        display: &Display,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let Content {
            definition,
            spec,
            plan,
            name,
            ..
        } = content;
        let mut brought = Vec::with_capacity(plan.images.len());
        for (planned, row) in plan.images.iter().zip(&mut report.images) {
            brought.push(TransferredImage {
                reference: planned.package_reference(),
                digest: row.digest.as_deref().unwrap_or_default().parse()?,
                destination: works.destination(&planned.location.repository)?,
                origin: Some(row.material(planned)?),
                documents: std::mem::take(&mut row.documents),
            });
        }
        let destination = works.destination(&name)?;
        // Without an object that records the artifact, only its signature shows who built it.
        let architecture = definition.architecture();
        let known = ReusableTars::read(&*destination, spec.version(), architecture, None, content.key).await?;
        let mut archives = component::archives(spec, content.found);
        archives.extend(self.sboms(spec, &mut brought, &known, display, report).await?);
        let url = match content.address.as_str() {
            "" => format!("{name}:{}", spec.version()),
            address => format!("oci://{address}/{name}:{}", spec.version()),
        };
        let parts = PackageParts {
            definition,
            spec,
            images: &brought,
            archives: &archives,
            charts: &report.charts,
            url: &url,
            key: content.key,
            known: &known,
        };
        let assembled = assemble(parts, &*destination, async |_| Ok(())).await?;
        let published = assembled.published;
        if let Some(signed) = &assembled.signed {
            report.changed |= signed.new;
            if let Some(foreign) = &signed.foreign {
                display.warn(format_args!(
                    "the index under the tag is not signed: it lists a package for {foreign} that the key has not signed; sign that, or verify by digest"
                ));
            }
        }
        report.changed |= published.changed;
        report.moved_bytes += published.moved_bytes;
        let digest = published.manifest.to_string();
        let reference = works.package_name(&name, spec.version());
        if let Some(left_out) = &assembled.differential {
            let saved = bytes(published.saved_bytes);
            display.say(format_args!(
                "{} images are left out, {saved}: version {} holds them",
                left_out.omitted_images, left_out.version
            ));
        }
        report.differential = assembled.differential;
        if let Some(advice) = works.copy_advice(&name, spec.version()) {
            display.say(advice);
        }
        let sent = bytes(report.moved_bytes);
        display.say(format_args!("{reference} is {digest} ({sent} sent)"));
        report.named = Some(Named { reference, digest });
        Ok(())
    }
}

/// The parts of a package's artifact.
struct Content<'a> {
    definition: Definition,
    /// Its repository.
    name: String,
    /// The prefix of names in the cluster; empty for an OCI layout without one.
    address: String,
    spec: &'a JackalPackageSpec,
    plan: &'a Plan,
    found: &'a [ComponentContent],
    key: Option<&'a SigningKey>,
}
