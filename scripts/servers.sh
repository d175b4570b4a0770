# shellcheck shell=bash
# Functions that start each server of scripts/stack. Sourced by it, never executed.
#
# A start_* function gets the folder of its instance in $dir and its folder for sockets in $run, writes the variables for the
# tests into $dir/env as NAME=value lines, and returns when the server answers. It runs in a subshell with `set -e`: a failed
# command fails the start.

# shellcheck disable=SC2154  # dir and run are set by start, as said above

# The maximum time in seconds until a server answers.
READY_SECONDS=60

part() { "$HERE/parts" path "$1"; }

# Only for loopback addresses: without a proxy, and with a timeout of a few seconds.
ask() { curl --silent --show-error --fail --noproxy '*' --max-time 5 --output /dev/null "$@"; }

# Starts a process that outlives this shell, and records it for ready_when. The process writes its process id before it
# executes the server, so that no server is unknown if the caller is killed in between. It closes the caller's open files: a
# test run that waits for the end of a pipe must not wait for the server.
spawn() { # LOG COMMAND...
  local log=$1
  shift
  # shellcheck disable=SC2016  # expanded by the inner shell
  JACKAL_SERVER="$dir" setsid nohup bash -c '
    for fd in /proc/self/fd/*; do
      fd=${fd##*/}
      if [ "$fd" -gt 2 ]; then eval "exec $fd>&-"; fi
    done
    echo $$ >>"$0"
    exec "$@"' "$dir/pid" "$@" >>"$dir/$log" 2>&1 </dev/null &
  spawned+=("$!")
}

# Waits until COMMAND succeeds. It is run ten times per second.
ready_when() { # COMMAND...
  local deadline pid
  deadline=$(($(now_ms) + READY_SECONDS * 1000))
  until "$@" >/dev/null 2>&1; do
    for pid in "${spawned[@]}"; do
      kill -0 "$pid" 2>/dev/null || die "$(basename "$dir"): a process ended during the start"
    done
    [ "$(now_ms)" -lt "$deadline" ] || die "$(basename "$dir"): no answer within $READY_SECONDS s"
    sleep 0.1
  done
}

# COUNT different free ports, below the range that the kernel assigns to clients. Another process may use one of them first;
# `start` then retries.
free_ports() { # COUNT
  local port ports=() used
  used="$(awk 'FNR > 1 { sub(".*:", "", $2); print $2 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null)"
  while [ "${#ports[@]}" -lt "$1" ]; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    if ! grep -qx "$(printf '%04X' "$port")" <<<"$used"; then
      used+=$'\n'"$(printf '%04X' "$port")"
      ports+=("$port")
    fi
  done
  printf '%s\n' "${ports[*]}"
}

# A key and a certificate NAME.{key,crt} in the current folder, signed by its ca.{key,crt}.
certificate() { # NAME SUBJECT EXTENSION...
  local name=$1 subject=$2 extension arguments=()
  shift 2
  for extension in "$@"; do arguments+=(-addext "$extension"); done
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "$subject" \
    -keyout "$name.key" -out "$name.crt" -CA ca.crt -CAkey ca.key \
    -addext basicConstraints=CA:FALSE "${arguments[@]}"
}

certificates() { # FOLDER [FURTHER NAME OF THE API SERVER...]
  local name names=DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1
  for name in "${@:2}"; do names+=,$name; done
  mkdir -p "$1"
  (
    cd "$1" || exit
    umask 077
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=jackal-test-ca \
      -keyout ca.key -out ca.crt
    certificate server /CN=kube-apiserver extendedKeyUsage=serverAuth \
      "subjectAltName=$names"
    certificate admin /O=system:masters/CN=admin extendedKeyUsage=clientAuth
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out service-account.key
    openssl pkey -in service-account.key -pubout -out service-account.pub
  ) >"$1.log" 2>&1
  # The log is needed only after a failure.
  rm "$1.log"
}

# Only etcd and kube-apiserver: without controllers, namespaces are never emptied, objects with owner references never
# collected, and service accounts never get tokens.
start_apiserver() {
  apiserver KUBECONFIG
}

# Another API server, for tests whose operators watch every namespace, or that evaluate the audit log: every request is in the
# file JACKAL_AUDIT when it has been answered.
start_apiserver_audited() {
  cat >"$dir/audit.yaml" <<END
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
END
  apiserver JACKAL_KUBECONFIG_AUDITED --audit-policy-file "$dir/audit.yaml" --audit-log-path "$dir/audit.json" \
    --audit-log-mode blocking --audit-log-maxsize 0
  echo "JACKAL_AUDIT=$dir/audit.json" >>"$dir/env"
}

apiserver() { # VARIABLE FLAG...
  local variable=$1
  shift
  local etcd apiserver client peer secure pki="$dir/pki"
  etcd="$(part etcd)"
  apiserver="$(part kube-apiserver)"
  read -r client peer secure < <(free_ports 3)
  spawn etcd.log "$etcd" --data-dir "$dir/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "http://127.0.0.1:$client" --advertise-client-urls "http://127.0.0.1:$client" \
    --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
    --initial-cluster "default=http://127.0.0.1:$peer"
  certificates "$pki"
  spawn log "$apiserver" --etcd-servers "http://127.0.0.1:$client" \
    --bind-address 127.0.0.1 --advertise-address 127.0.0.1 --secure-port "$secure" \
    --endpoint-reconciler-type=none --service-cluster-ip-range 10.96.0.0/16 \
    --tls-cert-file "$pki/server.crt" --tls-private-key-file "$pki/server.key" --client-ca-file "$pki/ca.crt" \
    --service-account-key-file "$pki/service-account.pub" \
    --service-account-signing-key-file "$pki/service-account.key" \
    --service-account-issuer https://kubernetes.default.svc \
    --authorization-mode RBAC --allow-privileged --disable-admission-plugins ServiceAccount "$@"
  ready_when ask --cacert "$pki/ca.crt" --cert "$pki/admin.crt" --key "$pki/admin.key" \
    "https://127.0.0.1:$secure/readyz"
  (umask 077 && kubeconfig "$pki" "https://127.0.0.1:$secure" >"$dir/kubeconfig")
  echo "$variable=$dir/kubeconfig" >"$dir/env"
}

