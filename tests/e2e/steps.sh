# shellcheck shell=bash
# The steps of the test in a real cluster. Sourced by scripts/e2e, never executed.

# shellcheck disable=SC2154  # set by scripts/e2e

BUSYBOX=jackal.test/busybox:1
RELEASE=jackal
SYSTEM=jackal-system
TENANT=shop
CHART="$ROOT/charts/jackal-operator"
SOURCE=10.99.0.1:5000
# The maximum duration in seconds of an action on a slow machine.
TIMEOUT=180

all_steps() {
  cluster_step
  pods_step
  images_step
  install_step
  package_step
  pull_step
  upgrade_step
  ambiguous_step
  delete_step
  uninstall_step
}

cluster_step() {
  local n
  step 'Start a cluster: control plane, DNS, two nodes with engines'
  host_network
  cluster_certificates
  control_plane
  dns_of_host
  for n in "${NODES[@]}"; do
    make_node "$n"
    start_node_containerd "$n"
    start_node_docker "$n"
  done
  step 'Make images for the nodes: pause, busybox'
  pause_image
  busybox_folder "$work/busybox"
  containerd_image "$BUSYBOX" "$work/busybox" '{"Entrypoint": ["/bin/sh", "-c"], "Env": ["PATH=/bin"]}'
  step 'Wait until both nodes are Ready'
  for n in "${NODES[@]}"; do
    start_kubelet "$n"
    start_kube_proxy "$n" iptables
  done
  until_true 60 'the nodes do not exist' kubectl get node node1 node2
  kubectl wait --for condition=Ready node --all --timeout 90s
}

pods_step() {
  local n said
  step 'Run a pod on each node: DNS, the API server by its Service'
  until_true 60 'no service account' kubectl get serviceaccount default
  for n in "${NODES[@]}"; do
    said="$(in_pod "hello$n" "node$n" "$BUSYBOX" Never 'nslookup kubernetes.default.svc.cluster.local; echo hello from; cat /etc/hostname')"
    note "$(tail -n 1 <<<"$said"): $(grep -A 1 -F "Name:" <<<"$said" | paste -sd " ")"
    grep -qF 10.96.0.1 <<<"$said" || fail "a pod on node$n cannot resolve the name of the API server's Service"
  done
}

# --- The images for the operator ------------------------------------------------------------------------

# Makes an image that prints WORDS, in the docker engine of a node.
printing_image() { # NODE NAME WORDS
  printing_folder "$work/printing" "$3"
  docker_image "$1" "$2" "$work/printing" 'CMD ["cat", "/words"]' 'ENV PATH=/bin'
  rm -r "$work/printing"
}

images_step() {
  local config
  step 'Make images: the chart'"'"'s in containerd, one in an external registry, one only in docker of node2'
  load "$image"
  config="$(registry_folder "$work/registry")"
  containerd_image "$(helm show values "$CHART" | sed -n 's|^    image: *\(docker.io/library/registry:.*\)$|\1|p')" \
    "$work/registry" "$config"
  source_registry "$SOURCE"
  printing_folder "$work/web" 'the web, from a registry'
  image_archive "$work/web.tar" "$SOURCE/team/web:1" "$work/web" "$PRINTING"
  crane push --insecure "$work/web.tar" "$SOURCE/team/web:1" >/dev/null 2>&1
  rm -r "$work/web" "$work/web.tar"
  printing_image 2 team/worker:dev 'the worker, from docker on node2'
}

# --- The steps ------------------------------------------------------------------------------------------

helm_operator() { # install | upgrade, FLAG...
  local verb=$1
  shift
  helm "$verb" "$RELEASE" "$CHART" --namespace "$SYSTEM" --values "$ROOT/tests/e2e/values.yaml" \
    --set "image.repository=${image_name%:*},image.tag=${image_name##*:},settings.insecureRegistries={$SOURCE}" \
    --wait --timeout "${TIMEOUT}s" "$@" >"$work/helm.log"
}

