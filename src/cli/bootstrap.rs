//! `bootstrap`: installs the operator and its registry in a cluster that has no registry.

mod output;
mod removal;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;

use self::output::Steps;
use super::bootstrap_export::Export;
use super::kubeconfig::KubeconfigFlags;
use super::progress::{Display, Output};
use super::state::state_folder;
use super::{UsageError, examples, preflight, print, until};
use crate::archive::{self, Archive};
use crate::bootstrap::cluster::Cluster;
use crate::bootstrap::install::{Expose, Size};
use crate::bootstrap::local::{Record, Records};
use crate::bootstrap::packed;
use crate::bootstrap::preflight::{Report, Status, gather, judge, summarise};
use crate::bootstrap::steps::{
    Begin, Bootstrap as Run, NodeSeeds, Observer as _, Prepared, Seeds, Settings, Step, StorageFlags, prepare,
};
use crate::fault::{Fault, Reason};
use crate::oci::Reference;
use crate::transfer::Progress;

/// How nodes reach the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum ExposeFlag {
    /// What works with the kube-proxy and the container runtimes of the cluster.
    #[default]
    Auto,
    /// A Service with a port on every node.
    NodePort,
    /// A proxy on every node, which works with every kube-proxy.
    NodeProxy,
}

/// Install the operator and a registry in a cluster that has no registry, from one archive.
///
/// The archive is a file of `pack` (or any that `load` reads) that has the operator's image and the image of a registry. The first images
/// come to the nodes through the API server; nothing but about one megabyte is stored in etcd. Then all packages and images of the archive
/// are uploaded to the registry. A repetition continues, or does nothing. With an archive of another version, the installation is changed to
/// that version.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 the cluster, the file or a flag cannot be used, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::BOOTSTRAP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Bootstrap {
    #[command(subcommand)]
    other: Option<Other>,
    /// The archive. Not needed with --undo.
    #[arg(value_name = "FILE", required_unless_present = "undo")]
    file: Option<PathBuf>,
    #[command(flatten)]
    cluster: KubeconfigFlags,
    /// The operator's image in the archive, if it is not the only one whose repository ends in jackal-operator.
    #[arg(long, value_name = "REFERENCE")]
    operator_image: Option<Reference>,
    /// The registry's image in the archive, if it is neither the one that the operator was tested with nor the only one whose
    /// repository ends in registry or distribution.
    #[arg(long, value_name = "REFERENCE")]
    registry_image: Option<Reference>,
    /// Import the first images into the containerd of each node and pin them, instead of serving them on each node. The pods for this are
    /// privileged.
    #[arg(long)]
    import: bool,
    /// The path of containerd's socket on the nodes, for --import; k3s and RKE2 have it at /run/k3s/containerd/containerd.sock.
    #[arg(long, default_value = "/run/containerd/containerd.sock", value_name = "PATH")]
    containerd_socket: String,
    /// The image of the pods that bring the first images to the nodes. Every node must have it. Default: one that all nodes have.
    #[arg(long, value_name = "IMAGE")]
    seed_image: Option<String>,
    /// Bring the images to the nodes by seeds, although the registry of an installation serves them.
    #[arg(long)]
    always_seed: bool,
    /// How nodes reach the registry.
    #[arg(long, value_enum, default_value = "Auto")]
    expose: ExposeFlag,
    /// The storage class of the registry's volume. Default: the default class of the cluster.
    #[arg(long, value_name = "CLASS", conflicts_with = "ephemeral_storage")]
    storage_class: Option<String>,
    /// The size of the registry's volume, such as 50Gi. Default: that of the chart, 20Gi.
    #[arg(long, value_name = "SIZE")]
    storage_size: Option<Size>,
    /// Store the content of the registry without a volume. It is lost with the registry's pod.
    #[arg(long)]
    ephemeral_storage: bool,
    /// Continue with this archive although the bootstrap of another one is not finished.
    #[arg(long)]
    replace: bool,
    /// Install an earlier version than the cluster has.
    #[arg(long)]
    downgrade: bool,
    /// Install in this cluster although the bootstrap of the archive is not finished in another one.
    #[arg(long)]
    other_cluster: bool,
    /// Install although preflight checks failed.
    #[arg(long)]
    ignore_preflight: bool,
    /// Print every object as YAML, with the values of Secrets left out, and change nothing.
    #[arg(long, conflicts_with = "undo")]
    dry_run: bool,
    /// Remove the installation: everything that bootstrap made, with the definitions and all JackalPackages.
    #[arg(long)]
    undo: bool,
    /// With --undo: also delete the registry's volume.
    #[arg(long, requires = "undo")]
    delete_data: bool,
    /// With --undo: delete JackalPackages without a question.
    #[arg(long, requires = "undo")]
    yes: bool,
    /// How the result is printed. Steps are shown on standard error.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// What does not need a cluster.
#[derive(Debug, Subcommand)]
enum Other {
    Export(Export),
}

