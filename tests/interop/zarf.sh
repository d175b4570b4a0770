# shellcheck shell=bash
# Zarf reads, checks, mirrors and publishes our packages, and we read its packages. Sourced by scripts/interop, never executed.

# shellcheck disable=SC2154  # set by scripts/interop and the files that it sources before

zarf_steps() {
  PACKAGE="oci://$DEST/interop:1.0.0"
  check 'zarf package inspect digest, definition: what we said' zarf_inspects
  check 'zarf package inspect images: every image by the name that it has there' zarf_lists_images
  check 'zarf package pull: a tarball, whole by its own checksums' zarf_pulls
  check 'pack: zarf reads, mirrors and publishes the file' zarf_reads_packed
  check 'pack of a definition: zarf reads and mirrors the file' zarf_reads_definition
  check 'pack --max-part-size: zarf reads and mirrors the parts' zarf_reads_parts
  check 'pack --have --zarf: zarf reads and mirrors a package without images that the site has' zarf_reads_differential
  check 'zarf package inspect manifests, values-files: what a component holds beside images' zarf_inspects_component
  check 'zarf package verify: an unsigned package' zarf_verifies
  check 'zarf package mirror-resources: images into a registry, where we put them and with our digests' zarf_mirrors
  check 'zarf package publish: a registry to another, by digest' zarf_publishes_copy
  check 'zarf package publish: a pulled tarball, and what it makes of our manifest' zarf_publishes_tarball
  check 'two architectures built at once under one tag: zarf -a gets each' zarf_architectures
  check 'zarf publishes into our index and we into its: no entry is lost' zarf_shares_index
  check 'zarf package create: of images that we brought, the same blobs as ours' zarf_creates
  check "load: zarf's own file, as zarf package publish brings it to a registry" loads_created
  check 'zarf mirrors its own package: we take the images from there' takes_mirrored
  check "zarf's published package as an image of ours: it arrives unchanged" takes_package
  check 'a package for Jackal is none for zarf' zarf_refuses_jackal
}

# Zarf contains yq.
field() { # FILE EXPRESSION
  limited "$ZARF" tools yq "$2" "$1"
}

zarf_inspects() {
  same 'the digest' "$ZARF_DIGEST" "$(zarf package inspect digest "$PACKAGE")"
  zarf package inspect definition "$PACKAGE" >definition.yaml
  cat definition.yaml
  same 'kind and name' 'ZarfPackageConfig interop' "$(field definition.yaml '.kind + " " + .metadata.name')"
  same 'the description' 'Tools read this: "quoted", and more' "$(field definition.yaml .metadata.description)"
  same 'the components' 'web true, more false, app false' "$(field definition.yaml '[.components[] | .name + " " + (.required // false | tostring)] | join(", ")')"
  note "$(grep -c . definition.yaml) lines"
}

zarf_lists_images() {
  same 'the images' "$(listed_images | cut -d ' ' -f 1 | LC_ALL=C sort)" \
    "$(zarf package inspect images "$PACKAGE" | sed -n 's/^- //p' | LC_ALL=C sort)"
}

# Pulls a package and unpacks the tarball into the folder `package`.
pulled() { # SOURCE FLAG...
  mkdir -p "$WORK/step/out" package
  zarf package pull "$@" --output-directory "$WORK/step/out"
  tar --zstd -C package -xf "$WORK"/step/out/zarf-package-*.tar.zst
}

zarf_pulls() {
  pulled "$PACKAGE"
  check_package package zarf.yaml
  # The same files as in the registry.
  oras pull "$DEST/interop@$ZARF_DIGEST" --output registry
  diff -r registry package
  note "$(basename out/*.tar.zst)"
}

zarf_reads_packed() {
  local file=zarf-package-interop-amd64-1.0.0.tar.zst
  ours pack "$DEST/interop:1.0.0" --insecure --output "$file"
  zarf package inspect definition "$file" >definition.yaml
  same 'kind and name' 'ZarfPackageConfig interop' "$(field definition.yaml '.kind + " " + .metadata.name')"
  zarf package mirror-resources "$file" --components '*' --images --confirm --registry-url "$OLD/packed" \
    --registry-push-username someone --registry-push-password something
  check_images "$OLD/packed" zarf
  mkdir package
  tar --zstd -C package -xf "$file"
  check_package package zarf.yaml
  oras pull "$DEST/interop@$ZARF_DIGEST" --output registry
  diff -r registry package
}

