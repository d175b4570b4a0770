//! The examples in the output of `--help`. A test parses each of them.

pub(super) const COMMAND: &str = "\
Examples:
  # Show what would be built, and its size
  jackal-operator build shop.yaml --to registry.example.com/team --dry-run
  # Build the packages of a file into a registry
  jackal-operator build shop.yaml --to registry.example.com/team
  # Install the custom resource definitions
  jackal-operator crd | kubectl apply -f -

Exit codes: 0 success, 1 failure that may be temporary, 2 invalid file or flag, 130 interrupted.
For shell completion see: jackal-operator completion --help";

pub(super) const CONTROLLER: &str = "\
Examples:
  # Run in the cluster of the current kubeconfig
  jackal-operator controller --namespace jackal
  # Watch one namespace, use another registry, and serve health and metrics on port 8080
  jackal-operator controller --watch-namespace shop --registry-address registry.example.com --listen [::]:8080";

pub(super) const AGENT: &str = "\
Examples:
  # Read the docker engine and the containerd of this node
  jackal-operator agent --node-name node-1 --admit team-a=*
  # Read an engine whose data directory is mounted at another path
  jackal-operator agent --node-name node-1 --docker-root /host/var/lib/docker --admit team-a=docker.io/library/*";

pub(super) const BUILD: &str = "\
Examples:
  # Build into a registry, under a path prefix
  jackal-operator build shop.yaml --to registry.example.com/team
  # Build into an OCI layout, to transfer it to an air-gapped network
  jackal-operator build shop.yaml --to oci:shop
  # Check that all sources exist, and list missing images
  jackal-operator build shop.yaml --check
  # Show what would be copied
  jackal-operator build shop.yaml --to registry.example.com/team --dry-run
  # Read standard input, and print the result as JSON
  kubectl kustomize packages | jackal-operator build - --to registry.example.com --output json
  # Use a local registry with plain HTTP
  jackal-operator build shop.yaml --to localhost:5000 --insecure";

pub(super) const CONVERT: &str = "\
Examples:
  # Convert a definition
  jackal-operator convert zarf.yaml > shop.yaml
  # Convert and build, ignoring what cannot be converted
  jackal-operator convert zarf.yaml --partial | jackal-operator build - --to oci:shop
  # Select the components of a flavor
  jackal-operator convert zarf.yaml --flavor upstream
  # Convert a definition that names files outside of its own directory
  jackal-operator convert packages/web/zarf.yaml --root packages";

pub(super) const IMPORT_IMAGES: &str = "\
Examples:
  # Import images into the containerd of this machine and pin them
  jackal-operator import-images site.tar.zst --pin";

pub(super) const BOOTSTRAP: &str = "\
Examples:
  # Install the operator, a registry and all packages of an archive
  jackal-operator bootstrap site.tar.zst --kubeconfig site.kubeconfig
  # Print the objects
  jackal-operator bootstrap site.tar.zst --dry-run
  # Import the first images into the containerd of the nodes, in a cluster without storage classes
  jackal-operator bootstrap site.tar.zst --import --ephemeral-storage --storage-size 30Gi
  # Upgrade the operator, the registry and the packages, and go back
  jackal-operator bootstrap site-2.tar.zst
  jackal-operator bootstrap site.tar.zst --downgrade
  # Remove everything
  jackal-operator bootstrap --undo --delete-data --yes";

pub(super) const SBOM: &str = "\
Examples:
  # Generate the SBOMs of an image in a registry
  jackal-operator sbom registry.example.com/team/app:1 --syft /usr/local/bin/syft
  # Generate the SBOMs of all images in an OCI layout
  jackal-operator sbom oci:shop --syft /usr/local/bin/syft";

pub(super) const SIGN: &str = "\
Examples:
  # Sign a package in a registry; COSIGN_PASSWORD is the password of the key
  jackal-operator sign registry.example.com/team/shop:1.4.0 --key cosign.key
  # Sign a package in an OCI layout
  jackal-operator sign oci:shop:shop:1.4.0 --key cosign.key";

pub(super) const PACK: &str = "\
Examples:
  # A package of a registry
  jackal-operator pack registry.example.com/team/shop:1.4.0 --output zarf-package-shop-amd64-1.4.0.tar.zst
  # One that build wrote into an OCI layout
  jackal-operator pack oci:shop:shop:1.4.0 --output shop.tar.zst
  # One that is built from its definition, with images of registries and engines
  jackal-operator pack shop.yaml --output shop.tar.zst
  # Several packages; Zarf reads the first
  jackal-operator pack registry.example.com/team/shop:1.4.0 oci:tools:tools:2.0.0 --output site.tar.zst
  # Into a pipe
  jackal-operator pack registry.example.com/team/shop:1.4.0 --output - | ssh site tee shop.tar.zst
  # In parts, two of which may get lost
  jackal-operator pack registry.example.com/team/shop:1.4.0 --output shop.tar.zst --max-part-size 4G --parity 2";

pub(super) const INVENTORY: &str = "\
Examples:
  # What a registry holds below a prefix
  jackal-operator inventory registry.site.example/team --output have.json
  # Signed, for a registry that does not list its repositories
  jackal-operator inventory registry.site.example --repository team/app --repository shop --key cosign.key --output have.json
  # On the other side: pack what is missing there
  jackal-operator pack registry.example.com/team/shop:1.4.0 --have have.json --have-key cosign.pub --output shop.tar.zst";

pub(super) const LOAD: &str = "\
Examples:
  # Into the registry of a cluster
  jackal-operator load shop.tar.zst --to registry.example.com/team
  # A file in parts
  jackal-operator load shop.tar.zst.part000 --to registry.example.com/team
  # Only if it is signed, with a receipt
  jackal-operator load shop.tar.zst --to registry.example.com/team --key cosign.pub --receipt receipt.json
  # Out of a pipe
  ssh laptop cat shop.tar.zst | jackal-operator load - --to registry.example.com
  # Into an OCI layout
  jackal-operator load shop.tar.zst --to oci:shop
  # An image without a name in its archive
  jackal-operator load image.tar --to registry.example.com --name example.com/team/app:1";

pub(super) const SPLIT: &str = "\
Examples:
  # For a file system with files of 4 GB at most
  jackal-operator split shop.tar.zst --max-part-size 4G
  # Any two parts may get lost on the way
  jackal-operator split shop.tar.zst --max-part-size 700Mi --parity 2";

pub(super) const JOIN: &str = "\
Examples:
  # The file that was split
  jackal-operator join shop.tar.zst.part000 --output shop.tar.zst
  # Into a pipe
  jackal-operator join shop.tar.zst.part000 --output - | ssh site tee shop.tar.zst";

pub(super) const REPAIR: &str = "\
Examples:
  # Replace what got lost
  jackal-operator repair shop.tar.zst.part000";

pub(super) const UNPACK: &str = "\
Examples:
  # Into containerd
  jackal-operator unpack shop.tar.zst --format oci-archive - | ctr --namespace k8s.io images import -
  # Into a docker engine
  jackal-operator unpack shop.tar.zst --format docker-archive | docker load
  # One image for another platform, as a file
  jackal-operator unpack shop.tar.zst --format docker-archive --image docker.io/library/nginx:1.29 --platform linux/arm64 --output nginx.tar
  # Into an OCI layout in a directory
  jackal-operator unpack shop.tar.zst --format oci --output images";

pub(super) const INSPECT: &str = "\
Examples:
  # Packages, images and their sizes
  jackal-operator inspect shop.tar.zst
  # The names of the images
  jackal-operator inspect shop.tar.zst --images
  # For programs
  jackal-operator inspect shop.tar.zst --output json";

pub(super) const DIFF: &str = "\
Examples:
  # What a new version brings
  jackal-operator diff shop-1.4.0.tar.zst shop-1.5.0.tar.zst
  # Fail where anything differs
  jackal-operator diff shop-1.4.0.tar.zst shop-1.5.0.tar.zst --exit-code --output json";

pub(super) const PREFLIGHT: &str = "\
Examples:
  # Whether a package file can be installed in the cluster of the current kubeconfig
  jackal-operator preflight shop.tar.zst
  # Another cluster, without a file, as JSON
  jackal-operator preflight --kubeconfig site.kubeconfig --context site -o json";

pub(super) const BOOTSTRAP_EXPORT: &str = "\
Examples:
  # Files for the nodes of k3s
  jackal-operator bootstrap export shop.tar.zst --for k3s --to nodes
  # A file for ctr with one image
  jackal-operator bootstrap export shop.tar.zst --for containerd --to nodes --image registry.example.com/team/web:1";

pub(super) const SERVE: &str = "\
Examples:
  # For programs on this machine
  jackal-operator serve shop.tar.zst
  # For a network, with TLS
  jackal-operator serve shop.tar.zst tools.tar.zst --listen 0.0.0.0:5000 --tls-cert tls.crt --tls-key tls.key
  # With the names that the webhook of Zarf gives to the images of pods
  jackal-operator serve shop.tar.zst --naming zarf";

pub(super) const PROXY: &str = "\
Examples:
  # On a node of a cluster whose chart runs the registry
  jackal-operator proxy --registry jackal-operator-registry.jackal-operator.svc:5001 --ca-file ca.crt --credentials config.json";

pub(super) const IDLE: &str = "\
Examples:
  # In a pod whose init container has the image that the node is to keep
  jackal-operator idle";

pub(super) const GARBAGE_COLLECT: &str = "\
Examples:
  # Once; it ends after the quarantine
  jackal-operator garbage-collect /var/lib/registry
  # What would be freed
  jackal-operator garbage-collect /var/lib/registry --dry-run --output json";

pub(super) const VERIFY: &str = "\
Examples:
  # Verify a signature with a public key
  jackal-operator verify registry.example.com/team/shop:1.4.0 --key cosign.pub
  # Verify a keyless signature
  jackal-operator verify registry.example.com/team/app:1 --identity release@example.com --issuer https://accounts.example.com --trust-root trusted_root.json
  # Read a package file and all its parts to the end
  jackal-operator verify shop.tar.zst.part000
  # One part, as soon as it arrives beside the list
  jackal-operator verify shop.tar.zst.part003";

pub(super) const CRD: &str = "\
Examples:
  # Install the custom resource definitions
  jackal-operator crd | kubectl apply -f -
  # Write one file for each definition
  jackal-operator crd --out crds";

pub(super) const PROBE: &str = "\
Examples:
  # Wait until the controller is ready
  jackal-operator probe http://jackal-controller.jackal.svc:8080/readyz
  # Wait at most 5 seconds
  jackal-operator probe http://127.0.0.1:8080/healthz --within 5s";

pub(super) const COMPLETION: &str = "\
Examples:
  # bash, for new shells (requires bash-completion)
  jackal-operator completion bash > ~/.local/share/bash-completion/completions/jackal-operator
  # zsh, in a directory in fpath
  jackal-operator completion zsh > ~/.zfunc/_jackal-operator
  # fish
  jackal-operator completion fish > ~/.config/fish/completions/jackal-operator.fish
  # PowerShell, for this session
  jackal-operator completion powershell | Out-String | Invoke-Expression

For the current bash session: source <(jackal-operator completion bash)";

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use crate::cli::Command;

    /// The invocations of this program in a help text, split into words.
    fn commands(help: &str) -> Vec<Vec<&str>> {
        let lines = help.lines().filter(|line| line.starts_with("  "));
        let parts = lines.flat_map(|line| line.split(" | "));
        let own = parts.map(str::trim).filter(|part| part.starts_with("jackal-operator "));
        own.map(|part| part.split(" > ").next().unwrap_or_default().split(' ').collect())
            .collect()
    }

    #[test]
    fn every_command_has_examples_that_parse() {
        let mut root = Command::command();
        root.build();
        let own = std::iter::once(root.clone());
        let subcommands = root.get_subcommands().filter(|command| command.get_name() != "help");
        for mut command in own.chain(subcommands.cloned()) {
            let name = command.get_name().to_owned();
            let long = command.render_long_help().to_string();
            let serves = ["controller", "agent"].contains(&name.as_str());
            assert!(serves || long.contains("Exit codes: 0 "), "{name}: {long}");
            for help in [command.render_help(), command.render_long_help()] {
                let help = help.to_string();
                assert!(help.contains("Examples:\n"), "{name}: {help}");
                let examples = commands(&help);
                assert!(!examples.is_empty(), "{name}: {help}");
                for example in examples {
                    let parsed = Command::try_parse_from(&example);
                    assert!(parsed.is_ok(), "{example:?}: {}", parsed.unwrap_err());
                }
            }
        }
    }
}
