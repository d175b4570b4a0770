# shellcheck shell=bash
# A Kubernetes cluster of real components: one control plane and two nodes. Sourced by scripts/e2e-lib.sh, never executed.
#
# It runs in separate network, mount and process namespaces, so it may use any address and any path, and ends with the first
# process of these namespaces. Each node also has its own network and mount namespace with its own /run and /var/lib, so that
# its engines are at the usual paths.
#
#   10.99.0.1      the control plane, the cluster's DNS, and servers of the tests
#   10.99.0.1N     node N; its pods are in 10.244.N.0/24
#   10.96.0.0/16   Services
#
# $work contains all state; the logs are $work/*.log.

# shellcheck disable=SC2154  # work and PROGRAM are set by the sourcing script

HOST=10.99.0.1
# The nodes, which are created with make_node.
# shellcheck disable=SC2034  # for the steps
NODES=(1 2)
# The address of the cluster's DNS.
DNS=${DNS:-$HOST}
PKI="$work/pki"
# The process of each server by its name.
declare -gA servers=()
CLUSTER_DOMAIN=cluster.local
PAUSE=jackal.test/pause:1

node_address() { echo "10.99.0.1$1"; } # NODE

# Starts COMMAND with its output in NAME.log; ready_when of servers.sh watches it.
server() { # NAME COMMAND...
  local name=$1 dir="$work"
  shift
  spawn "$name.log" "$@"
  servers[$name]=$!
}

# Ends a server at once.
end_server() { # NAME
  local pid=${servers[$1]} other others=()
  for other in "${spawned[@]}"; do
    if [ "$other" != "$pid" ]; then others+=("$other"); fi
  done
  spawned=("${others[@]}")
  # The shell would report the end of a job.
  disown "$pid"
  kill -KILL "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
  unset "servers[$1]"
}

await() { # WHAT COMMAND...
  local dir="$work/$1"
  shift
  ready_when "$@"
}

# Runs COMMAND in the namespaces of a node.
on_node() { # NODE COMMAND...
  local pid
  pid="$(cat "$work/node$1/holder")"
  shift
  nsenter --target "$pid" --net --mount -- "$@"
}

host_network() {
  ip link set lo up
  ip link add jk0 type bridge
  ip addr add "$HOST/24" dev jk0
  ip link set jk0 up
  sysctl -qw net.ipv4.ip_forward=1
}

cluster_certificates() {
  local node
  # Additional names of the API server that servers.sh does not have.
  certificates "$PKI" "IP:$HOST" DNS:kubernetes DNS:kubernetes.default
  (
    cd "$PKI" || exit
    umask 077
    for node in controller-manager scheduler proxy; do
      certificate "$node" "/CN=system:kube-$node" extendedKeyUsage=clientAuth
    done
    for node in admin controller-manager scheduler proxy; do kubeconfig "$PKI" "https://$HOST:6443" "$node" >"$node.kubeconfig"; done
    # One more than there are, for a step that adds a node.
    for node in node1 node2 node3; do
      certificate "$node" "/O=system:nodes/CN=system:node:$node" extendedKeyUsage=clientAuth
      kubeconfig "$PKI" "https://$HOST:6443" "$node" >"$node.kubeconfig"
    done
  ) >"$work/certificates.log" 2>&1
}

control_plane() {
  local flags
  server etcd "$(part etcd)" --data-dir "$work/etcd" --unsafe-no-fsync --log-level warn
  start_control_plane_apiserver
  flags=(--leader-elect=false --authentication-kubeconfig "$PKI/admin.kubeconfig" --authorization-kubeconfig "$PKI/admin.kubeconfig")
  server kube-controller-manager "$(part kube-controller-manager)" --kubeconfig "$PKI/controller-manager.kubeconfig" \
    --service-account-private-key-file "$PKI/service-account.key" --root-ca-file "$PKI/ca.crt" \
    --use-service-account-credentials "${flags[@]}"
  server kube-scheduler "$(part kube-scheduler)" --kubeconfig "$PKI/scheduler.kubeconfig" "${flags[@]}"
}

start_control_plane_apiserver() {
  server kube-apiserver "$(part kube-apiserver)" --etcd-servers http://127.0.0.1:2379 \
    --bind-address 0.0.0.0 --advertise-address "$HOST" --secure-port 6443 --service-cluster-ip-range 10.96.0.0/16 \
    --tls-cert-file "$PKI/server.crt" --tls-private-key-file "$PKI/server.key" --client-ca-file "$PKI/ca.crt" \
    --service-account-key-file "$PKI/service-account.pub" \
    --service-account-signing-key-file "$PKI/service-account.key" \
    --service-account-issuer https://kubernetes.default.svc \
    --kubelet-client-certificate "$PKI/admin.crt" --kubelet-client-key "$PKI/admin.key" \
    --kubelet-preferred-address-types InternalIP --authorization-mode Node,RBAC --allow-privileged
  await kube-apiserver ask --cacert "$PKI/ca.crt" --cert "$PKI/admin.crt" --key "$PKI/admin.key" \
    "https://$HOST:6443/readyz"
}

# The cluster's DNS as a process of the host.
dns_of_host() {
  cat >"$work/Corefile" <<END
.:53 {
  bind $HOST
  errors
  ready $HOST:8181
  kubernetes $CLUSTER_DOMAIN in-addr.arpa {
    kubeconfig $PKI/admin.kubeconfig
  }
}
END
  server coredns "$(part coredns)" -conf "$work/Corefile"
  await coredns ask "http://$HOST:8181/ready"
}

