# shellcheck shell=bash
# crane, regctl, oras and skopeo read our images, packages and layouts. Sourced by scripts/interop, never executed.

# shellcheck disable=SC2154  # set by scripts/interop and the files that it sources before

clients_steps() {
  check 'images: every name has the digest of the source, in distribution 3.1' check_images "$DEST" zarf jackal
  check 'images: every name has the digest of the source, in distribution 2.8' check_images "$OLD" zarf jackal
  check 'crane validate: manifests, configurations and layers of the images' crane_validates
  check 'crane pull, export: an image out of the registry, as a layout and as files' crane_pulls
  check 'crane manifest, ls: the packages' crane_reads_packages
  check 'skopeo inspect, copy: an image of several platforms, with its digests' skopeo_copies
  check 'regctl manifest, artifact get: one file of a package, and all of them' regctl_gets
  check 'regctl artifact tree: what belongs to a package' regctl_tree
  check 'regctl image copy: a package into another registry' regctl_copies
  check 'oras pull: a package for Zarf, whole by its own checksums' oras_pulls interop "$ZARF_DIGEST" zarf.yaml
  check 'oras pull: a package for Jackal, whole by its own checksums' oras_pulls interop-jackal "$JACKAL_DIGEST" jackal.yaml
  check "oras, skopeo, regctl: the images of a pulled package as a layout" images_as_layout
  check 'oras discover, cp -r: a package into another registry' oras_copies
  check 'oras, regctl, skopeo: our OCI layout' reads_layout
}

crane_validates() {
  local image count=0
  for image in "${WEB[@]}" "${MORE[@]}"; do
    # crane validates only images, and expects every layer to be a gzip tar.
    case $image in app/artifact:* | app/attested:* | app/zstd:* | app/plain:*) continue ;; esac
    case $image in *:*@*) image="${image%%:*}@${image#*@}" ;; esac
    crane validate --remote "$DEST/$image"
    count=$((count + 1))
  done
  note "$count images"
}

crane_pulls() {
  crane pull --format oci "$DEST/app/oci:1" layout
  same 'the digest in the layout' "$(digest_of "$SOURCE/app/oci:1")" "$(jq -r '.manifests[0].digest' layout/index.json)"
  # By the name with a checksum, which pods use.
  same 'what the image says' oci "$(crane export "$(names_in "$DEST" app/oci:1 | head -n 1)" - | tar -xO hello)"
  same 'what the other platform says' 'multi arm64' \
    "$(crane export --platform linux/arm64 "$DEST/app/multi:1" - | tar -xO hello)"
}

crane_reads_packages() {
  same 'the tags of the package' 1.0.0 "$(crane ls "$DEST/interop")"
  crane manifest "$DEST/interop:1.0.0" >index.json
  same 'the package in the index' "$ZARF_DIGEST multi amd64" \
    "$(jq -r '.manifests[] | "\(.digest) \(.platform.os) \(.platform.architecture)"' index.json)"
  crane manifest "$DEST/interop@$ZARF_DIGEST" >manifest.json
  same 'the digest of the manifest' "$ZARF_DIGEST" "sha256:$(sha256 manifest.json)"
  same 'the config' application/vnd.zarf.config.v1+json "$(jq -r .config.mediaType manifest.json)"
  same 'the types of the layers' application/vnd.zarf.layer.v1.blob "$(jq -r '[.layers[].mediaType] | unique | join(" ")' manifest.json)"
  crane manifest "$DEST/interop-jackal@$JACKAL_DIGEST" >manifest.json
  same 'the config' application/vnd.jackal.config.v1+json "$(jq -r .config.mediaType manifest.json)"
  note "$(jq -r '"\(.layers | length) layers, the first is \(.layers[0].annotations["org.opencontainers.image.title"])"' manifest.json)"
}

skopeo_copies() {
  local digest
  digest="$(digest_of "$SOURCE/app/multi:1")"
  same 'the digest' "$digest" "$(skopeo inspect --raw "docker://$DEST/app/multi:1" | sha256sum | sed 's/^/sha256:/; s/ .*//')"
  same 'the digest by itself' "$(digest_of "$SOURCE/app/docker:1")" "$(skopeo inspect --format '{{.Digest}}' "docker://$DEST/app/docker:1")"
  skopeo copy --all --preserve-digests "docker://$DEST/app/multi:1" oci:multi:1
  same 'the digest in the layout' "$digest" "$(jq -r '.manifests[0].digest' multi/index.json)"
  skopeo copy --all --preserve-digests oci:multi:1 "docker://$OLD/copies/multi:1"
  same 'the digest in the other registry' "$digest" "$(digest_of "$OLD/copies/multi:1")"
}

