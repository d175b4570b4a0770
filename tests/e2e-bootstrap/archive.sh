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

# Makes a later version of the operator in the registry of the connected side: its objects have another version.
next_operator() { # VERSION
  local folder="$work/next" from="$SOURCE/$OPERATOR_REPOSITORY:$version"
  mkdir -p "$folder"
  crane export --insecure "$from" - | tar -C "$folder" -x install
  sed -i "s/$version/$1/g" "$folder"/install/*
  tar -C "$folder" --owner 0 --group 0 -cf "$work/next.tar" .
  crane append --insecure --base "$from" --new_layer "$work/next.tar" --new_tag "$SOURCE/$OPERATOR_REPOSITORY:$1" \
    >/dev/null 2>"$work/crane.log" || fail "cannot make version $1: $(cat "$work/crane.log")"
  crane mutate --insecure --label "org.opencontainers.image.version=$1" --tag "$SOURCE/$OPERATOR_REPOSITORY:$1" \
    "$SOURCE/$OPERATOR_REPOSITORY:$1" >/dev/null 2>"$work/crane.log" || fail "cannot label version $1: $(cat "$work/crane.log")"
  rm -r "$folder" "$work/next.tar"
}

# Packs images of the registry into FILE.
pack() { # FILE VERSION REPOSITORY:TAG...
  local file=$1 definition="$1.yaml"
  {
    printf 'apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata:\n  name: site\n'
    printf 'spec:\n  version: %s\n  components:\n    - name: images\n      images:\n' "$2"
    printf "        - $SOURCE/%s\n" "${@:3}"
  } >"$definition"
  jackal-operator pack "$definition" --output "$file" --insecure-registry "$SOURCE" >"$file.log" 2>&1 ||
    fail "pack: $(cat "$file.log")"
}

archive_step() {
  local registry="$REGISTRY_REPOSITORY:3" hello="$HELLO_REPOSITORY:1" next=99.0.0
  step 'Pack the images of the operator, a registry and an application into one file; two versions'
  install_program
  source_images
  next_operator "$next"
  pack "$work/site.tar.zst" 1.0.0 "$OPERATOR_REPOSITORY:$version" "$registry" "$hello"
  pack "$work/next.tar.zst" 2.0.0 "$OPERATOR_REPOSITORY:$next" "$registry" "$hello"
  pack "$work/without-operator.tar.zst" 1.0.0 "$registry" "$hello"
  note "$(du -h "$work/site.tar.zst" | cut -f 1) in site.tar.zst: $(jackal-operator inspect "$work/site.tar.zst" --images | paste -sd ' ')"
  # The cluster has no registry.
  end_server source
}