install_step() {
  step 'helm install, with a registry inside the cluster and agents; helm test'
  image_name="$(tar -xOf "$image" manifest.json | jq -r '.[0].RepoTags[0]')"
  helm_operator install --create-namespace
  kubectl -n "$SYSTEM" get pods -o wide --no-headers | awk '{ print "   " $1, $2, $3, $7 }'
  helm test "$RELEASE" --namespace "$SYSTEM" --timeout "${TIMEOUT}s" >"$work/helm-test.log"
  # As described in docs/install.md for namespaces whose pods pull.
  kubectl create namespace "$TENANT" >/dev/null
  until_true 60 'no service account' kubectl -n "$TENANT" get serviceaccount default
  kubectl -n "$SYSTEM" get secret "$RELEASE-registry-pull" -o json |
    jq --arg namespace "$TENANT" '{apiVersion, kind, type, data, metadata: {name: "registry", namespace: $namespace}}' |
    kubectl apply -f - >/dev/null
  kubectl -n "$TENANT" patch serviceaccount default -p '{"imagePullSecrets": [{"name": "registry"}]}' >/dev/null
}

ready() { kubectl -n "$TENANT" wait --for condition=Ready "$1" --timeout "${TIMEOUT}s" >/dev/null; }

package_step() {
  step 'Apply a JackalPackage with an image from a registry and one from docker, until it is Ready'
  kubectl -n "$TENANT" apply -f "$ROOT/tests/e2e/package.yaml" >/dev/null
  ready jkpkg/shop
  kubectl -n "$TENANT" get jkimg -o json |
    jq -r '.items[] | "\(.spec.image) by \(.status.method) from \(.status.assignment.nodeName // "a registry"): \(.status.name)"' |
    sed 's/^/   /'
  # With the syft in the image, as a non-root user, with a read-only root filesystem.
  kubectl -n "$TENANT" wait --for condition=SBOMsComplete jkpkg/shop --timeout "${TIMEOUT}s" >/dev/null
  note "$(kubectl -n "$TENANT" get jkpkg shop -o json | jq -r '.status.conditions[] | select(.type == "SBOMsComplete") | .message')"
  # The chart mounts the engine's folder, so an export is not necessary.
  [ "$(of_image team/worker:dev .status.method)" = DockerGraph ] ||
    fail "the docker image was read by $(of_image team/worker:dev .status.method): $(of_image team/worker:dev .status.methodMessage)"
}

# Prints the result of JQ for the JackalImage of IMAGE.
of_image() { # IMAGE JQ
  kubectl -n "$TENANT" get jkimg -o json | jq -r --arg image "$1" ".items[] | select(.spec.image == \$image) | $2"
}

pull_step() {
  local n name said
  step 'Run pods with the names in the cluster: both nodes pull from 127.0.0.1:31999'
  for n in "${NODES[@]}"; do
    name="$(of_image "$SOURCE/team/web:1" .status.name)"
    said="$(NAMESPACE=$TENANT in_pod "web$n" "node$n" "$name")"
    note "node$n: $said"
    [ "$said" = 'the web, from a registry' ] || fail "the pod with $name on node$n printed: $said"
    name="$(of_image team/worker:dev .status.name)"
    said="$(NAMESPACE=$TENANT in_pod "worker$n" "node$n" "$name")"
    note "node$n: $said"
    [ "$said" = 'the worker, from docker on node2' ] || fail "the pod with $name on node$n printed: $said"
  done
}

# Whether the transfer of jkimg/large is in progress.
in_transfer() {
  kubectl -n "$TENANT" get jkimg large -o json |
    jq -e '.status.progress | .doneBytes > 0 and .doneBytes < .totalBytes' >/dev/null
}