regctl_gets() {
  same 'the digest' "$(crane digest "$DEST/interop:1.0.0")" "$(regctl image digest "$DEST/interop:1.0.0")"
  # The index lists packages with an operating system that no machine has, so regctl needs the digest.
  regctl artifact get "$DEST/interop@$ZARF_DIGEST" --file zarf.yaml >definition.yaml
  grep -qF "kind: 'ZarfPackageConfig'" definition.yaml
  mkdir package
  regctl artifact get "$DEST/interop@$ZARF_DIGEST" --output package
  check_package package zarf.yaml
  regctl artifact get "$DEST/interop@$ZARF_DIGEST" --config >config.json
  same 'the name in the config' interop "$(jq -r .metadata.name config.json)"
  note "$(find package -type f | wc -l) files"
}

regctl_tree() {
  regctl artifact tree "$DEST/interop:1.0.0" >referrers
  grep -qF "$ZARF_DIGEST" referrers || fail "the package is not in it: $(cat referrers)"
  note "$(grep -c . referrers) lines, with the package's manifest"
}

regctl_copies() {
  regctl image copy --referrers --digest-tags "$DEST/interop:1.0.0" "$OLD/copies/interop:regctl"
  same 'the digest' "$(digest_of "$DEST/interop:1.0.0")" "$(digest_of "$OLD/copies/interop:regctl")"
}

oras_pulls() { # NAME DIGEST DEFINITION
  oras pull "$DEST/$1@$2" --output by-digest
  check_package by-digest "$3"
  # The same by the tag, with the platform in its index.
  oras pull "$DEST/$1:1.0.0" --platform multi/amd64 --output by-tag
  diff -r by-digest by-tag
  note "$(find by-digest -type f | wc -l) files, $(du -sb --apparent-size by-digest | cut -f 1) bytes"
}

images_as_layout() {
  local image digest reference count=0
  oras pull "$DEST/interop@$ZARF_DIGEST" --output package
  for image in "${WEB[@]}" "${MORE[@]}"; do
    digest="$(digest_of "$SOURCE/$image")"
    reference="$(jq -r --arg name "$SOURCE/$image" '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $name) | .digest' package/images/index.json)"
    same "the digest of $image in the layout" "$digest" "$reference"
    # Every blob exists: it is copied by its digest, because the names in a layout contain no host.
    oras cp --from-oci-layout "package/images@$digest" "$OLD/copies/layout:$count"
    same "the digest of $image by oras" "$digest" "$(digest_of "$OLD/copies/layout:$count")"
    count=$((count + 1))
  done
  regctl image copy "ocidir://package/images@$(digest_of "$SOURCE/app/multi:1")" "$OLD/copies/layout:regctl"
  same 'the digest by regctl' "$(digest_of "$SOURCE/app/multi:1")" "$(digest_of "$OLD/copies/layout:regctl")"
  skopeo copy --preserve-digests "oci:package/images:$SOURCE/app/oci:1" "docker://$OLD/copies/layout:skopeo"
  same 'the digest by skopeo' "$(digest_of "$SOURCE/app/oci:1")" "$(digest_of "$OLD/copies/layout:skopeo")"
}

oras_copies() {
  oras discover "$DEST/interop@$ZARF_DIGEST" --format json >referrers.json
  same 'the subject of the referrers' "$ZARF_DIGEST" "$(jq -r .digest referrers.json)"
  oras cp -r "$DEST/interop:1.0.0" "$OLD/copies/interop:oras"
  same 'the digest' "$(digest_of "$DEST/interop:1.0.0")" "$(digest_of "$OLD/copies/interop:oras")"
  oras pull "$OLD/copies/interop@$ZARF_DIGEST" --output package
  check_package package zarf.yaml
  note "referrers of the package: $(jq -c '[.referrers[]?.artifactType]' referrers.json)"
}

# `build --to oci:DIR` writes one layout with all images and packages, by their names without a host.
reads_layout() {
  local multi
  multi="$(digest_of "$SOURCE/app/multi:1")"
  skopeo copy --all --preserve-digests "oci:$WORK/layout:app/multi:1" "docker://$OLD/copies/ours:skopeo"
  same 'the digest by skopeo' "$multi" "$(digest_of "$OLD/copies/ours:skopeo")"
  # The command that build prints for a package.
  skopeo copy --all --preserve-digests "oci:$WORK/layout:interop:1.0.0" "docker://$OLD/copies/ours:package"
  same 'the digest of the package by skopeo' "$(digest_of "$DEST/interop:1.0.0")" "$(digest_of "$OLD/copies/ours:package")"
  # oras and regctl accept no name in a layout with a slash or a second colon, but every digest.
  oras cp --from-oci-layout "$WORK/layout@$multi" "$OLD/copies/ours:oras"
  same 'the digest by oras' "$multi" "$(digest_of "$OLD/copies/ours:oras")"
  regctl image copy "ocidir://$WORK/layout@$multi" "$OLD/copies/ours:regctl"
  same 'the digest by regctl' "$multi" "$(digest_of "$OLD/copies/ours:regctl")"
  limited "$ORAS" pull --no-tty --oci-layout "$WORK/layout@$(digest_of "$DEST/interop:1.0.0")" --platform multi/amd64 --output package
  check_package package zarf.yaml
}
