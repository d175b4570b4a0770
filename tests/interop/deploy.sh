# shellcheck shell=bash
# Zarf deploys our package. The cluster is a real API server without nodes. Nothing runs there, so the objects that Zarf requires
# are created (a node, a pod with the status Running, the state of `zarf init`), and its registry is outside the cluster.
# Sourced by scripts/interop, never executed.

# shellcheck disable=SC2154  # set by scripts/interop and the files that it sources before

deploy_steps() {
  check 'a cluster as zarf wants to see it' initialised_cluster
  check 'zarf package deploy: a package of ours, its images into the registry of the cluster' zarf_deploys
  check 'zarf package list, inspect: it is recorded as deployed' zarf_records
  check 'zarf package remove: it goes again' zarf_removes
}

kubectl() { limited "$KUBECTL" "$@"; }

initialised_cluster() {
  kubectl apply --filename - <<'END_OF_OBJECTS'
apiVersion: v1
kind: Node
metadata: {name: node-1}
---
apiVersion: v1
kind: Namespace
metadata: {name: zarf}
---
apiVersion: v1
kind: Pod
metadata: {name: something, namespace: default}
spec: {nodeName: node-1, containers: [{name: it, image: nothing}]}
END_OF_OBJECTS
  kubectl patch node node-1 --subresource status --patch '{"status": {"nodeInfo": {"architecture": "amd64", "operatingSystem": "linux", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "osImage": "", "systemUUID": ""}}}'
  kubectl patch pod something --subresource status --patch '{"status": {"phase": "Running"}}'
  jq -n --arg address "$OLD/cluster" '{registryInfo: {address: $address, pushUsername: "someone", pushPassword: "something",
    pullUsername: "someone", pullPassword: "something", registryMode: "external"}, distro: "test", storageClass: ""}' >state
  kubectl --namespace zarf create secret generic zarf-state --from-file state
}

zarf_deploys() {
  zarf package deploy "oci://$DEST/interop:1.0.0" --components '*' --confirm
  check_images "$OLD/cluster" zarf
  same 'the manifest in the cluster' 'a page' "$(kubectl --namespace interop get configmap page --output jsonpath='{.data.text}')"
  same 'the chart in the cluster' 'good day' "$(kubectl --namespace interop get configmap hello --output jsonpath='{.data.greeting}')"
  same 'the file that was written in the package' 'a note' "$(cat written/note.txt)"
  same 'the file that was fetched' "$PLAIN_LAYER" "$(sha256 written/layer)"
  test -x written/layer
  note 'a manifest, a chart with its values, two files'
}

zarf_records() {
  zarf package list >deployed
  grep -qF interop deployed || fail "not in the list: $(cat deployed)"
  zarf package inspect definition interop >definition.yaml
  grep -qx 'kind: ZarfPackageConfig' definition.yaml
  same 'the digest of what was deployed' "$ZARF_DIGEST" "$(zarf package inspect digest interop)"
  note "$(grep -F interop deployed | tr -s ' |│' ' ')"
}

zarf_removes() {
  zarf package remove interop --components '*' --confirm
  zarf package list >deployed
  ! grep -qF interop deployed || fail "still in the list: $(cat deployed)"
  refused NotFound kubectl --namespace interop get configmap page hello
}
