# shellcheck shell=bash
# Other tools read the SBOMs of an image and of a package. Sourced by scripts/interop, never executed.

# shellcheck disable=SC2154  # set by scripts/interop and the files that it sources before

sboms_steps() {
  check 'build: an image with a package of Debian, and its SBOMs by syft' makes_sboms
  check 'oras discover, regctl artifact list: what refers to the image' lists_sboms
  check 'regctl artifact get: each SBOM by its type; syft reads them all' reads_sboms
  check 'oras cp -r, regctl image copy --referrers: the SBOMs travel with the image' carries_sboms
  if [ -n "${ZARF:-}" ]; then check 'zarf package inspect sbom: the viewer, and what it shows' zarf_reads_sboms; fi
}

syft() { limited "$SYFT" --quiet "$@"; }

makes_sboms() {
  mkdir -p content/var/lib/dpkg content/etc
  printf 'Package: hello\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.10-3\nMaintainer: Nobody <n@example.org>\nDescription: says hello\n\n' >content/var/lib/dpkg/status
  printf 'ID=debian\nNAME=Debian\nVERSION_ID="12"\n' >content/etc/os-release
  tar --format=gnu --mtime=@0 --owner=0 --group=0 --sort=name -C content -cf layer.tar etc var
  crane append --oci-empty-base --new_layer layer.tar --new_tag "$SOURCE/app/debian:1"
  crane mutate "$SOURCE/app/debian:1" --set-platform linux/amd64 --tag "$SOURCE/app/debian:1"
  one_image with-sboms "$SOURCE/app/debian:1" | sed 's/^  naming: Zarf$/&\n  sbom: {enabled: true, required: true}/' >package.yaml
  build package.yaml "$DEST" --syft "$SYFT" --sbom-scratch "$WORK/step" >report.json
  same 'the images with SBOMs' 'true 1' "$(jq -r '"\(.sboms.complete) \(.sboms.images)"' report.json)"
  build package.yaml "$DEST" --syft "$SYFT" --sbom-scratch "$WORK/step" >again.json
  same 'what the second build sent' '0 false' "$(jq -r '"\(.movedBytes) \(.changed)"' again.json)"
}

lists_sboms() {
  local types='application/spdx+json application/vnd.cyclonedx+json application/vnd.syft+json' image
  image="$DEST/app/debian@$(digest_of "$DEST/app/debian:1")"
  same 'the referrers by oras' "$types" \
    "$(oras discover "$image" --format json | jq -r '[.referrers[].artifactType] | sort | join(" ")')"
  same 'the referrers by regctl' "$types" \
    "$(regctl artifact list "$image" --format '{{ range .Descriptors }}{{ println .ArtifactType }}{{ end }}' | sort | paste -sd ' ' | sed 's/^ *//')"
}

reads_sboms() {
  local image
  image="$DEST/app/debian@$(digest_of "$DEST/app/debian:1")"
  regctl artifact get --subject "$image" --filter-artifact-type application/spdx+json >spdx.json
  regctl artifact get --subject "$image" --filter-artifact-type application/vnd.cyclonedx+json >cyclonedx.json
  same 'the version of SPDX' SPDX-2.3 "$(jq -r .spdxVersion spdx.json)"
  same 'the version of CycloneDX' 1.6 "$(jq -r .specVersion cyclonedx.json)"
  syft convert spdx.json --output syft-table >spdx.table
  syft convert cyclonedx.json --output syft-table >cyclonedx.table
  regctl artifact get --subject "$image" --filter-artifact-type application/vnd.syft+json >syft.json
  syft convert syft.json --output syft-table >syft.table
  grep -qE '^hello +2\.10-3 ' syft.table
  grep -qE '^hello +2\.10-3 ' spdx.table
  grep -qE '^hello +2\.10-3 ' cyclonedx.table
  note "$(grep '^hello' spdx.table | tr -s ' ')"
}

carries_sboms() {
  local digest
  digest="$(digest_of "$DEST/app/debian:1")"
  oras cp -r "$DEST/app/debian:1" "$OLD/copies/debian:oras"
  same 'the referrers after oras cp' 3 "$(oras discover "$OLD/copies/debian@$digest" --format json | jq '.referrers | length')"
  regctl image copy --referrers "$DEST/app/debian:1" "$OLD/copies/debian-regctl:1"
  same 'the referrers after regctl image copy' 3 "$(oras discover "$OLD/copies/debian-regctl@$digest" --format json | jq '.referrers | length')"
}

zarf_reads_sboms() {
  zarf package inspect sbom "oci://$DEST/with-sboms:1.0.0" --output sboms
  find sboms -type f -name 'sbom-viewer-*.html' | grep -q .
  jq -e '.artifacts | any(.name == "hello" and .version == "2.10-3")' sboms/with-sboms/*.json
  note "$(find sboms -type f -printf '%f\n' | LC_ALL=C sort | paste -sd ' ')"
}