# A file that is made of a definition, and one with two packages, of which zarf reads the first.
zarf_reads_definition() {
  local file=zarf-package-made-amd64-1.0.0.tar.zst
  write_package made.yaml made Zarf amd64
  ours pack made.yaml --insecure-registry "$SOURCE" --output "$file"
  zarf package inspect definition "$file" >definition.yaml
  same 'kind and name' 'ZarfPackageConfig made' "$(field definition.yaml '.kind + " " + .metadata.name')"
  zarf package mirror-resources "$file" --components '*' --images --confirm --registry-url "$OLD/made" \
    --registry-push-username someone --registry-push-password something
  check_images "$OLD/made" zarf
  mkdir package
  tar --zstd -C package -xf "$file"
  check_package package zarf.yaml
  ours pack "$DEST/interop:1.0.0" "$DEST/interop-jackal:1.0.0" --insecure --output zarf-package-two-amd64-1.0.0.tar.zst
  zarf package inspect definition zarf-package-two-amd64-1.0.0.tar.zst >definition.yaml
  same 'kind and name' 'ZarfPackageConfig interop' "$(field definition.yaml '.kind + " " + .metadata.name')"
}

zarf_reads_parts() {
  local file=zarf-package-interop-amd64-1.0.0.tar.zst size
  ours pack "$DEST/interop:1.0.0" --insecure --output "$file"
  size=$(($(stat -c %s "$file") / 5 + 64))
  sha256 "$file" >whole.sha256
  rm "$file"
  ours pack "$DEST/interop:1.0.0" --insecure --output "$file" --max-part-size "$size" --parity 2
  same 'what zarf reads of the list' "$(cat whole.sha256) 5" "$(jq -r '"\(.Sha256Sum) \(.Count)"' "$file.part000")"
  # Zarf may delete the parts that it reads.
  mkdir kept
  cp "$file".pa* kept
  zarf package inspect definition "$file.part000" >definition.yaml
  same 'kind and name' 'ZarfPackageConfig interop' "$(field definition.yaml '.kind + " " + .metadata.name')"
  cp kept/* .
  # A part that got lost is computed again, and zarf takes it.
  rm "$file.part001" "$file.part004"
  refused 'split' zarf package inspect definition "$file.part000"
  cp kept/* .
  rm "$file.part001" "$file.part004"
  ours repair "$file.part000"
  zarf package mirror-resources "$file.part000" --components '*' --images --confirm --registry-url "$OLD/parts" \
    --registry-push-username someone --registry-push-password something
  check_images "$OLD/parts" zarf
  note "$(find kept -name '*.part[0-9]*' | wc -l) files that zarf counts, $(find kept -name '*.parity*' | wc -l) that it does not"
}

# The site has what zarf_mirrors brought there but for one image.
zarf_reads_differential() {
  local all=zarf-package-interop-amd64-1.0.0.tar.zst less=less/zarf-package-interop-amd64-1.0.0.tar.zst image left
  ours pack "$DEST/interop:1.0.0" --insecure --output "$all"
  zarf package mirror-resources "$all" --components '*' --images --confirm --registry-url "$OLD/site" \
    --registry-push-username someone --registry-push-password something
  ours inventory "$OLD/site" --insecure --output site.json
  # Without the repository of one image.
  jq -c 'del(.repositories[] | select(.repository | test("app/multi")))' site.json >have.json
  mkdir less
  ours pack "$DEST/interop:1.0.0" --insecure --have have.json --zarf --output "$less" --format json >report.json
  left="$(jq '.omittedImages | length' report.json)"
  [ "$left" -gt 0 ] || fail "nothing is left out: $(cat report.json)"
  zarf package inspect definition "$less" >definition.yaml
  same 'the mark of a differential package' true "$(field definition.yaml .build.differential)"
  zarf package inspect images "$less" >images.txt
  for image in $(jq -r '.omittedImages[]' report.json); do
    if grep -qF "${image##*/}" images.txt; then fail "$image is not left out: $(cat images.txt)"; fi
  done
  mkdir package
  tar --zstd -C package -xf "$less"
  check_package package zarf.yaml
  [ "$(stat -c %s "$less")" -lt "$(stat -c %s "$all")" ] || fail 'it is not shorter'
  zarf package mirror-resources "$less" --components '*' --images --confirm --registry-url "$OLD/site2" \
    --registry-push-username someone --registry-push-password something
  crane ls "$OLD/site2/app/multi" >tags.txt
  grep -q -- -zarf- tags.txt
  note "$left images are left out, $(grep -c . images.txt) lines of images stay"
}

