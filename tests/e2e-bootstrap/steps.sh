# shellcheck shell=bash
# The steps of the test of `bootstrap` in a real cluster. Sourced by scripts/e2e-bootstrap, never executed.

# shellcheck disable=SC2154  # set by scripts/e2e-bootstrap

SYSTEM=jackal-system
RELEASE=jackal-operator
CHART="$ROOT/charts/jackal-operator"
ADDRESS=127.0.0.1:31999
COREDNS_IMAGE=jackal.test/coredns:1
# The maximum duration in seconds of an action on a slow machine.
TIMEOUT=180

# --import is first: a kubelet that has pulled an image with a Secret, of which the next installation has another one, asks for it
# again although it was imported.
CI=(import_step seed_step repeat_step move_step upgrade_step rollback_step undo_step nftables_step)
ALL=(chart_step chart_nftables_step "${CI[@]}" killed_step seed_pod_step apiserver_step node_step connection_step
  ephemeral_step disk_step permissions_step admission_step seed_image_step operator_image_step other_cluster_step)

run_steps() { # ci | all | STEP...
  local name names=("$@")
  case $* in
    ci) names=("${CI[@]}") ;;
    all) names=("${ALL[@]}") ;;
  esac
  host_network
  archive_step
  cluster_step
  objects >"$work/objects.before"
  for name in "${names[@]}"; do "$name"; done
}

# --- The cluster ----------------------------------------------------------------------------------------

cluster_step() {
  local n
  step 'Start a cluster: control plane, two nodes with containerd, only the images pause and CoreDNS'
  cluster_certificates
  control_plane
  for n in "${NODES[@]}"; do
    make_node "$n"
    start_node_containerd "$n"
  done
  pause_image
  mkdir -p "$work/coredns"
  install -m 755 "$(part coredns)" "$work/coredns/coredns"
  containerd_image "$COREDNS_IMAGE" "$work/coredns" '{"Entrypoint": ["/coredns"]}'
  for n in "${NODES[@]}"; do
    start_kubelet "$n"
    start_kube_proxy "$n" iptables
  done
  until_true 60 'the nodes do not exist' kubectl get node "${NODES[@]/#/node}"
  kubectl apply -f "$ROOT/tests/e2e-bootstrap/coredns.yaml" >/dev/null
  proxy_config iptables
  volumes
  storage_class
  kubectl wait --for condition=Ready node --all --timeout 90s >/dev/null
  kubectl -n kube-system rollout status daemonset/coredns --timeout "${TIMEOUT}s" >/dev/null
  for n in "${NODES[@]}"; do note "node$n: $(node_ctr "$n" images list --quiet 2>/dev/null | grep -v ^sha256: | paste -sd ' ')"; done
}

# Volumes of the default storage class, which both nodes reach.
volumes() {
  local n
  for n in $(seq 20); do
    mkdir -p "$work/volumes/$n"
    # The kubelet does not change the owner of such volumes.
    chmod 777 "$work/volumes/$n"
    jq -cn --arg name "volume$n" --arg path "$work/volumes/$n" '{
      apiVersion: "v1", kind: "PersistentVolume", metadata: {$name},
      spec: {storageClassName: "shared", capacity: {storage: "100Gi"}, accessModes: ["ReadWriteOnce", "ReadWriteMany"],
             persistentVolumeReclaimPolicy: "Retain", hostPath: {$path}}}'
  done | kubectl apply -f - >/dev/null
}

storage_class() {
  kubectl apply -f - >/dev/null <<'END'
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: shared
  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
provisioner: kubernetes.io/no-provisioner
END
}

# As kubeadm creates it: the mode is read from it.
proxy_config() { # MODE
  kubectl -n kube-system create configmap kube-proxy --dry-run=client -o json \
    --from-literal config.conf="$(printf 'apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: %s\n' "$1")" |
    kubectl apply -f - >/dev/null
}

# Restarts kube-proxy on all nodes in another mode, without rules of the former one.
proxy_mode() { # MODE
  local n
  proxy_config "$1"
  for n in "${NODES[@]}"; do
    end_server "kube-proxy$n"
    on_node "$n" "$(part kube-proxy)" --cleanup >"$work/cleanup.log" 2>&1 || fail "kube-proxy --cleanup: $(cat "$work/cleanup.log")"
    start_kube_proxy "$n" "$1"
  done
  for n in "${NODES[@]}"; do
    await "kube-proxy$n" on_node "$n" curl --silent --fail --noproxy '*' --max-time 2 http://127.0.0.1:10256/healthz
  done
}

# --- The chart in this cluster, without `bootstrap` ---------------------------------------------------------

# Shows that the cluster does what the other steps rely on: with images that an administrator imported on each node, the
# chart's registry serves pods on 127.0.0.1.
chart_step() {
  step 'The chart with images imported by hand: NodePort on 127.0.0.1 with iptables'
  load "$image"
  load "$work/registry.tar"
  chart install --create-namespace
  answers || fail "no answer on $ADDRESS"
}

chart_nftables_step() {
  step 'The same with nftables: no NodePort on 127.0.0.1, but the proxy of each node answers there'
  proxy_mode nftables
  if answers; then fail "a NodePort answers on $ADDRESS with nftables"; fi
  chart upgrade --set registry.expose=NodeProxy
  answers || fail "no proxy answers on $ADDRESS"
  proxy_mode iptables
  helm uninstall "$RELEASE" --namespace "$SYSTEM" --wait --timeout "${TIMEOUT}s" >/dev/null
  kubectl delete namespace "$SYSTEM" --timeout "${TIMEOUT}s" >/dev/null
  kubectl delete crd --all --timeout "${TIMEOUT}s" >/dev/null
  forget_images
}

chart() { # install | upgrade, FLAG...
  helm "$1" "$RELEASE" "$CHART" --namespace "$SYSTEM" --set controller.replicas=1 \
    --set registry.deploy.enabled=true,registry.deploy.image="$SOURCE/$REGISTRY_REPOSITORY:3" \
    --wait --timeout "${TIMEOUT}s" "${@:2}" >"$work/helm.log"
}

# Whether the registry answers at the loopback address of each node.
answers() {
  local n
  for n in "${NODES[@]}"; do
    on_node "$n" curl --silent --insecure --max-time 5 --output /dev/null "https://$ADDRESS/v2/" || return 1
  done
}