# Sets up the mount namespace of a node. Runs inside it and sleeps until the cluster ends.
hold_node() { # FOLDER
  local name
  mount --make-rshared /
  for name in run lib/docker lib/containerd lib/kubelet lib/cni; do mkdir -p "$1/$name"; done
  mount --bind "$1/run" /run
  mkdir -p /var/lib/docker /var/lib/containerd /var/lib/kubelet /var/lib/cni
  for name in docker containerd kubelet cni; do mount --bind "$1/lib/$name" "/var/lib/$name"; done
  ip link set lo up
  # This file signals that the namespace can be entered.
  echo "$$" >"$1/holder.new"
  mv "$1/holder.new" "$1/holder"
  exec sleep infinity
}

# Creates a node's namespaces, network and cgroups.
make_node() { # NODE
  local n=$1 dir="$work/node$1" address controller group
  address="$(node_address "$n")"
  mkdir -p "$dir"
  server "node$n" unshare --net --mount --propagation private "$PROGRAM" hold-node "$dir"
  await "node$n" test -s "$dir/holder"
  ip link add "jkn$n" type veth peer name eth0 netns "$(cat "$dir/holder")"
  ip link set "jkn$n" master jk0 up
  on_node "$n" ip addr add "$address/24" dev eth0
  on_node "$n" ip link set eth0 up
  on_node "$n" ip route add default via "$HOST"
  on_node "$n" sysctl -qw net.ipv4.ip_forward=1
  ip route add "10.244.$n.0/24" via "$address"
  # With cgroups version 1 there is one group for each controller, and a new cpuset group is empty.
  for controller in /sys/fs/cgroup/*/; do
    group="$controller$CGROUP/node$n"
    mkdir -p "$group"
    if [ -e "$controller/cpuset.cpus" ]; then
      for group in "$controller$CGROUP" "$group"; do
        cat "$controller/cpuset.cpus" >"$group/cpuset.cpus"
        cat "$controller/cpuset.mems" >"$group/cpuset.mems"
      done
    fi
  done
}

containerd_config() { # NODE FOLDER
  mkdir -p "$2/cni"
  cat >"$2/cni/10-jackal.conflist" <<END
{"cniVersion": "0.4.0", "name": "jackal", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.$1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
END
  # A process without CAP_SYS_RESOURCE may not lower its OOM score.
  cat >"$2/containerd.toml" <<END
version = 3
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["$(dirname "$(part cni)")"]
    conf_dir = "$2/cni"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "$PAUSE"
END
}

kubelet_config() { # NODE FOLDER
  cat >"$2/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $(node_address "$1")
authentication: {anonymous: {enabled: false}, x509: {clientCAFile: $PKI/ca.crt}, webhook: {enabled: true}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP/node$1
clusterDNS: [$DNS]
clusterDomain: $CLUSTER_DOMAIN
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
evictionHard: {memory.available: 1%, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 100
oomScoreAdj: 0
registerNode: true
resolvConf: ""
END
}

# Starts COMMAND as a server in the namespaces of a node. PATH contains only the folder of containerd and the system's.
node_server() { # NAME NODE COMMAND...
  local name=$1 n=$2
  shift 2
  server "$name$n" nsenter --target "$(cat "$work/node$n/holder")" --net --mount -- \
    env PATH="$(dirname "$(part containerd)"):/usr/sbin:/usr/bin:/sbin:/bin" "$@"
}

# The engines have the paths that distributions use.
start_node_containerd() { # NODE
  local n=$1 dir="$work/node$1"
  containerd_config "$n" "$dir"
  node_server containerd "$n" containerd --config "$dir/containerd.toml"
  await "containerd$n" node_ctr "$n" version
}

start_node_docker() { # NODE
  local n=$1 dir="$work/node$1"
  echo '{"features": {"containerd-snapshotter": false}, "storage-driver": "overlay2"}' >"$dir/daemon.json"
  node_server dockerd "$n" "$(part dockerd)" --config-file "$dir/daemon.json" --bridge none --iptables=false --ip6tables=false
  await "dockerd$n" node_docker "$n" version
}

node_ctr() { # NODE ARGUMENT...
  local n=$1
  shift
  on_node "$n" timeout 60 "$(part ctr)" --namespace k8s.io "$@"
}

node_docker() { # NODE ARGUMENT...
  local n=$1
  shift
  on_node "$n" env DOCKER_HOST=unix:///run/docker.sock timeout 120 "$(part docker)" "$@"
}

start_kubelet() { # NODE
  local n=$1 dir="$work/node$1"
  kubelet_config "$n" "$dir"
  node_server kubelet "$n" "$(part kubelet)" --config "$dir/kubelet.yaml" --kubeconfig "$PKI/node$n.kubeconfig" \
    --hostname-override "node$n" --node-ip "$(node_address "$n")"
}

start_kube_proxy() { # NODE MODE
  node_server kube-proxy "$1" "$(part kube-proxy)" --kubeconfig "$PKI/proxy.kubeconfig" --hostname-override "node$1" \
    --proxy-mode "$2" --cluster-cidr 10.244.0.0/16 --conntrack-max-per-core 0 --oom-score-adj 0
}

# Removes the control groups, innermost first, and returns whether all are removed. Processes of a group may need a moment to
# end.
remove_cgroups() { # GROUP
  local folder left=''
  for folder in /sys/fs/cgroup/*/"$1"; do
    [ -d "$folder" ] || continue
    find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || left=yes
  done
  [ -z "$left" ]
}
