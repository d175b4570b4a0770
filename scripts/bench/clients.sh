# shellcheck shell=bash
# The measured tools: jackal-operator ("ours") and its peers, from docker or a registry to a registry. Sourced by the benchmarks, never executed.
#
# Each transfers the images in $WORK/images, one per line: from the engine at $ENGINE (name:tag), or from another registry
# (host/name:tag), to $DEST/$PREFIX name:tag; $PREFIX is empty or ends in a slash. Every tool uses its default settings; flags
# only set locations and plain HTTP.

# ---- ours

ours() {
  local to="$DEST/$PREFIX"
  DOCKER_HOST="${ENGINE:-}" "$BIN" --log error build "$WORK/package.yaml" --to "${to%/}" --insecure \
    --insecure-registry "${SOURCE:-127.0.0.1:9}" --output json "$@"
}

client_ours() { ours; }
# With a wrong folder, so that the engine exports.
client_ours_export() { ours --docker-root /nowhere; }

# ---- from a docker engine

docker_cli() { "$DOCKER" --host "$ENGINE" "$@"; }

# The names that `docker push` needs; not measured.
tag_images() {
  local name
  while read -r name; do docker_cli tag "$name" "$DEST/$PREFIX$name"; done <"$WORK/images"
}

push_one() { docker_cli push --quiet "$DEST/$PREFIX$1"; }
client_push() { each 1 push_one; }
client_push4() { each 4 push_one; }

skopeo_one() {
  "$SKOPEO" copy --quiet --dest-tls-verify=false --src-daemon-host "$ENGINE" "docker-daemon:$1" "docker://$DEST/$PREFIX$1"
}
client_skopeo() { each 1 skopeo_one; }
client_skopeo4() { each 4 skopeo_one; }

# For engines that skopeo does not support: the engine's export as a file.
archive_one() {
  local file
  file="$(mktemp "$TMPDIR/image.XXXXXX.tar")"
  docker_cli save --output "$file" "$1"
  "$SKOPEO" copy --quiet --dest-tls-verify=false "docker-archive:$file" "docker://$DEST/$PREFIX$1"
  rm "$file"
}
client_archive() { each 1 archive_one; }

# Reads the image without a destination.
client_save() { xargs -a "$WORK/images" "$DOCKER" --host "$ENGINE" save | cat >/dev/null; }

# ---- from a registry

crane_one() { "$CRANE" copy --insecure "$1" "$DEST/$PREFIX${1#*/}"; }
client_crane() { each 1 crane_one; }
client_crane4() { each 4 crane_one; }

regctl_one() {
  "$REGCTL" --host "reg=$SOURCE,tls=disabled" --host "reg=$DEST,tls=disabled" image copy "$1" "$DEST/$PREFIX${1#*/}"
}
client_regctl() { each 1 regctl_one; }
client_regctl4() { each 4 regctl_one; }

copy_one() {
  "$SKOPEO" copy --quiet --src-tls-verify=false --dest-tls-verify=false "docker://$1" "docker://$DEST/$PREFIX${1#*/}"
}
client_copy() { each 1 copy_one; }
client_copy4() { each 4 copy_one; }

# skopeo's command for many images.
client_sync() {
  local name
  {
    printf '%s:\n  tls-verify: false\n  images:\n' "$SOURCE"
    while read -r name; do
      name="${name#*/}"
      printf '    %s: ["%s"]\n' "${name%:*}" "${name##*:}"
    done <"$WORK/images"
  } >"$WORK/sync.yaml"
  # It keeps only the last part of a name; all images of the benchmarks are jackal-bench/NAME.
  "$SKOPEO" sync --src yaml --dest docker --dest-tls-verify=false "$WORK/sync.yaml" "$DEST/${PREFIX}jackal-bench"
}

# ---- Zarf: a package on disk first, then its images to the registry

# Zarf asks the image's registry first. Images from docker get the name of a host without a server, so Zarf immediately uses the
# engine; for a name without a host it would ask Docker Hub.
write_zarf_package() {
  mkdir -p "$WORK/zarf"
  {
    cat <<END_OF_PACKAGE
kind: ZarfPackageConfig
metadata: {name: bench, version: 1.0.0}
components:
  - name: all
    required: true
    images:
END_OF_PACKAGE
    if [ -n "${SOURCE:-}" ]; then
      sed 's|^|      - |' "$WORK/images"
    else
      sed 's|^|      - 127.0.0.1:9/|' "$WORK/images"
    fi
  } >"$WORK/zarf/zarf.yaml"
  if [ -z "${SOURCE:-}" ]; then
    local name
    while read -r name; do docker_cli tag "$name" "127.0.0.1:9/$name"; done <"$WORK/images"
  fi
}

zarf() {
  env -u KUBECONFIG DOCKER_HOST="${ENGINE:-}" "$ZARF" --no-color --log-level warn --architecture amd64 \
    --tmpdir "$TMPDIR" --cache "$TMPDIR/cache" --plain-http "$@"
}

client_zarf_create() {
  zarf package create "$WORK/zarf" --confirm --skip-sbom --output "$TMPDIR/package"
}

client_zarf_mirror() {
  zarf package mirror-resources "$TMPDIR"/package/zarf-package-*.tar* --images --confirm --registry-url "$DEST${PREFIX:+/${PREFIX%/}}" \
    --registry-push-username bench --registry-push-password bench
}

# ---- loops

# Runs FUNCTION for every image, COUNT at the same time.
each() { # COUNT FUNCTION
  local name
  if [ "$1" -eq 1 ]; then
    while read -r name; do "$2" "$name" </dev/null; done <"$WORK/images"
  else
    # shellcheck disable=SC2016  # expanded by the inner shell
    xargs -a "$WORK/images" -P "$1" -n 1 bash -c "$(declare -f)"'; set -euo pipefail; "$0" "$1"' "$2"
  fi
}
