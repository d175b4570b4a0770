# shellcheck shell=bash
# Makes images for the nodes, because nothing can be pulled there. Sourced by scripts/e2e-lib.sh, never executed.

# shellcheck disable=SC2154  # work is set by the sourcing script

# Makes an image of the content of FOLDER in the docker engine of a node.
docker_image() { # NODE NAME FOLDER CHANGE...
  local n=$1 name=$2 folder=$3 change changes=()
  shift 3
  for change in "$@"; do changes+=(--change "$change"); done
  tar -C "$folder" --owner 0 --group 0 -c . | node_docker "$n" import "${changes[@]}" - "$name" >/dev/null
}

# Makes an image of the content of FOLDER as an archive, as `docker save` writes it. CONFIG is the `config` of an OCI image.
image_archive() { # FILE NAME FOLDER CONFIG
  local dir="$1.content" diff
  mkdir "$dir"
  tar -C "$3" --owner 0 --group 0 -cf "$dir/layer.tar" .
  diff="$(sha256sum <"$dir/layer.tar")"
  jq -cn --argjson config "$4" --arg diff "sha256:${diff%% *}" \
    '{architecture: "amd64", os: "linux", $config, rootfs: {type: "layers", diff_ids: [$diff]}}' >"$dir/config.json"
  jq -cn --arg name "$2" '[{Config: "config.json", RepoTags: [$name], Layers: ["layer.tar"]}]' >"$dir/manifest.json"
  tar -C "$dir" -cf "$1" manifest.json config.json layer.tar
  rm -r "$dir"
}

# Makes an image of the content of FOLDER in the containerd of each node.
containerd_image() { # NAME FOLDER CONFIG
  image_archive "$2.tar" "$@"
  load "$2.tar"
}

load() { # ARCHIVE
  local n
  for n in "${NODES[@]}"; do
    # Deprecation warnings are not printed if it succeeds.
    node_ctr "$n" images import --local "$1" >/dev/null 2>"$work/ctr.log" || fail "node$n cannot import $1: $(cat "$work/ctr.log")"
  done
}

# Creates a folder with busybox and links for its commands, to make images from.
busybox_folder() { # FOLDER
  local name
  mkdir -p "$1/bin" "$1/tmp"
  install -m 755 "$(part busybox)" "$1/bin/busybox"
  for name in sh cat echo sleep wget nslookup id ls; do ln -s busybox "$1/bin/$name"; done
}

# The program that holds the namespaces of a pod. It ends on a signal and reaps inherited processes.
pause_image() {
  mkdir -p "$work/pause"
  cat >"$work/pause.c" <<'END'
#include <signal.h>
#include <unistd.h>
#include <sys/wait.h>
static void end(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); signal(SIGCHLD, reap); for (;;) pause(); }
END
  musl-gcc -Os -static -o "$work/pause/pause" "$work/pause.c"
  containerd_image "$PAUSE" "$work/pause" '{"Entrypoint": ["/pause"]}'
}

# Creates a folder with the content of an image of the registry, and prints the image's configuration.
registry_folder() { # FOLDER
  busybox_folder "$1"
  mkdir -p "$1/etc/ssl/certs" "$1/var/lib/registry" "$1/etc/distribution"
  install -m 755 "$(part registry31)" "$1/bin/registry"
  ln -s bin/registry "$1/registry"
  echo '{"Entrypoint": ["/bin/registry"], "Cmd": ["serve", "/etc/distribution/config.yml"], "Env": ["PATH=/bin"]}'
}

# The configuration of an image that prints the words in its folder.
# shellcheck disable=SC2034  # for the steps
PRINTING='{"Cmd": ["cat", "/words"], "Env": ["PATH=/bin"]}'

printing_folder() { # FOLDER WORDS
  busybox_folder "$1"
  printf '%s\n' "$2" >"$1/words"
}

# A registry outside the cluster.
source_registry() { # ADDRESS
  local registry
  cat >"$work/source.yml" <<END
version: 0.1
storage: {filesystem: {rootdirectory: "$work/source"}}
http: {addr: "$1"}
END
  registry="$(part registry31)"
  server source env OTEL_TRACES_EXPORTER=none "$registry" serve "$work/source.yml"
  await source ask "http://$1/v2/"
}