upgrade_step() {
  local folder="$work/large" before
  step 'helm upgrade during the transfer of a large image from node2'
  busybox_folder "$folder"
  head -c 200M /dev/urandom >"$folder/noise"
  docker_image 2 team/large:dev "$folder" 'CMD ["ls", "-l", "/noise"]' 'ENV PATH=/bin'
  # Slows the transfer down until all pods are replaced.
  on_node 2 tc qdisc add dev eth0 root tbf rate 40mbit burst 256kb latency 100ms
  kubectl -n "$TENANT" apply -f "$ROOT/tests/e2e/large.yaml" >/dev/null
  until_true "$TIMEOUT" 'the transfer of the large image has not started' in_transfer
  before="$(operator_pods)"
  note "at $(kubectl -n "$TENANT" get jkimg large -o json | jq -c .status.progress)"
  helm_operator upgrade --set controller.podAnnotations.round=second,agent.podAnnotations.round=second
  # helm does not wait for the last agent.
  until_true "$TIMEOUT" 'not every pod is replaced' all_new "$before"
  kubectl -n "$SYSTEM" rollout status daemonset/"$RELEASE-agent" --timeout "${TIMEOUT}s" >/dev/null
  on_node 2 tc qdisc del dev eth0 root
  ready jkimg/large
  ready jkpkg/shop
  note "Ready by $(kubectl -n "$TENANT" get jkimg large -o json | jq -r .status.method)"
  NAMESPACE=$TENANT in_pod large node1 "$(kubectl -n "$TENANT" get jkimg large -o json | jq -r .status.name)" | sed 's/^/   /'
}

all_new() { ! comm -12 <(printf '%s\n' "$1") <(operator_pods) | grep .; } # PREVIOUS UIDS

# The UIDs of the controller's and agents' pods, sorted.
operator_pods() {
  kubectl -n "$SYSTEM" get pods -l 'app.kubernetes.io/component in (controller, agent)' \
    -o jsonpath='{range .items[*]}{.metadata.uid}{"\n"}{end}' | sort
}

ambiguous() { [ "$(of_image team/worker:dev '.status.conditions[] | select(.type == "Ready") | .reason')" = AmbiguousSource ]; }

ambiguous_step() {
  local name said
  step 'Another image under the same name on node1: AmbiguousSource until nodeName is set'
  printing_image 1 team/worker:dev 'the worker, from docker on node1'
  until_true "$TIMEOUT" 'not AmbiguousSource' ambiguous
  note "$(of_image team/worker:dev '.status.conditions[] | select(.type == "Ready") | .message')"
  kubectl -n "$TENANT" patch jkpkg shop --type json \
    -p '[{"op": "add", "path": "/spec/components/1/images/0/nodeName", "value": "node1"}]' >/dev/null
  until_true "$TIMEOUT" 'the change of the package is not reconciled' observed
  ready jkpkg/shop
  name="$(of_image team/worker:dev .status.name)"
  said="$(NAMESPACE=$TENANT in_pod decided node1 "$name" Always)"
  note "$said"
  [ "$said" = 'the worker, from docker on node1' ] || fail "the pod with $name printed: $said"
}

observed() { kubectl -n "$TENANT" get jkpkg shop -o json | jq -e '.status.observedGeneration == .metadata.generation'; }

delete_step() {
  step 'Delete the package and the image'
  kubectl -n "$TENANT" delete jkpkg/shop jkimg/large --timeout "${TIMEOUT}s" >/dev/null
  until_true 60 'images are not deleted' no_images
}

no_images() { [ -z "$(kubectl get jkpkg,jkimg --all-namespaces --no-headers 2>/dev/null)" ]; }

uninstall_step() {
  step 'helm uninstall: everything is removed'
  helm uninstall "$RELEASE" --namespace "$SYSTEM" --wait --timeout "${TIMEOUT}s" >/dev/null
  # Owned objects are deleted after their owner.
  until_true 60 'objects are not removed' nothing_left
  kubectl delete namespace "$SYSTEM" "$TENANT" --timeout "${TIMEOUT}s" >/dev/null
}

nothing_left() {
  local left
  left="$(leftovers)"
  [ -z "$left" ] || { say "not removed: $left" && return 1; }
}

# Prints all remaining objects of the release, by their labels, and the objects that the operator creates.
leftovers() {
  local kinds
  # Deprecated kinds are also listed under their new name.
  kinds="$(kubectl api-resources --verbs list -o name 2>/dev/null | grep -vE '^(events|endpoints$|componentstatuses)' | paste -sd ,)"
  kubectl get "$kinds" --all-namespaces -l "app.kubernetes.io/instance=$RELEASE" -o name --ignore-not-found
  kubectl get crd -o name | grep -F jackal || true
  kubectl -n "$SYSTEM" get secrets,configmaps,pods,leases -o name | grep -vF kube-root-ca.crt || true
}
