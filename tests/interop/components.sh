# shellcheck shell=bash
# Manifests, charts and files: Zarf makes a package of a definition, and we convert and build the same definition. Zarf reads,
# renders and deploys both with the same result. Sourced by scripts/interop, never executed.

# shellcheck disable=SC2154  # set by scripts/interop and the files that it sources before

components_steps() {
  COMPONENTS="oci://$DEST/components:1.0.0"
  check 'a definition with manifests, charts, values and files, for both' make_definition
  check 'convert, build: nothing is left out' builds_components
  check 'zarf package create of the same: one tar of the component, to its last byte of content' same_components
  check 'zarf package inspect definition, values-files, manifests: as of its own package' zarf_reads_components
  check 'zarf package deploy: files onto this machine' zarf_writes_files
  # The group deploy may have created it.
  kubectl get node node-1 >/dev/null 2>&1 || check 'a cluster as zarf wants to see it' initialised_cluster
  check 'zarf package deploy, remove: charts and manifests in a cluster' zarf_installs_components
}

helm() { limited "$HELM" "$@"; }

# Makes a chart in the folder NAME of the step and pushes it to the source.
push_chart() { # NAME
  mkdir -p "$1/templates"
  printf 'apiVersion: v2\nname: %s\nversion: 1.2.3\n' "$1" >"$1/Chart.yaml"
  printf 'replicas: 1\nwords: none\n' >"$1/values.yaml"
  # shellcheck disable=SC1083  # Helm's braces, not bash's
  printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {replicas: "%s", words: "%s"}\n' \
    '{{ .Release.Name }}' '{{ .Values.replicas }}' '{{ .Values.words }}' >"$1/templates/map.yaml"
  helm package "$1"
  helm push "$1-1.2.3.tgz" "oci://$SOURCE/charts" --plain-http
}

# Writes the definition into $WORK/components, makes Zarf's package of it and unpacks the package.
make_definition() {
  local folder="$WORK/components" tool
  mkdir -p "$folder/etc" "$WORK/deployed"
  push_chart front
  push_chart back
  # A blob in a registry has a URL, so it is a file on a server.
  head -c 200000 /dev/zero | openssl enc -aes-128-ctr -pass pass:tool -nosalt -pbkdf2 >tool
  oras push "$SOURCE/files/tool:1" tool:application/octet-stream
  tool="$(sha256 tool)"
  printf 'hello\n' >"$folder/etc/conf"
  printf 'replicas: 2\n' >"$folder/one.yaml"
  printf 'words: "yes"\nreplicas: 3\n' >"$folder/two.yaml"
  printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own}\ndata: {a: b}\n' >"$folder/own.yaml"
  cat >"$folder/zarf.yaml" <<END_OF_DEFINITION
kind: ZarfPackageConfig
metadata: {name: components, version: 1.0.0, architecture: amd64}
components:
  - name: cluster
    manifests:
      - {name: own, namespace: default, files: [own.yaml]}
    charts:
      - {name: front, version: 1.2.3, namespace: default, url: 'oci://$SOURCE/charts/front', valuesFiles: [one.yaml]}
      - {name: back, version: 1.2.3, namespace: default, releaseName: rear, url: 'oci://$SOURCE/charts/back', valuesFiles: [two.yaml]}
  - name: machine
    files:
      - {source: 'http://$SOURCE/v2/files/tool/blobs/sha256:$tool', shasum: $tool, target: '$WORK/deployed/bin/tool', executable: true}
      - {source: etc/conf, target: '$WORK/deployed/the conf'}
END_OF_DEFINITION
}

builds_components() {
  ours convert "$WORK/components/zarf.yaml" >"$WORK/components.yaml"
  build "$WORK/components.yaml" "$DEST" >report.json
  jq -e '(.charts | length) == 2 and has("missingImages") == false' report.json
  same 'a repeat' false "$(build "$WORK/components.yaml" "$DEST" | jq -r .changed)"
  note "$(jq -r .digest report.json)"
}

# Unpacks the tars of PACKAGE's components into the folder FOLDER, and lists their files.
unpacked() { # PACKAGE FOLDER
  local name
  mkdir -p "$2"
  for name in cluster machine; do
    tar -C "$2" -xf "$1/components/$name.tar"
    tar -tvf "$1/components/$name.tar" | grep -v '^d' >"$2.$name.list"
  done
}

same_components() {
  zarf package create "$WORK/components" --confirm --skip-sbom --output created
  mkdir theirs
  tar --zstd -C theirs -xf created/zarf-package-components-amd64-*.tar.zst
  pulled "$COMPONENTS"
  check_package package zarf.yaml
  unpacked theirs a
  unpacked package b
  # Values are reformatted: they are compared by the rendered result.
  diff -r --exclude values a b
  diff <(sed 's/ *[0-9]* 1970/ 1970/' a.cluster.list) <(sed 's/ *[0-9]* 1970/ 1970/' b.cluster.list)
  diff a.machine.list b.machine.list
  cp created/zarf-package-components-amd64-*.tar.zst "$WORK/theirs.tar.zst"
  note "$(cat b.cluster.list b.machine.list | wc -l) files, with the same names, permissions and content"
}

# Zarf's description of a package, without the names of its temporary files.
said() { # WHAT PACKAGE
  zarf package inspect "$1" "$2" --components '*' 2>/dev/null | sed '/^# Source: .*zarf-[0-9]*/d'
}

zarf_reads_components() {
  local what
  for what in values-files manifests; do
    said "$what" "$WORK/theirs.tar.zst" >"theirs.$what"
    said "$what" "$COMPONENTS" >"ours.$what"
    diff "theirs.$what" "ours.$what"
    [ -s "ours.$what" ] || fail "$what: the output is empty"
  done
  grep -qF 'words: "yes"' ours.manifests
  zarf package inspect definition "$COMPONENTS" >definition.yaml
  grep -qx '    releaseName: rear' definition.yaml
}

zarf_writes_files() {
  zarf package deploy "$COMPONENTS" --components machine --confirm
  same 'the text' hello "$(cat "$WORK/deployed/the conf")"
  [ -x "$WORK/deployed/bin/tool" ] || fail 'the tool is not executable'
  grep -qF "$(sha256 "$WORK/deployed/bin/tool")" "$WORK/components/zarf.yaml" || fail 'the tool has another checksum'
}

zarf_installs_components() {
  zarf package deploy "$COMPONENTS" --components cluster --confirm
  same 'the chart' 2 "$(kubectl get configmap front --output 'jsonpath={.data.replicas}')"
  same 'the chart of another name' yes "$(kubectl get configmap rear --output 'jsonpath={.data.words}')"
  same 'the manifest' b "$(kubectl get configmap own --output 'jsonpath={.data.a}')"
  zarf package remove "$COMPONENTS" --components cluster --confirm
  ! kubectl get configmap front 2>/dev/null || fail 'the chart still exists'
}
