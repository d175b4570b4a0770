# shellcheck shell=bash
# What the tests in a real cluster share: their namespaces, their steps, and what they print after a failure. Sourced by
# scripts/e2e and scripts/e2e-bootstrap, never executed.
#
# A test runs itself in separate namespaces as `$PROGRAM inside WORK ...`, where it calls prepare_inside. scripts/cluster.sh
# calls `$PROGRAM hold-node FOLDER`.

# shellcheck disable=SC2154  # PROGRAM, HERE and ROOT are set by the sourcing script
# shellcheck disable=SC2317  # leave and diagnose run by a trap

# --- Outside the namespaces: cleanup -------------------------------------------------------------------

# HOME is different inside.
export JACKAL_CACHE
leader='' work='' keep=''

# All processes are in the process namespace of $leader: the kernel kills them together with the first process there. Mounts,
# devices and firewall rules are removed with the namespaces.
leave() {
  local code=$? deadline first=''
  trap '' INT TERM HUP
  if [ -n "$leader" ]; then
    # unshare ignores signals and waits for the first process, which the kernel ends after all others.
    read -r first <"/proc/$leader/task/$leader/children" || true
    kill -KILL "${first:-$leader}" 2>/dev/null || true
    wait "$leader" 2>/dev/null || true
  fi
  deadline=$(($(now_ms) + 20000))
  until remove "$work"; do
    if [ "$(now_ms)" -ge "$deadline" ]; then
      say "error: could not remove: $(echo "$work" /sys/fs/cgroup/*/"$CGROUP")"
      code=1
      break
    fi
    sleep 0.1
  done
  exit "$code"
}

# The control groups and the files of a run.
remove() { # WORK
  remove_cgroups "$(basename "$1")" && rm -rf --one-file-system "$1"
}

# Removes the remains of killed runs. A running one, including its cluster, holds its lock.
remove_orphans() {
  local folder
  for folder in "${TMPDIR:-/tmp}"/jackal-e2e.*; do
    [ -O "$folder/lock" ] || continue
    if flock -n "$folder/lock" true; then
      say "removing $folder of a run that was killed"
      remove "$folder" || say "could not remove all of $folder"
    fi
  done
}

usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$PROGRAM" >&2
  exit 2
}

# Installs missing programs, and sets $image to the archive of the operator's image.
get_image() {
  local started name
  need_root 'a cluster'
  started="$(now_ms)"
  for name in image e2e; do "$HERE/parts" get "$name" 2>&1 | { grep -v ': already installed, ' || true; }; done
  image="${JACKAL_E2E_IMAGE:-}"
  if [ -z "$image" ]; then
    export JACKAL_IMAGE_PROFILE="${JACKAL_IMAGE_PROFILE:-e2e}"
    image="$("$HERE/image" build)"
  fi
  say "parts and image: $(seconds $(($(now_ms) - started))) s"
}

# Runs this test in separate namespaces, and exits with its exit code.
run_in_namespaces() { # ARGUMENT OF inside...
  local code=0
  work="$(mktemp -d "${TMPDIR:-/tmp}/jackal-e2e.XXXXXX")"
  CGROUP="$(basename "$work")"
  # shellcheck source=scripts/cluster.sh
  . "$HERE/cluster.sh"
  remove_orphans
  exec 7>"$work/lock"
  flock -n 7
  trap leave EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  # If this shell is killed, unshare is killed too, and everything else with it.
  setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private \
    "$PROGRAM" inside "$work" "$@" &
  leader=$!
  wait "$leader" || code=$?
  leader=''
  exit "$code"
}

# --- Inside the namespaces: steps ----------------------------------------------------------------------

steps=0 step_started='' spawned=()

step() { # TITLE
  step_done
  steps=$((steps + 1)) step_started="$(now_ms)"
  printf '\n%d. %s\n' "$steps" "$*"
}

step_done() {
  if [ -n "$step_started" ]; then printf '   %s s\n' "$(seconds $(($(now_ms) - step_started)))"; fi
  step_started=''
}

note() { printf '   %s\n' "$*"; }

fail() { # MESSAGE
  say "error: $*"
  exit 1
}

# Repeats COMMAND until it succeeds, for at most SECONDS. Its errors are printed only if it never succeeds.
until_true() { # SECONDS WHAT COMMAND...
  local deadline=$(($(now_ms) + $1 * 1000)) seconds=$1 what=$2
  shift 2
  until "$@" >/dev/null 2>"$work/until.error"; do
    if [ "$(now_ms)" -ge "$deadline" ]; then
      cat "$work/until.error" >&2
      fail "$what after $seconds s"
    fi
    sleep 0.2
  done
}