zarf_inspects_component() {
  local found
  zarf package inspect manifests "$PACKAGE" --components app >manifests.yaml
  grep -qF 'text: "a page"' manifests.yaml || grep -qF 'text: a page' manifests.yaml
  grep -qF 'greeting: "good day"' manifests.yaml || grep -qF 'greeting: good day' manifests.yaml
  zarf package inspect values-files "$PACKAGE" --components app >values.yaml
  grep -qF 'good day' values.yaml
  oras pull "$DEST/interop@$ZARF_DIGEST" --output package
  found="$(tar -tf package/components/app.tar | grep -v '/$' | LC_ALL=C sort | paste -sd ' ')"
  note "components/app.tar: $found"
}

zarf_verifies() {
  refused 'package is not signed' zarf package verify "$PACKAGE"
  # The result for the same package without the requirement of a signature: everything else was checked.
  zarf package inspect definition "$PACKAGE" --verify=never >/dev/null
}

zarf_mirrors() {
  zarf package mirror-resources "$PACKAGE" --components '*' --images --confirm --registry-url "$OLD/mirrored" \
    --registry-push-username someone --registry-push-password something
  check_images "$OLD/mirrored" zarf
}

zarf_publishes_copy() {
  zarf package publish "$PACKAGE" "oci://$OLD/published"
  same 'the digest' "$ZARF_DIGEST" "$(ARCHITECTURE=amd64 zarf package inspect digest "oci://$OLD/published/interop:1.0.0")"
}

zarf_publishes_tarball() {
  local files ours theirs
  pulled "$PACKAGE"
  zarf package publish out/zarf-package-*.tar.zst "oci://$OLD/from-tarball"
  crane manifest "$DEST/interop@$ZARF_DIGEST" >ours.json
  crane manifest --platform multi/amd64 "$OLD/from-tarball/interop:1.0.0" >theirs.json
  # All files are unchanged; Zarf sorts them, annotates them only with their paths, and rewrites the config.
  files='[.layers[] | {digest, size, mediaType, path: .annotations["org.opencontainers.image.title"]}] | sort_by(.path)'
  ours="$(jq -c "$files" ours.json)" theirs="$(jq -c "$files" theirs.json)"
  same 'the layers' "$ours" "$theirs"
  same 'the annotations' "$(jq -cS .annotations ours.json)" "$(jq -cS .annotations theirs.json)"
  crane blob "$OLD/from-tarball/interop@$(jq -r .config.digest theirs.json)" | jq -S . >theirs-config.json
  crane blob "$DEST/interop@$(jq -r .config.digest ours.json)" | jq -S . >ours-config.json
  # The added fields are empty, or Zarf's own; no field of ours is missing.
  same 'what our config says beyond theirs' '' "$(jq -rn --slurpfile ours ours-config.json --slurpfile theirs theirs-config.json \
    '[$ours[0] | paths(scalars)] - [$theirs[0] | paths(scalars)] | map(map(tostring) | join(".")) | .[]')"
  note "config: it adds $(jq -rn --slurpfile ours ours-config.json --slurpfile theirs theirs-config.json \
    '[$theirs[0] | paths] - [$ours[0] | paths] | map(.[-1] | tostring | select(test("^[0-9]+$") | not)) | unique | join(", ")')"
  note "manifest: ours $ZARF_DIGEST, theirs sha256:$(sha256 theirs.json)"
}

