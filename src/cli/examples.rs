//! The examples that `--help` shows. A test parses each of them.

pub(super) const COMMAND: &str = "\
Examples:
  # What a file builds, and how large it is, without moving anything
  jackal-operator build shop.yaml --to registry.example.com/team --dry-run
  # Build it into a registry
  jackal-operator build shop.yaml --to registry.example.com/team
  # Install the custom resource definitions
  jackal-operator crd | kubectl apply -f -

Exit codes: 0 done, 1 something failed and may succeed another time, 2 a file or a flag cannot be used, 130 interrupted.
Completion of commands in a shell: jackal-operator completion --help";

pub(super) const CONTROLLER: &str = "\
Examples:
  # In the cluster of the current kubeconfig, with the registry that Jackal or Zarf set up there
  jackal-operator controller --namespace jackal
  # For one namespace, with a registry of its own, and health and metrics on port 8080
  jackal-operator controller --watch-namespace shop --registry-address registry.example.com --listen [::]:8080";

pub(super) const AGENT: &str = "\
Examples:
  # For the docker engine and the containerd of this node
  jackal-operator agent --node-name node-1 --admit team-a=*
  # With the engine's folder mounted elsewhere
  jackal-operator agent --node-name node-1 --docker-root /host/var/lib/docker --admit team-a=docker.io/library/*";

pub(super) const BUILD: &str = "\
Examples:
  # Into a registry, below a path
  jackal-operator build shop.yaml --to registry.example.com/team
  # Into an OCI layout, to carry it into a network without internet
  jackal-operator build shop.yaml --to oci:shop
  # Ask whether everything exists, and which images are missing
  jackal-operator build shop.yaml --check
  # What would move
  jackal-operator build shop.yaml --to registry.example.com/team --dry-run
  # From standard input, with the result as JSON
  kubectl kustomize packages | jackal-operator build - --to registry.example.com --output json
  # A registry on this machine that speaks plain HTTP
  jackal-operator build shop.yaml --to localhost:5000 --insecure";

pub(super) const CONVERT: &str = "\
Examples:
  jackal-operator convert zarf.yaml > shop.yaml
  # Build it at once, even where a part could not be carried over
  jackal-operator convert zarf.yaml --partial | jackal-operator build - --to oci:shop
  # The components of a flavour
  jackal-operator convert zarf.yaml --flavor upstream
  # A definition that names files of a folder beside its own
  jackal-operator convert packages/web/zarf.yaml --root packages";

pub(super) const SBOM: &str = "\
Examples:
  # Of an image in a registry, which keeps them as its referrers
  jackal-operator sbom registry.example.com/team/app:1 --syft /usr/local/bin/syft
  # Of every image of an OCI layout
  jackal-operator sbom oci:shop --syft /usr/local/bin/syft";

pub(super) const SIGN: &str = "\
Examples:
  # A package in a registry; the password of the key is in COSIGN_PASSWORD
  jackal-operator sign registry.example.com/team/shop:1.4.0 --key cosign.key
  # A package in an OCI layout
  jackal-operator sign oci:shop:shop:1.4.0 --key cosign.key";

pub(super) const PACK: &str = "\
Examples:
  # A package of a registry
  jackal-operator pack registry.example.com/team/shop:1.4.0 --output zarf-package-shop-amd64-1.4.0.tar.zst
  # One that build wrote into an OCI layout
  jackal-operator pack oci:shop:shop:1.4.0 --output shop.tar.zst
  # Into a pipe
  jackal-operator pack registry.example.com/team/shop:1.4.0 --output - | ssh site tee shop.tar.zst";

pub(super) const LOAD: &str = "\
Examples:
  # Into the registry of a cluster
  jackal-operator load shop.tar.zst --to registry.example.com/team
  # Out of a pipe
  ssh laptop cat shop.tar.zst | jackal-operator load - --to registry.example.com
  # Into an OCI layout
  jackal-operator load shop.tar.zst --to oci:shop";

pub(super) const VERIFY: &str = "\
Examples:
  # By a key
  jackal-operator verify registry.example.com/team/shop:1.4.0 --key cosign.pub
  # By whoever signed without a key
  jackal-operator verify registry.example.com/team/app:1 --identity release@example.com --issuer https://accounts.example.com --trust-root trusted_root.json";

pub(super) const CRD: &str = "\
Examples:
  jackal-operator crd | kubectl apply -f -
  # One file each
  jackal-operator crd --out crds";

pub(super) const PROBE: &str = "\
Examples:
  jackal-operator probe http://jackal-controller.jackal.svc:8080/readyz
  jackal-operator probe http://127.0.0.1:8080/healthz --within 5s";

pub(super) const COMPLETION: &str = "\
Examples:
  # bash, from the next shell on (with the package bash-completion)
  jackal-operator completion bash > ~/.local/share/bash-completion/completions/jackal-operator
  # zsh, in a directory of its fpath
  jackal-operator completion zsh > ~/.zfunc/_jackal-operator
  # fish
  jackal-operator completion fish > ~/.config/fish/completions/jackal-operator.fish
  # PowerShell, for this session
  jackal-operator completion powershell | Out-String | Invoke-Expression

In this shell only: source <(jackal-operator completion bash)";

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use crate::cli::Command;

    /// The commands of this program in a help text, as a shell would split them.
    fn commands(help: &str) -> Vec<Vec<&str>> {
        let lines = help.lines().filter(|line| line.starts_with("  "));
        let parts = lines.flat_map(|line| line.split(" | "));
        let own = parts.map(str::trim).filter(|part| part.starts_with("jackal-operator "));
        own.map(|part| part.split(" > ").next().unwrap_or_default().split(' ').collect())
            .collect()
    }

    #[test]
    fn each_help_has_examples_and_each_example_is_understood() {
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