inside_leave() {
  local code=$?
  trap - EXIT
  if [ "$code" -ne 0 ]; then
    say "failed in step $steps"
    diagnose >&2 || true
  fi
  if [ -n "$keep" ]; then
    note "The cluster runs until Ctrl-C. In another terminal: nsenter --target \$(pgrep -of '^bash .*$(basename "$PROGRAM") inside $work') --all"
    note "then: export KUBECONFIG=$KUBECONFIG PATH=$PATH; the logs are in $work"
    sleep infinity
  fi
  exit "$code"
}

# Prints everything that helps to find the cause of a failure.
diagnose() {
  local log pod
  set +e
  # Do not wait for an API server that does not answer.
  if ! kubectl get --raw /readyz --request-timeout 5s >/dev/null 2>&1; then
    echo '--- the API server does not answer'
    tail -n 20 "$work"/{etcd,kube-apiserver}.log
    return
  fi
  echo '--- objects'
  kubectl get nodes,pods,jkpkg,jkimg --all-namespaces -o wide
  kubectl get jkpkg,jkimg --all-namespaces -o json | jq -c '.items[] | {name: .metadata.name, status}'
  echo '--- events'
  kubectl get events --all-namespaces --sort-by .lastTimestamp | tail -n 40
  for pod in $(kubectl get pods --all-namespaces -l app.kubernetes.io/name=jackal-operator -o json |
    jq -r '.items[] | .metadata.namespace + "/" + .metadata.name'); do
    echo "--- log of $pod"
    kubectl -n "${pod%/*}" logs "${pod#*/}" --all-containers --tail 40
    kubectl -n "${pod%/*}" logs "${pod#*/}" --all-containers --tail 20 --previous 2>/dev/null
  done
  for log in "$work"/*.log; do
    echo "--- last lines of $(basename "$log")"
    tail -n 8 "$log"
  done
}


# Runs IMAGE in a pod on a node and prints its output. The kubelet's cleanup, once a minute, can remove the log of a pod that
# has just ended; then the output is missing, and another pod is run.
in_pod() { # NAME NODE IMAGE [PULL POLICY [COMMAND]]
  local namespace=${NAMESPACE:-default} try name said
  for try in 1 2 3; do
    name="$1-$try"
    kubectl -n "$namespace" run "$name" --image "$3" --image-pull-policy "${4:-IfNotPresent}" --restart Never --quiet \
      --overrides "{\"spec\": {\"nodeName\": \"$2\"}}" -- "${@:5}" >/dev/null
    kubectl -n "$namespace" wait --for jsonpath='{.status.phase}'=Succeeded "pod/$name" --timeout 60s >/dev/null
    said="$(kubectl -n "$namespace" logs "$name")"
    kubectl -n "$namespace" delete pod "$name" --grace-period 0 --force --wait=false >/dev/null 2>&1
    case $said in "failed to try resolving symlinks in path \"/var/log/pods/"*) ;; *) break ;; esac
  done
  printf '%s\n' "$said"
}

# Sets the variables and reads the functions of the cluster, inside the namespaces.
prepare_inside() { # WORK KEEP
  local folders name
  work=$1 keep=$2
  CGROUP="$(basename "$work")"
  # shellcheck source=scripts/cluster.sh
  . "$HERE/cluster.sh"
  # shellcheck source=tests/e2e/images.sh
  . "$ROOT/tests/e2e/images.sh"
  # There is no external network, so a proxy cannot be used.
  unset HTTP_PROXY HTTPS_PROXY http_proxy https_proxy ALL_PROXY all_proxy DOCKER_HOST
  export KUBECONFIG="$PKI/admin.kubeconfig" HOME="$work/home"
  mkdir -p "$HOME"
  folders="$(for name in kubectl helm crane; do dirname "$(part "$name")"; done | sort -u | paste -sd :)"
  export PATH="$folders:$PATH"
  trap inside_leave EXIT
  trap 'exit 143' TERM
}

# Becomes the first process of a node.
hold() { # FOLDER
  work=$1 CGROUP=''
  # shellcheck source=scripts/cluster.sh
  . "$HERE/cluster.sh"
  hold_node "$1"
}
