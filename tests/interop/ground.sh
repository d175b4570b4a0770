# shellcheck shell=bash
# The setup of every group of scripts/interop: three registries, images that other tools made and pushed, and our packages of
# them. Sourced, never executed.

# shellcheck disable=SC2154  # set by scripts/interop, lib.sh and scripts/stack

# The images of the packages, without their host; the differences are described where they are made.
WEB=(app/oci:1 app/docker:1 app/multi:1)
# make_ground adds two more: one by digest only, one by tag and digest.
MORE=(app/list:1 app/attested:1 app/zstd:1 app/plain:1 app/twin:1 app/artifact:1)

make_ground() {
  # The folders of servers are removed with the stack.
  "$HERE/stack" start registry31 source
  SOURCE="$(sed -n 's/^JACKAL_REGISTRY31=//p' "$JACKAL_STACK/source/env")"
  DEST="${JACKAL_REGISTRY31:?no registry runs; run this by scripts/interop}"
  OLD="${JACKAL_REGISTRY28:?no registry runs; run this by scripts/interop}"
  printf '# ground: images in distribution 3.1 at %s; packages in 3.1 at %s and in 2.8 at %s\n' "$SOURCE" "$DEST" "$OLD"
  check 'crane, regctl and oras push images of ten kinds' make_images
  check 'helm pushes a chart' make_chart
  [ "${#failed[@]}" -eq 0 ] || fail 'the images are missing, so no group can run'
  MORE+=("app/pinned@$(digest_of "$SOURCE/app/pinned:1")" "app/both:1@$(digest_of "$SOURCE/app/both:1")")
  PLAIN_LAYER="$(crane manifest "$SOURCE/app/plain:1" | jq -r '.layers[0].digest | ltrimstr("sha256:")')"
  write_package "$WORK/zarf.yaml" interop Zarf amd64
  write_package "$WORK/jackal.yaml" interop-jackal Jackal amd64
  check 'build makes the package for Zarf of them, and for Jackal' build_packages
  [ "${#failed[@]}" -eq 0 ] || fail 'the packages are missing, so no group can run'
  ZARF_DIGEST="$(jq -r .digest "$WORK/zarf.json")" JACKAL_DIGEST="$(jq -r .digest "$WORK/jackal.json")"
}

# Makes a tar with the file `hello` with WORDS, compressible lines, and random bytes.
layer() { # FILE WORDS
  local folder
  folder="$(mktemp -d "$WORK/layer.XXXXXX")"
  printf '%s\n' "$2" >"$folder/hello"
  seq -f "$2 %.0f" 10000 >"$folder/lines"
  head -c 300000 /dev/zero | openssl enc -aes-128-ctr -pass "pass:$2" -nosalt -pbkdf2 >"$folder/noise"
  tar --format=gnu --mtime=@0 --owner=0 --group=0 --numeric-owner --sort=name -C "$folder" -cf "$1" hello lines noise
  rm -r "$folder"
}

# Makes and pushes an image with one layer by crane, with Docker's media types or, with the flag, OCI's.
crane_image() { # NAME PLATFORM WORDS [--oci-empty-base]
  layer "$WORK/layer.tar" "$3"
  crane append --new_layer "$WORK/layer.tar" --new_tag "$SOURCE/$1" "${@:4}"
  crane mutate "$SOURCE/$1" --set-platform "$2" --cmd /hello --tag "$SOURCE/$1"
}

make_images() {
  local arch manifest digest size
  crane_image app/oci:1 linux/amd64 oci --oci-empty-base
  crane_image app/docker:1 linux/amd64 docker
  crane_image app/pinned:1 linux/amd64 pinned --oci-empty-base
  crane_image app/both:1 linux/amd64 both
  crane copy "$SOURCE/app/oci:1" "$SOURCE/app/twin:1"
  for arch in amd64 arm64; do
    crane_image "app/multi:$arch" "linux/$arch" "multi $arch" --oci-empty-base
    crane_image "app/list:$arch" "linux/$arch" "list $arch"
  done
  # Indexes of both kinds, by regctl.
  regctl index create "$SOURCE/app/multi:1" --ref "$SOURCE/app/multi:amd64" --ref "$SOURCE/app/multi:arm64"
  regctl index create "$SOURCE/app/list:1" --media-type application/vnd.docker.distribution.manifest.list.v2+json \
    --ref "$SOURCE/app/list:amd64" --ref "$SOURCE/app/list:arm64"
  # A zstd layer, by regctl.
  regctl image mod "$SOURCE/app/oci:1" --create "$SOURCE/app/zstd:1" --layer-compress zstd
  # An image with an uncompressed layer, put together and pushed by oras, whose layers have titles.
  layer plain.tar plain
  jq -n --arg id "sha256:$(sha256 plain.tar)" \
    '{architecture: "amd64", os: "linux", config: {}, rootfs: {type: "layers", diff_ids: [$id]}}' >config.json
  oras push "$SOURCE/app/plain:1" --config config.json:application/vnd.oci.image.config.v1+json \
    plain.tar:application/vnd.oci.image.layer.v1.tar
  # An artifact that is not an image: its config is empty.
  echo 'a page' >page.md
  oras push "$SOURCE/app/artifact:1" --artifact-type application/vnd.example.page page.md:text/markdown
  # An index as BuildKit pushes it: it lists an attestation beside the image.
  crane_image app/attested:amd64 linux/amd64 attested --oci-empty-base
  echo '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://slsa.dev/provenance/v0.2","subject":[],"predicate":{}}' >statement.json
  jq -n --arg id "sha256:$(sha256 statement.json)" \
    '{architecture: "unknown", os: "unknown", config: {}, rootfs: {type: "layers", diff_ids: [$id]}}' >config.json
  oras push "$SOURCE/app/attested:statement" --disable-path-validation --config config.json:application/vnd.oci.image.config.v1+json \
    statement.json:application/vnd.in-toto+json
  manifest="$(digest_of "$SOURCE/app/attested:statement")"
  size="$(stat -c %s "$WORK/manifest")"
  digest="$(digest_of "$SOURCE/app/attested:amd64")"
  jq -n --arg image "$digest" --argjson bytes "$(stat -c %s "$WORK/manifest")" --arg statement "$manifest" --argjson size "$size" '{
    schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [
      {mediaType: "application/vnd.oci.image.manifest.v1+json", digest: $image, size: $bytes,
        platform: {architecture: "amd64", os: "linux"}},
      {mediaType: "application/vnd.oci.image.manifest.v1+json", digest: $statement, size: $size,
        platform: {architecture: "unknown", os: "unknown"},
        annotations: {"vnd.docker.reference.digest": $image, "vnd.docker.reference.type": "attestation-manifest"}}]}' >index.json
  oras manifest push --media-type application/vnd.oci.image.index.v1+json "$SOURCE/app/attested:1" index.json
}

