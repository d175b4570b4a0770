//! One object of a file: its images are transferred, and its artifact is built where it is a package.

use super::host::FileBuild;
use super::report::Named;
use super::{Build, BuildContext, Report, Target, prefix};
use crate::api::v1alpha1::JackalPackageSpec;
use crate::cli::package_file::{FileObjects, Kind, Object};
use crate::cli::progress::{Display, bytes};
use crate::cli::registry_clients::RegistryClients;
use crate::package::component::ComponentContent;
use crate::package::{
    BuiltPackage, Definition, NameOwners, Plan, Recipe, TransferredImage, build_package, component, repository,
};
use crate::signing::SigningKey;

impl Build {
    /// Builds `object`, or checks it, where earlier objects of its file have `names`. `report` gets the results, also those
    /// before a failure.
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
        // Before anything is transferred: an invalid package transfers nothing.
        if object.kind == Kind::Package {
            Definition::of(&object.name, spec, &plan)?;
        }
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
        if object.kind == Kind::Image {
            return Ok(());
        }
        let package = PackageInputs {
            name: &object.name,
            path: repository(&prefix, &object.name),
            address,
            spec,
            plan: &plan,
            contents: found,
            key: key.as_ref(),
        };
        self.build_package(package, &works, display, report).await
    }

    /// Builds the artifact of a package whose images are transferred.
    async fn build_package(
        &self,
        package: PackageInputs<'_>,
        works: &BuildContext,
        display: &Display,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let PackageInputs {
            name,
            path,
            address,
            spec,
            plan,
            contents,
            key,
        } = package;
        let mut images = Vec::with_capacity(plan.images.len());
        for (planned, row) in plan.images.iter().zip(&mut report.images) {
            images.push(TransferredImage {
                reference: planned.package_reference(),
                digest: row.digest.as_deref().unwrap_or_default().parse()?,
                destination: works.destination(&planned.location.repository)?,
                origin: Some(row.material(planned)?),
                documents: std::mem::take(&mut row.documents),
            });
        }
        let destination = works.destination(&path)?;
        let syft = self.sbom.open().await;
        let version = spec.version();
        let url = match address.as_str() {
            "" => format!("{path}:{version}"),
            address => format!("oci://{address}/{path}:{version}"),
        };
        let recipe = Recipe {
            name,
            spec,
            plan,
            images,
            repository: &*destination,
            url: &url,
            key,
            // No object records the artifacts of a file; only its signature proves who made one.
            recorded: None,
            syft: syft.as_deref(),
        };
        let host = FileBuild::new(contents, display);
        let result = build_package(recipe, &host).await;
        report.sboms = host.into_sboms();
        let (built, _) = result?;
        let reference = works.package_name(&path, version);
        report_package(built, reference, display, report);
        if let Some(advice) = works.copy_advice(&path, version) {
            display.say(advice);
        }
        if let Some(Named { reference, digest }) = &report.named {
            let sent = bytes(report.moved_bytes);
            display.say(format_args!("{reference} is {digest} ({sent} sent)"));
        }
        Ok(())
    }
}

/// Reports the package that was built as `reference`.
fn report_package(built: BuiltPackage, reference: String, display: &Display, report: &mut Report) {
    let published = built.published;
    if let Some(signed) = &built.signed {
        report.changed |= signed.new;
        if let Some(foreign) = &signed.foreign {
            display.warn(format_args!(
                "the index under the tag is not signed: it lists a package for {foreign} that the key has not signed; sign that, or verify by digest"
            ));
        }
    }
    report.changed |= published.changed;
    report.moved_bytes += published.moved_bytes;
    if let Some(left_out) = &built.differential {
        let saved = bytes(published.saved_bytes);
        display.say(format_args!(
            "{} images are left out, {saved}: version {} holds them",
            left_out.omitted_images, left_out.version
        ));
    }
    report.differential = built.differential;
    report.named = Some(Named {
        reference,
        digest: published.manifest.to_string(),
    });
}

/// What a package is built from.
struct PackageInputs<'a> {
    name: &'a str,
    /// The path of its repository.
    path: String,
    /// What the names in the cluster begin with; empty for an OCI layout without one.
    address: String,
    spec: &'a JackalPackageSpec,
    plan: &'a Plan,
    /// The content of its components.
    contents: Vec<ComponentContent>,
    key: Option<&'a SigningKey>,
}
