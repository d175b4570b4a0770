# shellcheck shell=bash
# `bootstrap` without faults: what it makes, its repetition, upgrade, and removal. Sourced by scripts/e2e-bootstrap, never
# executed.

# shellcheck disable=SC2154  # set by scripts/e2e-bootstrap

# Prints everything in the cluster that a user can list, without objects that are renewed all the time.
objects() {
  local kinds
  kinds="$(kubectl api-resources --verbs list -o name 2>/dev/null |
    grep -vE '^(events|leases|endpoints$|endpointslices|componentstatuses|.*\.metrics\.k8s\.io)' | paste -sd ,)"
  kubectl get "$kinds" --all-namespaces -o json --ignore-not-found |
    jq -r '.items[] | select(.metadata.name != "kube-root-ca.crt" or .metadata.namespace == "default") |
      "\(.kind) \(.metadata.namespace // "") \(.metadata.name) \(if .kind == "Node" then .metadata.labels, .spec.taints else "" end)"' | sort -u
}

# Fails if the cluster has not exactly the objects of before the first bootstrap.
as_before() {
  objects >"$work/objects.now"
  diff "$work/objects.before" "$work/objects.now" >"$work/objects.diff"
}

# Runs a command of the program, prints its time, and fails if it fails. Its output is in bootstrap.log.
bootstrap() { # ARGUMENT...
  local started code=0
  started="$(now_ms)"
  jackal-operator bootstrap "$@" >"$work/bootstrap.log" 2>&1 </dev/null || code=$?
  took=$(($(now_ms) - started))
  note "bootstrap ${*##*/}: $(seconds "$took") s, exit code $code"
  if [ "$code" -ne 0 ]; then
    cat "$work/bootstrap.log" >&2
    fail "bootstrap $*: exit code $code"
  fi
}

# Removes everything, and compares with what was there before.
undo() {
  bootstrap --undo --yes --delete-data
  as_before || { cat "$work/objects.diff" >&2 && fail 'undo left something behind, or removed too much'; }
  forget_images
}

# Removes what the nodes have pulled or imported, so that the next bootstrap finds only the first images again.
forget_images() {
  local n names
  for n in "${NODES[@]}"; do
    node_ctr "$n" images list 2>/dev/null >"$work/images"
    # An image has several names; those of the first images are below jackal.test.
    names="$(awk 'NR == FNR { if (index($1, "jackal.test/") == 1) first[$3] = 1; next } FNR > 1 && !($3 in first) { print $1 }' \
      "$work/images" "$work/images")"
    # Names have no blanks.
    # shellcheck disable=SC2086
    if [ -n "$names" ]; then node_ctr "$n" images rm $names >/dev/null 2>&1; fi
  done
}

# What the cluster runs, without what differs between two installations.
installed() {
  kubectl -n "$SYSTEM" get deployments,daemonsets,statefulsets,services,configmaps,secrets,serviceaccounts,persistentvolumeclaims -o json |
    jq -r '.items[] | "\(.kind) \(.metadata.name) \(.metadata.labels // {}) \([.spec.template.spec // {} | .initContainers[]?, .containers[]? | .image])"' | sort
}

# Fails if the cluster runs something else than after the first bootstrap.
same_result() {
  installed >"$work/installed.now"
  if [ -e "$work/installed.first" ]; then
    diff "$work/installed.first" "$work/installed.now" >&2 || fail 'the result differs from that of a bootstrap without a fault'
  else
    mv "$work/installed.now" "$work/installed.first"
  fi
}

image_of_operator() { kubectl -n "$SYSTEM" get deployment "$RELEASE" -o jsonpath='{.spec.template.spec.containers[0].image}'; }

all_ready() {
  local kind
  for kind in deployment daemonset statefulset; do
    kubectl -n "$SYSTEM" get "$kind" -o name | while read -r name; do
      kubectl -n "$SYSTEM" rollout status "$name" --timeout "${TIMEOUT}s" >/dev/null
    done
  done
}

# Runs a pod of the packed image on each node. The kubelet asks the registry each time.
packed_pods() { # NAME
  local n said
  if ! kubectl get namespace team >/dev/null 2>&1; then
    kubectl create namespace team >/dev/null
    until_true 60 'no service account' kubectl -n team get serviceaccount default
  fi
  # As described in docs/install.md for namespaces whose pods pull.
  if kubectl -n "$SYSTEM" get secret "$RELEASE-registry-pull" >/dev/null 2>&1; then
    kubectl -n "$SYSTEM" get secret "$RELEASE-registry-pull" -o json |
      jq '{apiVersion, kind, type, data, metadata: {name: "registry", namespace: "team"}}' | kubectl apply -f - >/dev/null
    kubectl -n team patch serviceaccount default -p '{"imagePullSecrets": [{"name": "registry"}]}' >/dev/null
  fi
  for n in "${NODES[@]}"; do
    said="$(NAMESPACE=team in_pod "$1-$n" "node$n" "$ADDRESS/$HELLO_REPOSITORY:1" Always)"
    [ "$said" = 'hello from a packed image' ] || fail "the pod on node$n printed: $said"
  done
  note "a pod on each node: $said"
}

