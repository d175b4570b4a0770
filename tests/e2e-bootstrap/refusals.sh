# shellcheck shell=bash
# Clusters and archives in which `bootstrap` cannot work. Sourced by scripts/e2e-bootstrap, never executed.

# shellcheck disable=SC2154  # set by scripts/e2e-bootstrap

# Runs bootstrap, which must fail with a message that matches PATTERN, and undoes it.
refused() { # PATTERN ARGUMENT...
  local pattern=$1 code=0 started
  shift
  started="$(now_ms)"
  jackal-operator bootstrap "$@" >"$work/bootstrap.log" 2>&1 </dev/null || code=$?
  note "after $(seconds $(($(now_ms) - started))) s, exit code $code: $(tail -n 1 "$work/bootstrap.log")"
  [ "$code" -ne 0 ] || fail "bootstrap $* succeeded"
  grep -qiE -e "$pattern" "$work/bootstrap.log" || { cat "$work/bootstrap.log" >&2 && fail "no message matches: $pattern"; }
  undo
}

# A node whose disk has only some megabytes.
small_node() {
  local name
  make_node 3
  on_node 3 mount -t tmpfs -o size=128M tmpfs /var/lib/containerd
  on_node 3 mount -t tmpfs -o size=64M tmpfs /var/lib/kubelet
  start_node_containerd 3
  for name in pause coredns; do node_ctr 3 images import --local "$work/$name.tar" >/dev/null 2>&1; done
  start_kubelet 3
  start_kube_proxy 3 iptables
  until_true 60 'the node does not exist' kubectl get node node3
  kubectl wait --for condition=Ready node node3 --timeout 90s >/dev/null
  kubectl -n kube-system rollout status daemonset/coredns --timeout "${TIMEOUT}s" >/dev/null
}

disk_step() {
  step 'Too little disk on one node'
  small_node
  objects >"$work/objects.before"
  refused 'node3.*(disk|space)' "$work/site.tar.zst"
  kubectl delete node node3 >/dev/null
  kubectl delete pods --all-namespaces --field-selector spec.nodeName=node3 --grace-period 0 --force >/dev/null 2>&1
  end_server kubelet3
  end_server kube-proxy3
  end_server containerd3
  until_true "$TIMEOUT" 'pods of node3 remain' no_pods_of node3
  objects >"$work/objects.before"
}

no_pods_of() { [ -z "$(kubectl get pods --all-namespaces --field-selector "spec.nodeName=$1" -o name)" ]; }

permissions_step() {
  step 'A user that may only read'
  kubectl create clusterrolebinding reader --clusterrole view --user reader >/dev/null
  (cd "$PKI" && certificate reader /CN=reader extendedKeyUsage=clientAuth) 2>"$work/certificates.log"
  kubeconfig "$PKI" "https://$HOST:6443" reader >"$work/reader.kubeconfig"
  objects >"$work/objects.before"
  refused 'permission|may not|forbidden' "$work/site.tar.zst" --kubeconfig "$work/reader.kubeconfig"
  kubectl delete clusterrolebinding reader >/dev/null
  objects >"$work/objects.before"
}

admission_step() {
  step 'A policy that refuses pods in the network of the node'
  kubectl apply -f "$ROOT/tests/e2e-bootstrap/no-host-network.yaml" >/dev/null
  objects >"$work/objects.before"
  # The API server needs a moment to compile it.
  until_true 60 'the policy does not apply' policy_applies
  refused 'the network of the node is not allowed' "$work/site.tar.zst"
  kubectl delete -f "$ROOT/tests/e2e-bootstrap/no-host-network.yaml" >/dev/null
  objects >"$work/objects.before"
}

policy_applies() {
  ! kubectl run probe --image none --dry-run=server --overrides '{"spec": {"hostNetwork": true}}' 2>/dev/null
}

seed_image_step() {
  step 'A seed image that no node has'
  objects >"$work/objects.before"
  refused 'jackal.test/missing:1' "$work/site.tar.zst" --seed-image jackal.test/missing:1
}

operator_image_step() {
  step "An archive without the operator's image"
  objects >"$work/objects.before"
  refused "operator" "$work/without-operator.tar.zst"
}

other_cluster_step() {
  local server="https://$HOST:7443" pid
  step 'Another cluster at the repetition'
  # Its namespaces have other UIDs; nothing else of it is needed.
  server other-etcd "$(part etcd)" --data-dir "$work/other-etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:12379 --advertise-client-urls http://127.0.0.1:12379 \
    --listen-peer-urls http://127.0.0.1:12380 --initial-advertise-peer-urls http://127.0.0.1:12380 \
    --initial-cluster default=http://127.0.0.1:12380
  server other-apiserver "$(part kube-apiserver)" --etcd-servers http://127.0.0.1:12379 \
    --bind-address "$HOST" --secure-port 7443 --service-cluster-ip-range 10.96.0.0/16 \
    --tls-cert-file "$PKI/server.crt" --tls-private-key-file "$PKI/server.key" --client-ca-file "$PKI/ca.crt" \
    --service-account-key-file "$PKI/service-account.pub" --service-account-signing-key-file "$PKI/service-account.key" \
    --service-account-issuer https://kubernetes.default.svc --authorization-mode RBAC
  await other-apiserver ask --cacert "$PKI/ca.crt" --cert "$PKI/admin.crt" --key "$PKI/admin.key" "$server/readyz"
  kubeconfig "$PKI" "$server" admin >"$work/other.kubeconfig"
  objects >"$work/objects.before"
  jackal-operator bootstrap "$work/site.tar.zst" >"$work/bootstrap.log" 2>&1 </dev/null &
  pid=$!
  until_true "$TIMEOUT" 'no seeds' seed_runs
  kill -KILL "$pid"
  wait "$pid" 2>/dev/null || true
  refused "another cluster, https://$HOST:6443" "$work/site.tar.zst" --kubeconfig "$work/other.kubeconfig"
  end_server other-apiserver
  end_server other-etcd
}
