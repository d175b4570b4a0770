# shellcheck shell=bash
# Other tools read package files that `serve` serves, and the conformance tests of the OCI distribution specification run against
# it. Sourced by scripts/interop, never executed.

# shellcheck disable=SC2154  # set by scripts/interop and the files that it sources before

serve_steps() {
  check 'serve: a package file as a registry' start_serving
  if [ ! -s "$WORK/served" ]; then return; fi
  SERVED="$(cat "$WORK/served")"
  check 'serve: every image has the digest of its source' served_images
  check 'serve: conformance tests of the distribution specification, pull and content discovery' served_conforms
  check 'serve: oras pull, regctl artifact get, skopeo copy, crane validate' served_clients
  kill "$(cat "$WORK/serving")"
}

start_serving() {
  local deadline=$((SECONDS + 30))
  ours pack "$DEST/interop:1.0.0" --insecure --output "$WORK/interop.tar.zst"
  # The server outlives this step.
  DOCKER_HOST=unix:///nowhere setsid "$BIN" serve "$WORK/interop.tar.zst" --listen 127.0.0.1:0 --output json \
    >"$WORK/serve.json" 2>"$WORK/serve.log" </dev/null &
  echo $! >"$WORK/serving"
  until jq -r '.address // empty' "$WORK/serve.json" 2>/dev/null | grep -q .; do
    kill -0 "$(cat "$WORK/serving")" || fail "it ended: $(cat "$WORK/serve.log")"
    [ "$SECONDS" -lt "$deadline" ] || fail 'it does not start'
    sleep 0.1
  done
  jq -r .address "$WORK/serve.json" >"$WORK/served"
  note "$(jq -r '"\(.images) images, \(.packages) package, \(.repositories | length) repositories"' "$WORK/serve.json")"
}

served_images() {
  local image count=0
  for image in "${WEB[@]}" "${MORE[@]}"; do
    case $image in *:*@*) image="${image%%:*}@${image#*@}" ;; esac
    same "the digest of $image" "$(digest_of "$SOURCE/$image")" "$(digest_of "$SERVED/$image")"
    count=$((count + 1))
  done
  same 'the digest of the package' "$(digest_of "$DEST/interop:1.0.0")" "$(digest_of "$SERVED/interop:1.0.0")"
  note "$count images"
}

served_conforms() {
  local index manifest blobs test
  index="$(digest_of "$SERVED/app/multi:1")"
  manifest="$(jq -r '.manifests[0].digest' "$WORK/manifest")"
  crane manifest "$SERVED/app/multi@$manifest" >manifest.json
  blobs="$(jq -r '[.config.digest, .layers[].digest] | join(" ")' manifest.json)"
  # The digest headers can be required only of content that the tests have pushed themselves; served_images compares digests.
  OCI_REGISTRY="$SERVED" OCI_TLS=disabled OCI_REPO1=app/multi OCI_VERSION=1.1 \
    OCI_API_PUSH=false OCI_API_BLOBS_DELETE=false OCI_API_MANIFESTS_DELETE=false OCI_API_TAGS_DELETE=false \
    OCI_RO_DATA_TAGS=1 OCI_RO_DATA_MANIFESTS="$index $manifest" OCI_RO_DATA_BLOBS="$blobs" OCI_RO_DATA_REFERRERS="$index" \
    limited "$(part conformance)" >results.txt 2>&1 || true
  # It prints the results, and then ends with a panic when it writes a report of a test without pushes.
  if grep -E '^ .*: +(FAIL|Error)$' results.txt; then fail "$(cat results.txt)"; fi
  for test in 'Blob get' 'Manifest get by digest' 'Manifest get by tag' 'Manifest head by digest' 'Manifest head by tag' \
    'Tag listing' Referrers 'Read Only Inputs'; do
    grep -qE "^  $test\.*: +Pass$" results.txt || fail "$test did not pass: $(cat results.txt)"
  done
  note "$(grep -cE ': +Pass$' results.txt) of $(grep -cE ': +(Pass|FAIL|Error|Skip|Unknown)$' results.txt) tests passed"
}

served_clients() {
  oras pull "$SERVED/interop@$ZARF_DIGEST" --output package
  check_package package zarf.yaml
  limited "$REGCTL" --host "reg=$SERVED,tls=disabled" artifact get "$SERVED/interop@$ZARF_DIGEST" --file zarf.yaml >definition.yaml
  grep -qF "kind: 'ZarfPackageConfig'" definition.yaml
  crane validate --remote "$SERVED/app/multi:1"
  skopeo copy --all --preserve-digests "docker://$SERVED/app/multi:1" oci:multi:1
  same 'the digest in the layout' "$(digest_of "$SOURCE/app/multi:1")" "$(jq -r '.manifests[0].digest' multi/index.json)"
}