impl Bootstrap {
    pub(super) async fn run(mut self, stop: CancellationToken) -> ExitCode {
        if let Some(Other::Export(export)) = self.other.take() {
            return export.run(stop).await;
        }
        let work = async {
            match self.undo {
                true => self.remove().await,
                false => self.install().await,
            }
        };
        until(stop, "bootstrap", work).await
    }

    async fn install(&self) -> anyhow::Result<()> {
        let file = self.file.as_deref().unwrap_or(Path::new(""));
        let within = |fault: Fault| fault.with_context(file.display());
        let archive = Arc::new(archive::open(file).await?);
        let images = packed::find(&archive, self.operator_image.as_ref(), self.registry_image.as_ref());
        let images = images.await.map_err(within)?;
        let (client, server) = self.cluster.open().await?;
        let cluster = Cluster::new(client);
        let steps = Steps::new(Display::new(self.output, false));
        steps.begins(Step::Preflight);
        let report = self.judge(&cluster, &server, &archive).await?;
        let settings = self.settings(&report);
        let records =
            Records::new(state_folder("bootstrap").unwrap_or_else(|| std::env::temp_dir().join("jackal-operator")));
        let prepared = async {
            let record = Record {
                cluster: cluster.identity().await?,
                server,
            };
            // First: what another cluster lacks is of no interest.
            let identity = packed::identity(&archive).to_string();
            records.check(&identity, &record, self.other_cluster)?;
            Ok((record, prepare(&cluster, &archive, &images, &settings).await?))
        };
        let prepared: Result<_, Fault> = prepared.await;
        let (record, prepared) = prepared.inspect_err(|_| {
            // The checks say all that is missing, the error only what was needed first.
            if report.status == Status::Failure {
                print::note(preflight::text_of(&report).trim_end());
            }
        })?;
        let seeds = self.seeds(&cluster);
        let progress = Arc::new(Progress::default());
        let run = Run {
            cluster: &cluster,
            archive: Arc::clone(&archive),
            images,
            settings,
            seeds: &*seeds,
            observer: &steps,
            progress: Arc::clone(&progress),
        };
        if self.dry_run {
            let seeds = seeds.objects(&run.seed_requests(&prepared)?, self.import).await?;
            return output::print_objects(&prepared, &seeds);
        }
        self.check(&cluster, &prepared, &report).await?;
        steps.ended(Step::Preflight, output::summary(&report));
        if prepared.begin != Begin::Repeat {
            records.begin(&prepared.archive, &record)?;
        }
        let work = run.run(&prepared);
        let uploaded = steps.display().follow("bootstrap", &progress, work).await?;
        records.end(&prepared.archive, &record.cluster);
        output::report(self.output, &prepared, &uploaded, &steps);
        Ok(())
    }

    /// The preflight checks.
    async fn judge(&self, cluster: &Cluster, server: &str, archive: &Archive) -> anyhow::Result<Report> {
        let facts = gather(cluster.client(), server).await.map_err(|reason| {
            let message = format!("the API server {server}: {}", reason.message);
            match reason.is_refusal {
                true => Fault::stalled(Reason::AuthenticationFailed, message),
                false => Fault::retryable(Reason::RegistryUnavailable, message),
            }
        })?;
        let wanted = crate::bootstrap::preflight::Wanted {
            storage_class: self.storage_class.clone(),
            storage_size: self.storage_size.as_ref().map(Size::bytes),
            ephemeral: self.ephemeral_storage,
        };
        Ok(judge(&facts, Some(&summarise(archive).await?), &wanted))
    }

    /// Checks that the installation can be done.
    async fn check(&self, cluster: &Cluster, prepared: &Prepared, report: &Report) -> anyhow::Result<()> {
        // What an installation has taken already is not a failure of its repetition.
        if prepared.begin == Begin::First && report.status == Status::Failure && !self.ignore_preflight {
            print::note(preflight::text_of(report).trim_end());
            let message =
                "preflight checks failed; correct what they say, or install in spite of them with --ignore-preflight";
            return Err(UsageError(message.to_owned()).into());
        }
        Ok(prepared.check(cluster).await?)
    }

    fn settings(&self, report: &Report) -> Settings {
        Settings {
            expose: match self.expose {
                ExposeFlag::Auto => None,
                ExposeFlag::NodePort => Some(Expose::NodePort),
                ExposeFlag::NodeProxy => Some(Expose::NodeProxy),
            },
            recommended: report.expose.unwrap_or(Expose::NodePort),
            storage: StorageFlags {
                class: self.storage_class.clone(),
                size: self.storage_size.clone(),
                ephemeral: self.ephemeral_storage,
            },
            replace: self.replace,
            downgrade: self.downgrade,
            import: self.import,
            always_seed: self.always_seed,
        }
    }

    /// The seeds of the cluster.
    fn seeds(&self, cluster: &Cluster) -> Box<dyn Seeds> {
        Box::new(NodeSeeds {
            cluster: cluster.clone(),
            image: self.seed_image.clone(),
            socket: self.containerd_socket.clone(),
        })
    }
}
