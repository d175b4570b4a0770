# shellcheck shell=bash
# Uploads an image with one large layer to a source registry. Sourced by the benchmarks, never executed.

# shellcheck disable=SC2154  # set by lib.sh and the benchmarks

send() { curl --silent --show-error --fail --noproxy '*' --output /dev/null "$@"; }

# Uploads standard input as a blob to the source.
send_blob() { # DIGEST
  local location
  location="$(send --request POST --dump-header - "http://$SOURCE/v2/$REPOSITORY/blobs/uploads/" | tr -d '\r' |
    awk 'tolower($1) == "location:" { print $2 }')"
  case $location in *\?*) location+='&' ;; *) location+='?' ;; esac
  send --upload-file - --header 'Content-Type: application/octet-stream' "${location}digest=$1"
}

digest() { sha256sum | awk '{ print "sha256:" $1 }'; }

# Uploads an OCI image with one uncompressed layer of random bytes to the source registry.
fill_source() {
  local layer config length
  layer="$(random_tar "$SIZE" jackal | digest)"
  length="$(random_tar "$SIZE" jackal | wc -c)"
  random_tar "$SIZE" jackal | send_blob "$layer"
  printf '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["%s"]}}' "$layer" >"$WORK/config"
  config="$(digest <"$WORK/config")"
  send_blob "$config" <"$WORK/config"
  printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s","digest":"%s","size":%d},"layers":[{"mediaType":"%s","digest":"%s","size":%d}]}' \
    application/vnd.oci.image.manifest.v1+json application/vnd.oci.image.config.v1+json "$config" "$(stat -c %s "$WORK/config")" \
    application/vnd.oci.image.layer.v1.tar "$layer" "$length" >"$WORK/manifest"
  send --upload-file "$WORK/manifest" --header 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
    "http://$SOURCE/v2/$REPOSITORY/manifests/1"
}