kubeconfig() { # PKI SERVER [WHO]
  local who=${3:-admin}
  cat <<END
apiVersion: v1
kind: Config
current-context: jackal
clusters:
- name: jackal
  cluster:
    server: $2
    certificate-authority-data: $(base64 -w 0 "$1/ca.crt")
users:
- name: $who
  user:
    client-certificate-data: $(base64 -w 0 "$1/$who.crt")
    client-key-data: $(base64 -w 0 "$1/$who.key")
contexts:
- name: jackal
  context: {cluster: jackal, user: $who}
END
}

# A separate containerd on $run/containerd.sock, without the CRI plugin.
containerd_process() { # CONTAINERD CONFIG_VERSION LOG
  need_root "$(basename "$dir")"
  mkdir -p "$run"
  cat >"$dir/containerd.toml" <<END
version = $2
root = "$dir/containerd"
state = "$run/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
  address = "$run/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$dir/opt"
END
  # Its shim is in the same folder, runc in a folder for root.
  PATH="$(dirname "$1"):/usr/sbin:/usr/bin:/sbin:/bin" spawn "$3" "$1" --config "$dir/containerd.toml"
  ready_when test -S "$run/containerd.sock"
}

# Writes the address of the socket when the containerd answers.
plain_containerd() { # CONTAINERD CONFIG_VERSION VARIABLE
  local ctr
  ctr="$(part ctr)"
  containerd_process "$1" "$2" log
  ready_when "$ctr" --address "$run/containerd.sock" --timeout 5s version
  echo "$3=$run/containerd.sock" >"$dir/env"
}

start_containerd() {
  local containerd
  containerd="$(part containerd)"
  plain_containerd "$containerd" 3 JACKAL_CONTAINERD
}

start_containerd16() {
  local containerd
  containerd="$(part containerd16)"
  plain_containerd "$containerd" 2 JACKAL_CONTAINERD16
}

# An engine with its own containerd. It creates no bridge and no firewall rules.
engine() { # DOCKERD CONTAINERD CONTAINERD_CONFIG_VERSION DAEMON_JSON VARIABLE
  part runc >/dev/null
  containerd_process "$2" "$3" containerd.log
  # Always a separate file: otherwise the machine's /etc/docker/daemon.json would be used.
  echo "$4" >"$dir/daemon.json"
  PATH="$(dirname "$2"):/usr/sbin:/usr/bin:/sbin:/bin" spawn log "$1" --config-file "$dir/daemon.json" \
    --data-root "$dir/docker" --exec-root "$run/exec" --pidfile "$run/docker.pid" \
    --host "unix://$run/docker.sock" --containerd "$run/containerd.sock" \
    --bridge none --iptables=false --ip6tables=false
  ready_when ask --unix-socket "$run/docker.sock" http://docker/_ping
  echo "$5=unix://$run/docker.sock" >"$dir/env"
}

start_docker20() {
  local dockerd containerd
  dockerd="$(part dockerd20)"
  containerd="$(part containerd16)"
  engine "$dockerd" "$containerd" 2 '{"storage-driver":"overlay2"}' JACKAL_DOCKER20
}

start_docker_classic() {
  local dockerd containerd
  dockerd="$(part dockerd)"
  containerd="$(part containerd)"
  engine "$dockerd" "$containerd" 3 '{"features":{"containerd-snapshotter":false},"storage-driver":"overlay2"}' \
    JACKAL_DOCKER_CLASSIC
}

start_docker_containerd() {
  local dockerd containerd
  dockerd="$(part dockerd)"
  containerd="$(part containerd)"
  engine "$dockerd" "$containerd" 3 '{}' JACKAL_DOCKER_CONTAINERD
}

# The kernel chooses the port of a registry; the registry's log contains it.
registry() { # REGISTRY VARIABLE
  local address
  cat >"$dir/config.yml" <<END
version: 0.1
log: {level: info}
storage:
  filesystem: {rootdirectory: "$dir/registry"}
  delete: {enabled: true}
http:
  addr: 127.0.0.1:0
  secret: jackal-test
END
  OTEL_TRACES_EXPORTER=none OTEL_METRICS_EXPORTER=none OTEL_LOGS_EXPORTER=none \
    spawn log "$1" serve "$dir/config.yml"
  ready_when grep -qE 'listening on 127\.0\.0\.1:[0-9]+' "$dir/log"
  address="$(grep -oE 'listening on 127\.0\.0\.1:[0-9]+' "$dir/log")"
  address="${address##* }"
  ready_when ask "http://$address/v2/"
  echo "$2=$address" >"$dir/env"
}

start_registry28() {
  local program
  program="$(part registry28)"
  registry "$program" JACKAL_REGISTRY28
}

start_registry31() {
  local program
  program="$(part registry31)"
  registry "$program" JACKAL_REGISTRY31
}