remove_team() { kubectl delete namespace team --ignore-not-found --timeout "${TIMEOUT}s" >/dev/null; }

# --- The steps ------------------------------------------------------------------------------------------

seed_step() {
  local size
  step 'preflight, and bootstrap with the seed: pods run from a packed image'
  jackal-operator preflight "$work/site.tar.zst" >"$work/preflight.log" 2>&1 || fail "preflight: $(cat "$work/preflight.log")"
  sed -n '/^ok/!s/^/   /p' "$work/preflight.log"
  size="$(etcd_size)"
  bootstrap "$work/site.tar.zst"
  sed 's/^/   /' "$work/bootstrap.log"
  note "etcd has grown by $((($(etcd_size) - size) / 1024)) KiB"
  all_ready
  if kubectl get namespace jackal-seed >/dev/null 2>&1; then fail 'the seed is still there'; fi
  same_result
  packed_pods seed
}

etcd_size() { kubectl get --raw /metrics | awk '/^apiserver_storage_size_bytes/ { printf "%d\n", $2 }'; }

repeat_step() {
  local first=$took
  step 'Repeat: nothing changes'
  generations >"$work/generations.before"
  bootstrap "$work/site.tar.zst"
  [ "$((took * 5))" -lt "$first" ] || fail "a repeat took $(seconds "$took") s, the first run $(seconds "$first") s"
  generations >"$work/generations.after"
  diff "$work/generations.before" "$work/generations.after" >&2 || fail 'a repeat has changed objects'
}

generations() {
  kubectl -n "$SYSTEM" get deployments,daemonsets,statefulsets,pods,services,configmaps,secrets -o json |
    jq -r '.items[] | "\(.kind) \(.metadata.name) \(.metadata.uid) \(.metadata.generation) \(if .kind == "Pod" then "" else .metadata.resourceVersion end)"' |
    grep -v '^Lease' | sort
}

registry_pod() { # JSONPATH
  kubectl -n "$SYSTEM" get pods -l app.kubernetes.io/component=registry -o jsonpath="{.items[0]$1}"
}

move_step() {
  local from to
  step 'The registry moves to the other node, where nothing serves its image, and pods pull from it'
  from="$(registry_pod .spec.nodeName)"
  kubectl cordon "$from" >/dev/null
  kubectl -n "$SYSTEM" delete pod "$(registry_pod .metadata.name)" --timeout "${TIMEOUT}s" >/dev/null
  until_true "$TIMEOUT" 'there is no pod of the registry' registry_pod .metadata.name
  all_ready
  to="$(registry_pod .spec.nodeName)"
  kubectl uncordon "$from" >/dev/null
  [ "$from" != "$to" ] || fail "the registry is still on $from"
  note "from $from to $to"
  packed_pods moved
}

upgrade_step() {
  local before after
  step 'Upgrade by the file of another version'
  before="$(image_of_operator)"
  bootstrap "$work/next.tar.zst"
  all_ready
  after="$(image_of_operator)"
  note "$before -> $after"
  [ "$before" != "$after" ] || fail 'the operator was not upgraded'
  packed_pods upgraded
}

rollback_step() {
  local before after
  step 'Rollback by the former file'
  before="$(image_of_operator)"
  bootstrap "$work/site.tar.zst" --downgrade
  all_ready
  after="$(image_of_operator)"
  note "$before -> $after"
  [ "$before" != "$after" ] || fail 'the operator was not changed back'
  packed_pods back
}

undo_step() {
  step 'Undo: nothing is left'
  remove_team
  undo
}

import_step() {
  step 'bootstrap --import, by which no kubelet pulls; then undo'
  bootstrap "$work/site.tar.zst" --import
  all_ready
  if kubectl -n "$SYSTEM" get events --field-selector reason=Pulling -o name | grep .; then fail 'a kubelet has pulled'; fi
  for n in "${NODES[@]}"; do
    node_ctr "$n" images list 2>/dev/null | grep pinned=pinned | grep -F "$ADDRESS/" | awk '{ print "   " $1 }'
  done
  packed_pods imported
  remove_team
  undo
}

nftables_step() {
  step 'bootstrap with nftables: a proxy on each node; then undo'
  proxy_mode nftables
  bootstrap "$work/site.tar.zst"
  all_ready
  kubectl -n "$SYSTEM" get daemonsets -o name | sed 's/^/   /'
  packed_pods nftables
  remove_team
  undo
  proxy_mode iptables
}

ephemeral_step() {
  step 'No storage class: refused; with --ephemeral-storage, a repeat fills a registry that has lost its content'
  kubectl delete storageclass shared >/dev/null
  objects >"$work/objects.before"
  refused '^failure +storage-class ' "$work/site.tar.zst"
  bootstrap "$work/site.tar.zst" --ephemeral-storage
  all_ready
  kubectl -n "$SYSTEM" delete pod "$(registry_pod .metadata.name)" --timeout "${TIMEOUT}s" >/dev/null
  until_true "$TIMEOUT" 'there is no pod of the registry' registry_pod .metadata.name
  all_ready
  bootstrap "$work/site.tar.zst" --ephemeral-storage
  packed_pods ephemeral
  remove_team
  undo
  storage_class
  objects >"$work/objects.before"
}
