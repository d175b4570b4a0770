# shellcheck shell=bash
# A docker engine pushes images that we copy, and pulls and loads our images. Sourced by scripts/interop, never executed.

# shellcheck disable=SC2154  # set by scripts/interop and the files that it sources before

docker_steps() {
  check 'docker push: we take the image that the engine pushed' takes_pushed
  check 'docker: we take an image out of the engine, and it pulls ours back' pulls_back None
  check 'docker: the same with gzip layers, which crane validates' pulls_back Gzip
  check 'docker: the same with zstd layers, the default, which crane, skopeo and syft read and docker 20.10 does not' pulls_back
  check 'docker pull: images out of our registry, by tag and by digest' engine_pulls
}

docker() { limited "$DOCKER" --host "$JACKAL_DOCKER20" "$@"; }

imported() { # NAME WORDS
  layer "$WORK/step/layer.tar" "$2"
  docker import --change 'CMD ["/hello"]' "$WORK/step/layer.tar" "$1"
}

takes_pushed() {
  imported "$OLD/engine/pushed:1" pushed
  docker push "$OLD/engine/pushed:1"
  cat >package.yaml <<END_OF_PACKAGE
apiVersion: jackal.dev/v1alpha1
kind: JackalPackage
metadata: {name: from-docker-push}
spec: {version: 1.0.0, naming: Zarf, components: [{name: all, required: true, images: [{image: "$OLD/engine/pushed:1"}]}]}
END_OF_PACKAGE
  build package.yaml "$DEST" >report.json
  same 'the digest' "$(digest_of "$OLD/engine/pushed:1")" "$(digest_of "$DEST/engine/pushed:1")"
  crane validate --remote "$DEST/engine/pushed:1"
}

# The engine's ID of an image is the digest of its configuration. It must be the same after the push and the pull.
pulls_back() { # [COMPRESSION]
  local id image="$DEST/${1:-default}/engine/local:1"
  image="${image,,}"
  imported engine/local:1 local
  id="$(docker image inspect --format '{{.Id}}' engine/local:1)"
  cat >package.yaml <<END_OF_PACKAGE
apiVersion: jackal.dev/v1alpha1
kind: JackalPackage
metadata: {name: from-docker}
spec:
  version: 1.0.0
  naming: Zarf
  ${1:+compression: $1}
  components: [{name: all, required: true, images: [{image: "engine/local:1", source: Docker}]}]
END_OF_PACKAGE
  DOCKER_HOST="$JACKAL_DOCKER20" build package.yaml "${image%/engine/*}" >report.json
  note "$(jq -r '.images[0].method' report.json)"
  same 'what the image says' local "$(crane export "$image" - | tar -xO hello)"
  # crane validates no layers without gzip.
  if [ "${1:-}" = Gzip ]; then crane validate --remote "$image"; fi
  if [ -z "${1:-}" ]; then
    same 'its layer' application/vnd.oci.image.layer.v1.tar+zstd "$(crane manifest "$image" | jq -r '.layers[].mediaType')"
    skopeo copy "docker://$image" "dir:$WORK/step/copied"
    ours sbom "$image" --insecure --syft "$SYFT" --sbom-scratch "$WORK/step" >sboms
    same 'the SBOMs that syft made' 3 "$(wc -l <sboms)"
    # Otherwise the engine would use the existing image.
    docker image rm engine/local:1
    ! docker pull "$image" || fail 'docker 20.10 reads zstd; docs/interop.md says that it does not'
    return
  fi
  docker image rm engine/local:1
  docker pull "$image"
  same 'the id of the image' "$id" "$(docker image inspect --format '{{.Id}}' "$image")"
  docker image rm "$image"
}

engine_pulls() {
  local image digest
  for image in app/oci:1 app/docker:1 app/multi:1 app/list:1 app/attested:1; do
    digest="$(digest_of "$SOURCE/$image")"
    docker pull "$DEST/$image"
    docker image inspect --format '{{join .RepoDigests " "}}' "$DEST/$image" | grep -qF "$digest" || fail "$image has another digest"
  done
  docker pull "$DEST/app/pinned@$(digest_of "$SOURCE/app/pinned:1")"
}
