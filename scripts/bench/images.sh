# shellcheck shell=bash
# Makes 24 realistic images in a docker engine: on two bases with two layers each, one to three more layers, with files of this
# machine, so that they compress like real software. The same machine gives the same layers. Sourced by the benchmarks, never executed.

# The folders of the files, which are chosen pseudo-randomly. Files above 8 MB would make layers uneven.
POOL="${BENCH_POOL:-/usr/lib /usr/share $HOME/.cargo/registry $HOME/.rustup $(go env GOROOT GOMODCACHE 2>/dev/null | tr "\n" " " || true)}"
LARGEST_FILE=8M
IMAGES=24

# The size of each layer, in thousandths of the distinct bytes: a base is stored once and used by 12 images, so the sum over all
# images is 3.3 times the distinct bytes. Prints "NAME THOUSANDTHS" for each layer.
layer_list() {
  local image layer layers
  echo 'a1 80
a2 24.5
b1 80
b2 24.5'
  for image in $(seq "$IMAGES"); do
    layers=$((image % 3 + 1))
    for layer in $(seq "$layers"); do
      awk -v l="$layers" -v i="$image" -v n="$layer" -v c="$IMAGES" 'BEGIN { printf "i%02d-%d %.4f\n", i, n, 791 / c / l }'
    done
  done
}

# Writes the names of the files of each layer to $WORK/layers/NAME.
choose_files() { # BYTES
  mkdir -p "$WORK/layers"
  layer_list >"$WORK/layer-list"
  # shellcheck disable=SC2086  # several folders
  find $POOL -xdev -type f -size +0 -size "-$LARGEST_FILE" ! -name '*[[:cntrl:]\\]*' -printf '%s %p\n' 2>/dev/null |
    LC_ALL=C sort -u | LC_ALL=C sort -R --random-source=<(openssl enc -aes-128-ctr -pass pass:jackal -nosalt -pbkdf2 </dev/zero 2>/dev/null) |
    awk -v total="$1" -v list="$WORK/layer-list" -v folder="$WORK/layers/" '
      BEGIN { while ((getline line <list) > 0) { split(line, part, " "); name[++layers] = part[1]; want[layers] = part[2] * total / 1000 } layer = 1 }
      layer <= layers {
        size = $1; sub(/^[0-9]+ /, ""); print >(folder name[layer]); have += size
        if (have >= want[layer]) { close(folder name[layer]); layer++; have = 0 }
      }
      END { if (layer <= layers) exit 1 }' ||
    die "$POOL contain too few files for $1 bytes; add folders to BENCH_POOL"
}

# A tar of the files in LIST, with their parent folders: docker would create these with the current time.
layer_tar() { # LIST
  awk '{ path = $0; while (sub(/\/[^\/]+$/, "", path) && path != "") print path; print }' "$1" | LC_ALL=C sort -u |
    sed 's|^/||' | tar -C / --format=gnu --no-recursion --hard-dereference --mtime=@0 --owner=0 --group=0 --numeric-owner \
    --warning=no-file-changed -T - -cf -
}

# Builds the image NAME with these layers on top of BASE.
build_image() { # NAME BASE LAYER...
  local name=$1 base=$2 layer context="$WORK/context"
  shift 2
  mkdir -p "$context"
  echo "FROM $base" >"$context/Dockerfile"
  for layer in "$@"; do
    layer_tar "$WORK/layers/$layer" >"$context/$layer.tar"
    echo "ADD $layer.tar /" >>"$context/Dockerfile"
  done
  DOCKER_BUILDKIT=0 docker_cli build --quiet --tag "$name" "$context" >/dev/null 2>"$WORK/build.err" || {
    cat "$WORK/build.err" >&2
    die "could not build $name"
  }
  rm -r "$context"
}

# Makes the images with BYTES of distinct content and lists them in $WORK/images.
make_images() { # BYTES
  local image base layers
  say "making $IMAGES images of $(megabytes "$1") MB distinct content"
  choose_files "$1"
  build_image jackal-bench/base-a:1 scratch a1 a2
  build_image jackal-bench/base-b:1 scratch b1 b2
  : >"$WORK/images"
  for image in $(seq -f %02.0f "$IMAGES"); do
    if [ $((10#$image % 2)) -eq 0 ]; then base=a; else base=b; fi
    mapfile -t layers < <(grep -o "^i$image-[0-9]*" "$WORK/layer-list")
    build_image "jackal-bench/i$image:1" "jackal-bench/base-$base:1" "${layers[@]}"
    echo "jackal-bench/i$image:1" >>"$WORK/images"
  done
  say "$(xargs -a "$WORK/images" "$DOCKER" --host "$ENGINE" inspect | jq -r \
    '"\(length) images of \([.[].RootFS.Layers | length] | "\(min) to \(max)") layers, \([.[].Size] | add / 1e6 | round) MB in all"')"
}

# Makes 24 images with docker and pushes them to the source; the engine is not needed afterwards.
fill_source() { # BENCH
  use_engine docker20 "${JACKAL_DOCKER20:?docker 20.10 is not running; run this with: make bench-$1}"
  make_images "$SIZE"
  say "pushing them to the source registry"
  DEST="$SOURCE" tag_images
  DEST="$SOURCE" client_push >/dev/null
  sed -i "s|^|$SOURCE/|" "$WORK/images"
  "$BENCH_DIR/../stack" stop docker20
  # shellcheck disable=SC2034  # read by lib.sh
  ENGINE='' ENGINE_PIDS=() WATCHED=()
  say "the source registry holds $(megabytes "$(used "$SOURCE_DIR/registry")") MB"
}