# A chart with one ConfigMap that contains values.
make_chart() {
  mkdir -p hello/templates
  printf 'apiVersion: v2\nname: hello\nversion: 1.0.0\n' >hello/Chart.yaml
  printf 'greeting: none\n' >hello/values.yaml
  printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: hello}\ndata: {greeting: "{{ .Values.greeting }}"}\n' >hello/templates/hello.yaml
  limited "$HELM" package hello
  limited "$HELM" push --plain-http hello-1.0.0.tgz "oci://$SOURCE/charts"
}

# A package with two components with all images, and one with everything else.
write_package() { # FILE NAME NAMING ARCHITECTURE
  local image
  {
    cat <<END_OF_PACKAGE
apiVersion: jackal.dev/v1alpha1
kind: JackalPackage
metadata: {name: $2}
spec:
  version: 1.0.0
  naming: $3
  architecture: $4
  description: 'Tools read this: "quoted", and more'
  components:
    - name: web
      required: true
      images:
END_OF_PACKAGE
    for image in "${WEB[@]}"; do echo "        - {image: \"$SOURCE/$image\"}"; done
    echo '    - name: more'
    echo '      description: All that is not usual'
    echo '      images:'
    for image in "${MORE[@]}"; do echo "        - {image: \"$SOURCE/$image\"}"; done
    # The fetched file is a layer: the registry serves it by its digest.
    cat <<END_OF_PACKAGE
    - name: app
      manifests:
        - name: page
          namespace: interop
          inline: |
            apiVersion: v1
            kind: ConfigMap
            metadata: {name: page}
            data: {text: "a page"}
      charts:
        - {name: hello, version: 1.0.0, namespace: interop, url: "oci://$SOURCE/charts/hello", values: {greeting: "good day"}}
      files:
        - {target: written/note.txt, inline: "a note"}
        - {target: written/layer, url: "http://$SOURCE/v2/app/plain/blobs/sha256:$PLAIN_LAYER", sha256: $PLAIN_LAYER, executable: true}
END_OF_PACKAGE
  } >"$1"
}

build_packages() {
  local naming other
  for naming in zarf jackal; do
    build "$WORK/$naming.yaml" "$DEST" >"$WORK/$naming.json"
    jq -e '.changed and (.failures | length == 0)' "$WORK/$naming.json"
    # The same for the older registry and for a layout: the bytes are equal everywhere.
    other="$(build "$WORK/$naming.yaml" "$OLD" | jq -r .digest)"
    same 'the digest in distribution 2.8' "$(jq -r .digest "$WORK/$naming.json")" "$other"
    other="$(build "$WORK/$naming.yaml" "oci:$WORK/layout" | jq -r .digest)"
    same 'the digest in a layout' "$(jq -r .digest "$WORK/$naming.json")" "$other"
    note "$naming: $(jq -r '"\(.images | length) images, manifest \(.digest)"' "$WORK/$naming.json")"
  done
}

# Prints the packages' images, one per line: the listed name, then the digest in the source.
listed_images() {
  local image
  for image in "${WEB[@]}" "${MORE[@]}"; do printf '%s %s\n' "$SOURCE/$image" "$(digest_of "$SOURCE/$image")"; done
}

# The names of an image in a registry, according to Zarf and docs/reference.md: a tag with a checksum of the name and a plain
# one, or the digest.
names_in() { # REGISTRY IMAGE WITHOUT HOST [zarf|jackal]
  local path=$2
  case $path in
    *@*) printf '%s\n' "$1/${path%%[:@]*}@${path#*@}" ;;
    *) printf '%s\n' "$1/$path-${3:-zarf}-$(crc32 "$SOURCE/${path%:*}")" "$1/$path" ;;
  esac
}

# The IEEE CRC-32 in decimal: gzip writes it before the length, with the lowest byte first.
crc32() { # WORDS
  printf '%s' "$1" | gzip --no-name | tail -c 8 | head -c 4 | od --address-radix=n --format=u4 --endian=little | tr -d ' '
}

# Checks that every image of the packages is in REGISTRY, under every name, with the digest of the source.
check_images() { # REGISTRY NAMING...
  local image digest name naming names=()
  for image in "${WEB[@]}" "${MORE[@]}"; do
    digest="$(digest_of "$SOURCE/$image")"
    for naming in "${@:2}"; do
      while read -r name; do
        same "$name" "$digest" "$(digest_of "$name")"
        names+=("$name")
      done < <(names_in "$1" "$image" "$naming")
    done
  done
  note "$(printf '%s\n' "${names[@]}" | sort -u | wc -l) names of ${#WEB[@]} + ${#MORE[@]} images"
}
