# shellcheck shell=bash
# Images for the nodes, made on the spot: nothing here can be pulled. Sourced by scripts/e2e, never run.

# shellcheck disable=SC2154  # work is set by who sources this

# An image of what is in FOLDER, in the docker engine of a node.
docker_image() { # NODE NAME FOLDER CHANGE...
  local n=$1 name=$2 folder=$3 change changes=()
  shift 3
  for change in "$@"; do changes+=(--change "$change"); done
  tar -C "$folder" --owner 0 --group 0 -c . | node_docker "$n" import "${changes[@]}" - "$name" >/dev/null
}

# What the docker engine of node 1 has as NAME goes into the containerd of both nodes, and leaves docker.
into_containerds() { # NAME
  node_docker 1 save --output "$work/image.tar" "$1"
  node_docker 1 image rm "$1" >/dev/null
  load "$work/image.tar"
  rm "$work/image.tar"
}

load() { # ARCHIVE
  local n
  for n in 1 2; do
    # Its warnings of what is going to change are of no interest when it succeeds.
    node_ctr "$n" images import --local "$1" >/dev/null 2>"$work/ctr.log" || fail "node$n does not take $1: $(cat "$work/ctr.log")"
  done
}

# A folder with a busybox and names for what it does, to make images of.
busybox_folder() { # FOLDER
  local name
  mkdir -p "$1/bin" "$1/tmp"
  install -m 755 "$(part busybox)" "$1/bin/busybox"
  for name in sh cat echo sleep wget nslookup id ls; do ln -s busybox "$1/bin/$name"; done
}

# What holds the namespaces of a pod. It ends when it is told to, and reaps what it inherits.
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

# The registry of the chart, under the name that the chart has for it.
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
