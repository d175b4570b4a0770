# shellcheck shell=bash
# cosign and Zarf verify our signatures, and we verify those of cosign. Sourced by scripts/interop, never executed.

# shellcheck disable=SC2154  # set by scripts/interop and the files that it sources before

signatures_steps() {
  check 'cosign makes two key pairs' makes_keys
  check 'build: a package and its image signed by a key of cosign; again it writes nothing' signs
  check 'cosign verify: the package and the image, and not by another key' cosign_verifies
  check 'cosign verify-attestation: where the package came from' attests
  check 'oras discover, cosign tree: the signature beside the package' lists_signatures
  if [ -n "${ZARF:-}" ]; then
    check 'zarf package verify, pull: the signed package, and not by another key' zarf_verifies_signed
    check 'zarf package sign: we take nothing less from a package that zarf signed' takes_zarf_signed
  fi
  check 'cosign sign: verify brings the image with its signature, and refuses one of another key' verifies_cosign
}

KEYS_PASSWORD=secret

# Only local network: no log, no identity.
cosign() { COSIGN_PASSWORD="$KEYS_PASSWORD" limited "$COSIGN" "$@"; }

cosign_verify() { # KEY REFERENCE
  cosign verify --key "$1" --insecure-ignore-tlog=true --allow-http-registry "$2"
}

makes_keys() {
  local name
  mkdir "$WORK/keys"
  cd "$WORK/keys"
  for name in ours other; do cosign generate-key-pair --output-key-prefix "$name"; done
  head -n 1 ours.key
}

# The Secret is in the same file as the package, where `build` reads it.
signs() {
  {
    one_image signed "$SOURCE/app/oci:1" | sed 's/^  naming: Zarf$/&\n  signing: {secretRef: {name: cosign-key}, images: ["*"]}/'
    printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {name: cosign-key}\ndata:\n'
    printf '  cosign.key: %s\n  cosign.password: %s\n' "$(base64 -w 0 "$WORK/keys/ours.key")" "$(printf '%s' "$KEYS_PASSWORD" | base64 -w 0)"
  } >package.yaml
  build package.yaml "$DEST/signed" >report.json
  SIGNED="$(jq -r .digest report.json)"
  printf '%s\n' "$SIGNED" >"$WORK/signed-digest"
  build package.yaml "$DEST/signed" >again.json
  same 'what the second build sent' "0 false $SIGNED" "$(jq -r '"\(.movedBytes) \(.changed) \(.digest)"' again.json)"
}

cosign_verifies() {
  local reference
  for reference in "$DEST/signed/signed@$(cat "$WORK/signed-digest")" "$DEST/signed/app/oci:1"; do
    cosign_verify "$WORK/keys/ours.pub" "$reference" >claims.json
    note "$(jq -r '.[0].critical.image["docker-manifest-digest"]' claims.json)"
    ! cosign_verify "$WORK/keys/other.pub" "$reference" || fail "$reference verifies by another key"
  done
  # By its tag: the index of architectures is signed too, or only the package.
  if cosign_verify "$WORK/keys/ours.pub" "$DEST/signed/signed:1.0.0" >/dev/null; then note 'the tag verifies too'; else
    note 'the tag does not verify, the digest of an architecture does'
  fi
}

attests() {
  local reference
  for reference in "$DEST/signed/signed:1.0.0" "$DEST/signed/signed@$(cat "$WORK/signed-digest")"; do
    cosign verify-attestation --type slsaprovenance1 --key "$WORK/keys/ours.pub" --insecure-ignore-tlog=true \
      --allow-http-registry "$reference" >attestation.json
    jq -r '.payload' attestation.json | base64 -d >statement.json
    same 'what it was built from' "oci://$SOURCE/app/oci:1 $(digest_of "$SOURCE/app/oci:1")" \
      "$(jq -r '.predicate.buildDefinition.resolvedDependencies[] | "\(.uri) sha256:\(.digest.sha256)"' statement.json)"
    ! cosign verify-attestation --type slsaprovenance1 --key "$WORK/keys/other.pub" --insecure-ignore-tlog=true \
      --allow-http-registry "$reference" || fail "the provenance of $reference verifies by another key"
  done
}