zarf_architectures() {
  local arch
  for arch in amd64 arm64; do
    write_package "$arch.yaml" both Zarf "$arch"
    build "$arch.yaml" "$DEST" >"$arch.json" &
  done
  wait -n
  wait -n
  for arch in amd64 arm64; do
    same "the digest for $arch" "$(jq -r .digest "$arch.json")" "$(ARCHITECTURE="$arch" zarf package inspect digest "oci://$DEST/both:1.0.0")"
    ARCHITECTURE="$arch" pulled "oci://$DEST/both:1.0.0"
    grep -qx "  architecture: '$arch'" package/zarf.yaml
    rm -r out package
  done
  note "$(crane manifest "$DEST/both:1.0.0" | jq -r '[.manifests[].platform.architecture] | join(", ")')"
}

# Zarf's package of one architecture under the tag of our package of the other.
zarf_shares_index() {
  local ours
  # Ours first.
  write_package arm64.yaml shared Zarf arm64
  build arm64.yaml "$DEST" >report.json
  ours="$(jq -r .digest report.json)"
  their_package shared amd64 "$SOURCE/app/oci:1"
  zarf package publish created/zarf-package-shared-amd64-*.tar.zst "oci://$DEST"
  same 'the architectures' 'amd64 arm64' "$(crane manifest "$DEST/shared:1.0.0" | jq -r '[.manifests[].platform.architecture] | sort | join(" ")')"
  same 'ours beside theirs' "$ours" "$(ARCHITECTURE=arm64 zarf package inspect digest "oci://$DEST/shared:1.0.0")"
  # Theirs first.
  zarf package publish created/zarf-package-shared-amd64-*.tar.zst "oci://$DEST/theirs"
  build arm64.yaml "$DEST/theirs" >report.json
  same 'the architectures' 'amd64 arm64' "$(crane manifest "$DEST/theirs/shared:1.0.0" | jq -r '[.manifests[].platform.architecture] | sort | join(" ")')"
  ARCHITECTURE=amd64 zarf package inspect definition "oci://$DEST/theirs/shared:1.0.0" | grep -qF "$SOURCE/app/oci:1"
}

# Makes a package with zarf in the folder `created`.
their_package() { # NAME ARCHITECTURE IMAGE...
  local image
  mkdir -p created "their-$1"
  {
    printf 'kind: ZarfPackageConfig\nmetadata: {name: %s, version: 1.0.0}\ncomponents:\n  - name: all\n    required: true\n    images:\n' "$1"
    for image in "${@:3}"; do echo "      - $image"; done
  } >"their-$1/zarf.yaml"
  ARCHITECTURE="$2" zarf package create "their-$1" --confirm --skip-sbom --output created
}

