# shellcheck shell=bash
# The archive that is carried into the cluster, made as a user makes it. Sourced by scripts/e2e-bootstrap, never executed.

# shellcheck disable=SC2154  # work and image are set by scripts/e2e-bootstrap

# The registry on the connected side. Only the control plane's host reaches this address.
SOURCE=127.0.0.1:5000
OPERATOR_REPOSITORY=jackal-dev/jackal-operator
REGISTRY_REPOSITORY=library/registry
HELLO_REPOSITORY=team/hello

# The program that the user has on the laptop: the one in the operator's image.
install_program() {
  local layer
  mkdir -p "$work/bin"
  layer="$(tar -xOf "$image" manifest.json | jq -r '.[0].Layers[-1]')"
  tar -xOf "$image" "$layer" | tar -xzO jackal-operator >"$work/bin/jackal-operator"
  chmod 755 "$work/bin/jackal-operator"
  PATH="$work/bin:$PATH"
}

image_tag() { tar -xOf "$image" manifest.json | jq -r '.[0].RepoTags[0] | sub(".*:"; "")'; }

push() { # ARCHIVE REPOSITORY:TAG
  crane push --insecure "$1" "$SOURCE/$2" >/dev/null 2>"$work/crane.log" || fail "cannot push $2: $(cat "$work/crane.log")"
}

# Puts the images of all packages into the registry of the connected side.
source_images() {
  local config
  source_registry "$SOURCE"
  version="$(image_tag)"
  push "$image" "$OPERATOR_REPOSITORY:$version"
  config="$(registry_folder "$work/registry")"
  image_archive "$work/registry.tar" "$SOURCE/$REGISTRY_REPOSITORY:3" "$work/registry" "$config"
  push "$work/registry.tar" "$REGISTRY_REPOSITORY:3"
  printing_folder "$work/hello" 'hello from a packed image'
  image_archive "$work/hello.tar" "$SOURCE/$HELLO_REPOSITORY:1" "$work/hello" "$PRINTING"
  push "$work/hello.tar" "$HELLO_REPOSITORY:1"
}

# Packs images of the registry into FILE.
pack() { # FILE NAME VERSION REPOSITORY:TAG...
  local file=$1 name=$2 version=$3 folder
  shift 3
  folder="$work/pack-$name-$version"
  {
    printf 'apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata:\n  name: %s\n' "$name"
    printf 'spec:\n  version: %s\n  components:\n    - name: images\n      images:\n' "$version"
    printf "        - $SOURCE/%s\n" "$@"
  } >"$folder.yaml"
  jackal-operator build "$folder.yaml" --to "oci:$folder" --insecure-registry "$SOURCE" >"$folder.log" 2>&1 ||
    fail "build of $name: $(cat "$folder.log")"
  jackal-operator pack "oci:$folder:$name:$version" --output "$file" >>"$folder.log" 2>&1 ||
    fail "pack of $name: $(cat "$folder.log")"
  rm -r "$folder"
}

archive_step() {
  step 'Pack the images of the operator, a registry and an application into one file'
  install_program
  source_images
  pack "$work/site.tar.zst" site 1.0.0 "$OPERATOR_REPOSITORY:$version" "$REGISTRY_REPOSITORY:3" "$HELLO_REPOSITORY:1"
  note "$(du -h "$work/site.tar.zst" | cut -f 1) in site.tar.zst: $(jackal-operator inspect "$work/site.tar.zst" --images | paste -sd ' ')"
  # The cluster has no registry.
  end_server source
}