lists_signatures() {
  local package
  package="$DEST/signed/signed@$(cat "$WORK/signed-digest")"
  same 'the referrers' application/vnd.dev.sigstore.bundle.v0.3+json \
    "$(oras discover "$package" --format json | jq -r '[.referrers[].artifactType] | unique | join(" ")')"
  cosign tree --allow-http-registry "$package" >signatures 2>&1
  cat signatures
  grep -qF "$(oras discover "$package" --format json | jq -r '.referrers[0].digest' | cut -c 8-)" signatures
}

zarf_verifies_signed() {
  zarf package verify "oci://$DEST/signed/signed:1.0.0" --key "$WORK/keys/ours.pub" 2>said
  note "$(grep -o 'signature verification.*' said | head -n 1)"
  ! zarf package verify "oci://$DEST/signed/signed:1.0.0" --key "$WORK/keys/other.pub" || fail 'it verifies by another key'
  zarf package pull "oci://$DEST/signed/signed:1.0.0" --key "$WORK/keys/ours.pub" --verify=always --output-directory .
  zarf package verify zarf-package-signed-*.tar.zst --key "$WORK/keys/ours.pub"
}

takes_zarf_signed() {
  their_package theirs-signed amd64 "$SOURCE/app/oci:1"
  zarf package sign created/zarf-package-theirs-signed-*.tar.zst --signing-key "$WORK/keys/ours.key" \
    --signing-key-pass "$KEYS_PASSWORD" --tlog-upload=false --confirm --overwrite --output created
  zarf package publish created/zarf-package-theirs-signed-*.tar.zst "oci://$OLD/their"
  one_image carrier-signed "$OLD/their/theirs-signed:1.0.0" >package.yaml
  build package.yaml "$DEST" >report.json
  zarf package verify "oci://$DEST/their/theirs-signed:1.0.0" --key "$WORK/keys/ours.pub"
}

verifies_cosign() {
  local key
  crane copy "$SOURCE/app/oci:1" "$OLD/cosign/signed:1"
  crane copy "$SOURCE/app/docker:1" "$OLD/cosign/foreign:1"
  for key in ours:signed other:foreign; do
    cosign sign --key "$WORK/keys/${key%:*}.key" --use-signing-config=false --tlog-upload=false --yes --allow-http-registry \
      "$OLD/cosign/${key#*:}@$(digest_of "$OLD/cosign/${key#*:}:1")"
  done
  verified_by ours signed >package.yaml
  build package.yaml "$DEST" >report.json
  same 'the digest' "$(digest_of "$OLD/cosign/signed:1")" "$(digest_of "$DEST/cosign/signed:1")"
  # Its signature was copied, from a registry that lists referrers under a tag.
  cosign_verify "$WORK/keys/ours.pub" "$DEST/cosign/signed:1" >/dev/null
  ! cosign_verify "$WORK/keys/other.pub" "$DEST/cosign/signed:1" || fail 'the copied signature verifies by another key'
  verified_by ours foreign >package.yaml
  ! build package.yaml "$DEST" >report.json || fail 'an image of another key was brought'
  same 'the reason' VerificationError "$(jq -r '.failures[0].reason' report.json)"
  if (digest_of "$DEST/cosign/foreign:1"); then fail 'the image of another key is there'; fi
  note "refused: $(jq -r '.failures[0].message' report.json | grep -o 'is not signed as verify requires')"
}

verified_by() { # KEY IMAGE
  one_image "verified-$2" "$OLD/cosign/$2:1"
  echo '  verify:'
  echo '    - publicKeys:'
  echo '        - inline: |'
  sed 's/^/            /' "$WORK/keys/$1.pub"
}
