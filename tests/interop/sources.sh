# shellcheck shell=bash
# We copy unchanged what crane, regctl, oras and skopeo pushed. Most of these are the images of ground.sh: build copies them in the
# first step of every run, and clients.sh compares digests. Sourced by scripts/interop, never executed.

# shellcheck disable=SC2154  # set by scripts/interop and the files that it sources before

sources_steps() {
  check 'again: nothing is sent, nothing is written' again_unchanged
  check 'skopeo: images that it pushed, of one platform and of several' takes_skopeo
  check 'crane: a layout that it pushed, and a copy by digest' takes_crane
  check 'regctl: an image that it changed, and an index of one platform that it made' takes_regctl
  check 'oras: a chart as Helm stores it' takes_chart
  check 'platforms: one chosen out of an index, the same digest each time' takes_platform
}

# Builds a package of one IMAGE in the older registry, and compares the digests.
takes() { # NAME IMAGE WITHOUT HOST
  one_image "$1" "$OLD/$2" >package.yaml
  build package.yaml "$DEST" >report.json
  same "the digest of $2" "$(digest_of "$OLD/$2")" "$(jq -r '.images[0].digest' report.json)"
  same "the digest of $2 in the registry" "$(digest_of "$OLD/$2")" "$(digest_of "$DEST/$2")"
}

one_image() { # NAME IMAGE [MORE OF THE IMAGE]
  cat <<END_OF_PACKAGE
apiVersion: jackal.dev/v1alpha1
kind: JackalPackage
metadata: {name: $1}
spec:
  version: 1.0.0
  naming: Zarf
  components: [{name: all, required: true, images: [{image: "$2"${3:+, $3}}]}]
END_OF_PACKAGE
}

again_unchanged() {
  local naming
  for naming in zarf jackal; do
    build "$WORK/$naming.yaml" "$DEST" >report.json
    same 'what was sent' '0 false' "$(jq -r '"\(.movedBytes) \(.changed)"' report.json)"
    same 'the digest' "$(jq -r .digest "$WORK/$naming.json")" "$(jq -r .digest report.json)"
  done
}

takes_skopeo() {
  skopeo copy "docker://$SOURCE/app/docker:1" "docker://$OLD/skopeo/one:1"
  takes from-skopeo-one skopeo/one:1
  skopeo copy --all --format oci "docker://$SOURCE/app/list:1" "docker://$OLD/skopeo/oci:1"
  takes from-skopeo-oci skopeo/oci:1
  note "$(jq -r '.images[0] | "\(.method), \(.movedBlobs) blobs"' report.json)"
}

takes_crane() {
  crane pull --format oci "$SOURCE/app/oci:1" layout
  crane push layout "$OLD/crane/layout:1"
  takes from-crane-layout crane/layout:1
  crane copy "$SOURCE/app/multi@$(digest_of "$SOURCE/app/multi:1")" "$OLD/crane/copy:1"
  takes from-crane-copy "crane/copy@$(digest_of "$OLD/crane/copy:1")"
}

takes_regctl() {
  regctl image copy "$SOURCE/app/docker:1" "$OLD/regctl/image:1"
  regctl image mod "$OLD/regctl/image:1" --create "$OLD/regctl/image:oci" --to-oci --label changed=yes
  takes from-regctl-mod regctl/image:oci
  regctl index create "$OLD/regctl/index:1" --ref "$OLD/regctl/image:oci" --annotation by=regctl
  takes from-regctl-index regctl/index:1
}

takes_chart() {
  mkdir hello
  printf 'apiVersion: v2\nname: hello\nversion: 1.0.0\n' >hello/Chart.yaml
  tar --format=gnu --mtime=@0 --owner=0 --group=0 --sort=name -czf hello-1.0.0.tgz hello
  echo '{"name":"hello","version":"1.0.0","apiVersion":"v2"}' >config.json
  oras push "$OLD/charts/hello:1.0.0" --config config.json:application/vnd.cncf.helm.config.v1+json \
    hello-1.0.0.tgz:application/vnd.cncf.helm.chart.content.v1.tar+gzip
  takes from-oras-chart charts/hello:1.0.0
  oras pull "$DEST/charts/hello:1.0.0" --output pulled
  cmp hello-1.0.0.tgz pulled/hello-1.0.0.tgz
}

takes_platform() {
  local first second
  one_image from-platform "$SOURCE/app/multi:1" 'platforms: [linux/arm64]' >package.yaml
  first="$(build package.yaml "$DEST/narrow" | jq -r '.images[0].digest')"
  second="$(build package.yaml "$OLD/narrow" | jq -r '.images[0].digest')"
  same 'the digest in the other registry' "$first" "$second"
  same 'what the image says' 'multi arm64' "$(crane export --platform linux/arm64 "$DEST/narrow/app/multi:1" - | tar -xO hello)"
  crane validate --remote "$DEST/narrow/app/multi:1"
}
