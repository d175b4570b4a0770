# shellcheck shell=bash
# Makes images for the nodes, because nothing can be pulled there. Sourced by scripts/e2e, never executed.

# shellcheck disable=SC2154  # work is set by the sourcing script

# Makes an image of the content of FOLDER in the docker engine of a node.
docker_image() { # NODE NAME FOLDER CHANGE...
  local n=$1 name=$2 folder=$3 change changes=()
  shift 3
  for change in "$@"; do changes+=(--change "$change"); done
  tar -C "$folder" --owner 0 --group 0 -c . | node_docker "$n" import "${changes[@]}" - "$name" >/dev/null
}

# Moves the image NAME from the docker engine of node 1 into the containerd of both nodes.
into_containerds() { # NAME
  node_docker 1 save --output "$work/image.tar" "$1"
  node_docker 1 image rm "$1" >/dev/null
  load "$work/image.tar"
  rm "$work/image.tar"
}

load() { # ARCHIVE
  local n
  for n in 1 2; do
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
  docker_image 1 "$PAUSE" "$work/pause" 'ENTRYPOINT ["/pause"]'
  into_containerds "$PAUSE"
}

# Makes the registry image of the chart, under the name in the chart.
registry_image() { # NAME
  local folder="$work/registry"
  busybox_folder "$folder"
  mkdir -p "$folder/etc/ssl/certs" "$folder/var/lib/registry" "$folder/etc/distribution"
  install -m 755 "$(part registry31)" "$folder/bin/registry"
  ln -s bin/registry "$folder/registry"
  docker_image 1 "$1" "$folder" 'ENTRYPOINT ["/bin/registry"]' 'CMD ["serve", "/etc/distribution/config.yml"]' \
    'ENV PATH=/bin'
  into_containerds "$1"
}