zarf_creates() {
  local images=() image
  # Zarf selects the image of one platform from an index that is named by its tag.
  for image in app/oci:1 app/docker:1 app/zstd:1 app/plain:1; do images+=("$DEST/$image"); done
  their_package theirs amd64 "${images[@]}"
  mkdir theirs
  tar --zstd -C theirs -xf created/zarf-package-theirs-amd64-*.tar.zst
  check_package theirs zarf.yaml
  for image in "${images[@]}"; do
    same "the digest of $image" "$(digest_of "$image")" \
      "$(jq -r --arg name "$image" '.manifests[] | select(.annotations["org.opencontainers.image.base.name"] == $name or .annotations["org.opencontainers.image.ref.name"] == $name) | .digest' theirs/images/index.json | sort -u)"
  done
  # Every blob of these images is also in our package.
  oras pull "$DEST/interop@$ZARF_DIGEST" --output ours
  for image in theirs/images/blobs/sha256/*; do cmp "$image" "ours/images/blobs/sha256/$(basename "$image")"; done
  note "$(find theirs/images/blobs -type f | wc -l) blobs, each of which our package has"
}

loads_created() {
  local file files image ours theirs
  their_package carried amd64 "$SOURCE/app/oci:1" "$SOURCE/app/docker:1"
  file="$(echo created/zarf-package-carried-*.tar.zst)"
  ours load "$file" --to "$OLD/loaded" --insecure --naming zarf >loaded.txt
  for image in app/oci:1 app/docker:1; do
    same "the digest of $image" "$(digest_of "$SOURCE/$image")" "$(digest_of "$OLD/loaded/$image")"
  done
  pulled "oci://$OLD/loaded/carried:1.0.0"
  check_package package zarf.yaml
  zarf package publish "$file" "oci://$OLD/published-file"
  crane manifest --platform multi/amd64 "$OLD/loaded/carried:1.0.0" >ours.json
  crane manifest --platform multi/amd64 "$OLD/published-file/carried:1.0.0" >theirs.json
  files='[.layers[]] | sort_by(.digest, .annotations["org.opencontainers.image.title"])'
  ours="$(jq -cS "$files" ours.json)" theirs="$(jq -cS "$files" theirs.json)"
  same 'the layers' "$ours" "$theirs"
  same 'the annotations' "$(jq -cS .annotations ours.json)" "$(jq -cS .annotations theirs.json)"
  # Zarf adds empty fields to the config, and what it changed of the definition when it read it.
  # shellcheck disable=SC2016  # a variable of jq
  files='[del(.build.migrations) | paths(scalars) as $path | {($path | map(tostring) | join(".")): getpath($path)}] | add'
  theirs="$(crane blob "$OLD/published-file/carried@$(jq -r .config.digest theirs.json)" | jq -cS "$files")"
  ours="$(crane blob "$OLD/loaded/carried@$(jq -r .config.digest ours.json)" | jq -cS "$files")"
  same 'the config' "$theirs" "$ours"
  note "$(tail -n 1 loaded.txt)"
}

takes_mirrored() {
  their_package mirrored amd64 "$SOURCE/app/oci:1" "$SOURCE/app/docker:1"
  zarf package mirror-resources created/zarf-package-mirrored-*.tar.zst --images --confirm --registry-url "$OLD/their" \
    --registry-push-username someone --registry-push-password something
  {
    printf 'apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata: {name: from-zarf}\nspec:\n  version: 1.0.0\n  naming: Zarf\n  components: [{name: all, images: [\n'
    printf '    {image: "%s"},\n' "$(names_in "$OLD/their" app/oci:1 | head -n 1)" "$OLD/their/app/docker:1" \
      "$OLD/their/app/oci@$(digest_of "$SOURCE/app/oci:1")"
    echo '  ]}]'
  } >package.yaml
  build package.yaml "$DEST" >report.json
  same 'the digests' "$(digest_of "$SOURCE/app/oci:1") $(digest_of "$SOURCE/app/docker:1") $(digest_of "$SOURCE/app/oci:1")" \
    "$(jq -r '[.images[].digest] | join(" ")' report.json)"
  note "$(jq -r '.images | length' report.json) images"
}

takes_package() {
  local tag
  their_package traveller amd64 "$SOURCE/app/oci:1"
  zarf package publish created/zarf-package-traveller-*.tar.zst "oci://$OLD/their"
  printf 'apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata: {name: carrier}\nspec:\n  version: 1.0.0\n  naming: Zarf\n  components: [{name: all, images: [{image: "%s"}]}]\n' \
    "$OLD/their/traveller:1.0.0" >package.yaml
  build package.yaml "$DEST" >report.json
  same 'the digest' "$(digest_of "$OLD/their/traveller:1.0.0")" "$(digest_of "$DEST/their/traveller:1.0.0")"
  pulled "oci://$DEST/their/traveller:1.0.0"
  check_package package zarf.yaml
  tag="$(zarf package inspect images "oci://$DEST/carrier:1.0.0")"
  same 'what the carrier lists' "- $OLD/their/traveller:1.0.0" "$tag"
}

zarf_refuses_jackal() {
  refused 'unable to find zarf.yaml in the manifest' zarf package pull "oci://$DEST/interop-jackal:1.0.0" --output-directory "$WORK/step"
}
