# shellcheck shell=bash
# Functions that the benchmarks share: measurement of a run, rounds, tables. Sourced, never executed.
#
# A benchmark lists its tools in order, jackal-operator ("ours") first. Each is a function client_TOOL, of the benchmark or of
# clients.sh. It runs in a new bash with every function and every exported variable of the benchmark.

BENCH_DIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib.sh
. "$BENCH_DIR/../lib.sh"

# The maximum duration of a run.
export RUN_SECONDS="${BENCH_RUN_SECONDS:-3600}"
# The number of rounds with the tools in SLOW, because they delay the others. `all`: every round.
SLOW_ROUNDS="${BENCH_SLOW_ROUNDS:-1}"
# The limit of resident memory of every transfer, in MB.
MEMORY_MB=128

# Set by the benchmark:
SLOW=''                # tools that are measured SLOW_ROUNDS times
NOT_AGAIN=''           # tools that are not repeated
NOT_ARRIVING=''        # tools that transfer nothing to the destination
WATCHED=()             # folders whose growth is extra disk, in addition to TMPDIR
WARMED=()              # folders that are read before a warm run
ENGINE_PIDS=()         # processes of the engine
REGISTRY_PIDS=()       # processes of the registries
declare -A TITLE=()    # the name of a tool in the table
declare -A STEPS=()    # tools that are measured in several steps, which are tools too; the result is their sum
declare -A METHOD=()   # the method that the JSON report of ours must contain

BASELINE=''            # bytes in the watched folders before a tool's first step; empty: before this run
declare -A FAILED=()   # tools that failed, and the last line of their output

# Sets the variables of every benchmark, and cleans up at the end. Reads SIZE ROUNDS TOOL... from the command line.
begin() { # DEFAULT_SIZE ARGUMENT...
  is_root || die "only root can drop the page cache; run this as root"
  [ -n "${JACKAL_REGISTRY31:-}" ] || die "no registry is running; run this with: make bench-$(basename "$0")"
  SIZE="$(bytes_of "${2:-$1}")"
  ROUNDS="${3:-3}"
  shift "$(($# > 3 ? 3 : $#))"
  CHOSEN="$*"
  WORK="$(mktemp -d)"
  trap 'rm -rf --one-file-system "$WORK"' EXIT
  BIN="${BENCH_BIN:?BENCH_BIN must name the binary to measure, built by cargo build --release}"
  DOCKER="$("$BENCH_DIR/../parts" path docker)"
  CRANE="$("$BENCH_DIR/../parts" path crane)"
  REGCTL="$("$BENCH_DIR/../parts" path regctl)"
  SKOPEO="$("$BENCH_DIR/../parts" path skopeo)"
  # Zarf takes minutes to build, so it is needed only if it runs.
  ZARF=''
  case " $CHOSEN " in "  " | *" zarf "*) ZARF="$("$BENCH_DIR/../parts" path zarf)" ;; esac
  "$BENCH_DIR/../parts" path time >/dev/null
  DEST="$JACKAL_REGISTRY31"
  DEST_DIR="$JACKAL_STACK/registry31"
  PREFIX=''
  LOAD="$(cut -d ' ' -f 1 /proc/loadavg)"
  if [ "${LOAD%.*}" -ge 1 ]; then say "note: the load is $LOAD, so other processes use this machine; only the ratios are meaningful"; fi
  mapfile -t REGISTRY_PIDS <"$DEST_DIR/pid"
  export SIZE WORK BIN DOCKER CRANE REGCTL SKOPEO ZARF DEST PREFIX
}

# Sets the engine that the benchmark reads from: instance NAME of the stack, listening at HOST.
use_engine() { # NAME HOST
  ENGINE="$2"
  ENGINE_DIR="$JACKAL_STACK/$1"
  mapfile -t ENGINE_PIDS <"$ENGINE_DIR/pid"
  # The folder of exports, and the content store. Not the folders of layers: no tool writes there, and reading them would warm
  # the cache.
  WATCHED+=("$ENGINE_DIR/docker/tmp" "$ENGINE_DIR/containerd/io.containerd.content.v1.content")
  export ENGINE ENGINE_DIR
}

# A second registry, from which images are copied.
use_source() {
  "$BENCH_DIR/../stack" start registry31 source
  SOURCE_DIR="$JACKAL_STACK/source"
  SOURCE="$(sed -n 's/^JACKAL_REGISTRY31=//p' "$SOURCE_DIR/env")"
  REGISTRY_PIDS+=("$(head -n 1 "$SOURCE_DIR/pid")")
  WARMED+=("$SOURCE_DIR/registry")
  export SOURCE SOURCE_DIR
}

# 5 and 5G are 5,000,000,000.
bytes_of() { # SIZE
  local size=$1
  case $size in *[!0-9.]*) ;; *) size+=G ;; esac
  numfmt --from=si "$size" || die "not a size: $1; use for example 5G or 500M"
}

megabytes() { printf '%d' "$((($1 + 500000) / 1000000))"; }
hundredths() { printf '%d.%02d' "$(($1 / 100))" "$(($1 % 100))"; }
contains() { case " $1 " in *" $2 "*) ;; *) return 1 ;; esac }

# A tar with one file of SIZE incompressible bytes. It is not written to disk.
random_tar() { # SIZE SEED
  local hollow="$WORK/hollow-$2"
  mkdir -p "$hollow"
  truncate -s "$1" "$hollow/file-$2"
  # Encrypted zeros are random and fast. head stops the other commands early.
  (
    set +o pipefail
    tar --format=gnu --mtime=@0 -C "$hollow" -cf - "file-$2" 2>/dev/null | head -c 512
    head -c "$1" /dev/zero | openssl enc -aes-128-ctr -pass "pass:$2" -nosalt -pbkdf2
    head -c "$((1024 + (512 - $1 % 512) % 512))" /dev/zero
  )
  rm -r "$hollow"
}

# Writes a package of the images in $WORK/images, one per line.
write_package() { # SOURCE
  {
    cat <<END_OF_PACKAGE
apiVersion: jackal.dev/v1alpha1
kind: JackalPackage
metadata: {name: bench}
spec:
  version: 1.0.0
${BENCH_COMPRESSION:+  compression: $BENCH_COMPRESSION}
  components:
    - name: all
      images:
END_OF_PACKAGE
    sed "s|.*|        - {image: \"&\", source: $1}|" "$WORK/images"
  } >"$WORK/package.yaml"
}

# The CPU time of processes and of their children that have ended, in hundredths of a second.
cpu() { # PID...
  local pid stat ticks=0
  for pid in "$@"; do
    stat="$(cat "/proc/$pid/stat")" || die "a server ended: process $pid"
    stat="${stat##*) }"
    read -r -a stat <<<"$stat"
    ticks=$((ticks + stat[11] + stat[12] + stat[13] + stat[14]))
  done
  printf '%s\n' "$((ticks * 100 / $(getconf CLK_TCK)))"
}

# Bytes on disk in folders that may not exist. The folders have few files, so this takes milliseconds.
used() { # FOLDER...
  # Without arguments, du would measure the current folder.
  if [ $# -eq 0 ]; then
    echo 0
    return 0
  fi
  { du -s --total --block-size=1 "$@" 2>/dev/null || true; } | awk 'END { printf "%.0f\n", $1 }'
}

# Writes the maximum size of the folders to FILE, until it is stopped.
sample() { # FILE FOLDER...
  local file=$1 peak=0 now
  shift
  while :; do
    now="$(used "$@")"
    if [ "$now" -gt "$peak" ]; then
      peak=$now
      echo "$peak" >"$file"
    fi
    sleep 0.2
  done
}

# One run of a tool: appends "wall-ms client-cs engine-cs registry-cs peak-kB disk-bytes written-bytes" to
# $WORK/TOOL.CACHE. Fails if the tool fails.
measure() { # TOOL CACHE
  local tool=$1 started now engine=0 registry before sampler code=0 user system memory blocks log
  mkdir -p "$WORK/tmp"
  before="${BASELINE:-$(used "$WORK/tmp" "${WATCHED[@]}")}"
  echo "$before" >"$WORK/peak"
  log="$(stat -c %s "$DEST_DIR/log")"
  if [ "${#ENGINE_PIDS[@]}" -gt 0 ]; then engine="$(cpu "${ENGINE_PIDS[@]}")"; fi
  registry="$(cpu "${REGISTRY_PIDS[@]}")"
  sample "$WORK/peak" "$WORK/tmp" "${WATCHED[@]}" &
  sampler=$!
  started="$(date +%s%N)"
  TMPDIR="$WORK/tmp" /usr/bin/time --quiet -f '%U %S %M %O' -o "$WORK/time" timeout "$RUN_SECONDS" \
    bash -c "$(declare -f); set -euo pipefail; client_$tool" >"$WORK/out" 2>"$WORK/err" </dev/null || code=$?
  now="$(date +%s%N)"
  kill "$sampler"
  wait "$sampler" 2>/dev/null || true
  if [ "$code" -ne 0 ]; then return "$code"; fi
  read -r user system memory blocks < <(tail -n 1 "$WORK/time")
  if [ "${#ENGINE_PIDS[@]}" -gt 0 ]; then engine="$(($(cpu "${ENGINE_PIDS[@]}") - engine))"; fi
  printf '%d %d %d %d %d %d %d\n' "$(((now - started) / 1000000))" "$((10#${user/./} + 10#${system/./}))" "$engine" \
    "$(($(cpu "${REGISTRY_PIDS[@]}") - registry))" "$memory" "$(($(cat "$WORK/peak") - before))" "$((blocks * 512))" \
    >>"$WORK/$tool.$2"
  tail -c +"$((log + 1))" "$DEST_DIR/log" | grep -oE '\] "[A-Z]+ /' | cut -d ' ' -f 2 | tr -d '"' | sort | uniq -c |
    awk '{ printf "%s%d %s", sep, $1, $2; sep = ", " }' >"$WORK/$tool.requests" || true
  say "$2 $tool: $(line_of "$tool" "$2")"
}

line_of() { # TOOL CACHE
  local wall client engine registry memory disk written
  read -r wall client engine registry memory disk written < <(tail -n 1 "$WORK/$1.$2")
  printf '%s s, CPU %s + %s + %s s, %d MB, disk %s MB, client wrote %s MB, requests: %s' "$(seconds "$wall")" \
    "$(hundredths "$client")" "$(hundredths "$engine")" "$(hundredths "$registry")" "$((memory / 1000))" \
    "$(megabytes "$disk")" "$(megabytes "$written")" "$(cat "$WORK/$1.requests")"
}

# Checks the methods in the report of ours.
check_ours() { # TOOL CACHE
  local methods written
  [ -n "${METHOD[$1]:-}" ] || return 0
  methods="$(jq -r '.images[].method' "$WORK/out" | sort | uniq -c | awk '{ printf "%s%s of %d", sep, $2, $1; sep = ", " }')"
  echo "$methods" >"$WORK/$1.$2.methods"
  if [ "$2" = again ]; then
    case $methods in Unchanged*,* | [!U]*) die "the repeat of $1 was not Unchanged: $methods" ;; esac
  else
    jq -e --arg list "${METHOD[$1]}" 'all(.images[]; .method | IN($list | split("|")[]))' "$WORK/out" >/dev/null ||
      die "$1 used $methods instead of ${METHOD[$1]}: $(jq -r '[.images[].methodMessage // empty] | first' "$WORK/out")"
  fi
  written="$(tail -n 1 "$WORK/$1.$2" | cut -d ' ' -f 7)"
  [ "$written" -lt 10000000 ] || die "$1 wrote $written bytes outside the watched folders"
}

# Checks that every image is in the destination under its plain tag; writes the digests to $WORK/TOOL.digests.
check_arrived() { # TOOL
  local name path digest
  ! contains "$NOT_ARRIVING" "$1" || return 0
  while read -r name; do
    case $name in *.*/*/* | *:*/*/*) name="${name#*/}" ;; esac
    path="$PREFIX${name%:*}/manifests/${name##*:}"
    digest="$(curl --silent --fail --noproxy '*' --max-time 10 --head \
      -H 'Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json' \
      "http://$DEST/v2/$path" | tr -d '\r' | awk 'tolower($1) == "docker-content-digest:" { print $2 }')" ||
      die "$1 succeeded, but $DEST has no $path"
    printf '%s %s\n' "$name" "$digest"
  done <"$WORK/images" >"$WORK/$1.digests"
}

empty_destination() {
  rm -rf "$DEST_DIR/registry/docker"
  sync
}

# Runs before every run. A benchmark may replace it.
prepare() { # TOOL
  : "$1"
  empty_destination
}

warm_up() {
  [ "${#WARMED[@]}" -eq 0 ] || find "${WARMED[@]}" -type f -exec cat {} + >/dev/null
}

# Runs one tool once, with preparation and checks.
run_tool() { # TOOL CACHE
  local tool=$1 step steps
  [ -z "${FAILED[$tool]:-}" ] || return 0
  rm -rf "$WORK/tmp"
  prepare "$tool"
  case $2 in
    cold)
      sync
      echo 3 >/proc/sys/vm/drop_caches || die "could not drop the page cache"
      ;;
    warm) warm_up ;;
  esac
  read -r -a steps <<<"${STEPS[$tool]:-$tool}"
  # One TMPDIR for all steps: the second step uses files of the first.
  BASELINE="$(used "${WATCHED[@]}")"
  for step in "${steps[@]}"; do
    if ! measure "$step" "$2"; then
      BASELINE=''
      failed "$tool" "$2"
      return 0
    fi
  done
  BASELINE=''
  if [ -n "${STEPS[$tool]:-}" ]; then sum_steps "$tool" "$2" "${steps[@]}"; fi
  check_ours "$tool" "$2"
  check_arrived "$tool"
  if [ "$2" = warm ] && ! contains "$NOT_AGAIN" "$tool"; then
    if ! measure "$tool" again; then
      failed "$tool" again
      return 0
    fi
    check_ours "$tool" again
    cp "$WORK/$tool.requests" "$WORK/$tool.requests-again"
  fi
  rm -rf "$WORK/tmp"
}

# A peer that fails is skipped from then on and listed below the table; a failure of ours is fatal.
failed() { # TOOL CACHE
  tail -n 5 "$WORK/err" >&2
  case $1 in ours*) die "$1 failed, $2" ;; esac
  say "$1 failed, $2, and is skipped from now on"
  FAILED[$1]="$2: $(tail -n 1 "$WORK/err" | cut -c 1-300)"
  rm -rf "$WORK/tmp"
}

# Times and written bytes are added; of memory and disk the maximum counts, because the steps share one TMPDIR.
sum_steps() { # TOOL CACHE STEP...
  local tool=$1 cache=$2 step
  shift 2
  for step in "$@"; do tail -n 1 "$WORK/$step.$cache"; done | awk '
    { for (i = 1; i <= 4; i++) sum[i] += $i; if ($5 > memory) memory = $5; if ($6 > disk) disk = $6; written += $7 }
    END { print sum[1], sum[2], sum[3], sum[4], memory, disk, written }' >>"$WORK/$tool.$cache"
}

# Runs all tools alternately, ROUNDS times cold and ROUNDS times warm.
run_tools() { # TOOL...
  local cache round tool
  for cache in cold warm; do
    for round in $(seq "$ROUNDS"); do
      for tool in "$@"; do
        if [ -n "$CHOSEN" ] && ! contains "$CHOSEN" "$tool"; then continue; fi
        if contains "$SLOW" "$tool" && [ "$SLOW_ROUNDS" != all ] && [ "$round" -gt "$SLOW_ROUNDS" ]; then continue; fi
        run_tool "$tool" "$cache"
      done
    done
  done
  empty_destination
}

column() { awk -v c="$3" '{ print $c }' "$WORK/$1.$2" | sort -n; }  # TOOL CACHE COLUMN
median() { awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

# Prints a row for every tool and cache: medians, the range of seconds, the maximum of memory and disk.
table() { # TOOL...
  local cache tool base wall low high
  printf '\n%s, %s, %s cores, load before %s, after %s\n\n' "$(date -u +%F)" "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" \
    "$(nproc)" "$LOAD" "$(cut -d ' ' -f 1-3 /proc/loadavg)"
  printf '| tool | cache | s | from-to | client CPU s | engine CPU s | registry CPU s | client peak MB | extra disk MB | requests | times ours |\n'
  printf '|---|---|---|---|---|---|---|---|---|---|---|\n'
  for cache in cold warm again; do
    base=''
    for tool in "$@"; do
      [ -s "$WORK/$tool.$cache" ] || continue
      wall="$(column "$tool" "$cache" 1 | median)"
      low="$(column "$tool" "$cache" 1 | head -n 1)"
      high="$(column "$tool" "$cache" 1 | tail -n 1)"
      if [ -z "$base" ] && [ "$tool" = "$1" ]; then base=$((wall > 0 ? wall : 1)); fi
      printf '| %s | %s | %s | %s-%s (%d) | %s | %s | %s | %d | %s | %s | %s |\n' "${TITLE[$tool]:-$tool}" "$cache" "$(precise "$wall")" \
        "$(precise "$low")" "$(precise "$high")" "$(wc -l <"$WORK/$tool.$cache")" \
        "$(hundredths "$(column "$tool" "$cache" 2 | median)")" "$(hundredths "$(column "$tool" "$cache" 3 | median)")" \
        "$(hundredths "$(column "$tool" "$cache" 4 | median)")" "$(($(column "$tool" "$cache" 5 | tail -n 1) * 1024 / 1000000))" \
        "$(megabytes "$(column "$tool" "$cache" 6 | tail -n 1)")" \
        "$(if [ "$cache" = again ]; then cat "$WORK/$tool.requests-again"; fi)" \
        "$(if [ -n "$base" ]; then hundredths $((wall * 100 / base)); fi)"
    done
  done
  printf '\n'
  for tool in "$@"; do
    for cache in cold warm again; do
      if [ -s "$WORK/$tool.$cache.methods" ]; then
        printf '%s, %s: %s\n' "${TITLE[$tool]:-$tool}" "$cache" "$(cat "$WORK/$tool.$cache.methods")"
      fi
    done
    if [ -n "${FAILED[$tool]:-}" ]; then printf '%s failed, %s\n' "${TITLE[$tool]:-$tool}" "${FAILED[$tool]}"; fi
  done
}

# Milliseconds as seconds with two decimals.
precise() { printf '%d.%02d' "$(($1 / 1000))" "$(($1 % 1000 / 10))"; }

verdict() { if [ "$1" -ge "$2" ]; then echo reached; else echo MISSED; fi; }

# Compares the ratio of the times of TOOL and OURS with a target, in hundredths.
goal_times() { # OURS TOOL CACHE HUNDREDTHS
  local times
  if [ ! -s "$WORK/$1.$3" ] || [ ! -s "$WORK/$2.$3" ]; then return 0; fi
  times=$(($(column "$2" "$3" 1 | median) * 100 / $(column "$1" "$3" 1 | median)))
  printf 'goal: %s, %s: %s times ours, target %s: %s\n' "${TITLE[$2]:-$2}" "$3" "$(hundredths "$times")" \
    "$(hundredths "$4")" "$(verdict "$times" "$4")"
}

# Compares the median of TOOL with a limit.
goal_below() { # TOOL CACHE MILLISECONDS
  local wall
  [ -s "$WORK/$1.$2" ] || return 0
  wall="$(column "$1" "$2" 1 | median)"
  printf 'goal: %s, %s: %s s, target below %s s: %s\n' "${TITLE[$1]:-$1}" "$2" "$(precise "$wall")" "$(precise "$3")" \
    "$(verdict "$3" "$((wall + 1))")"
}

# Checks that a repeat without changes sends only HEAD requests.
goal_heads() { # TOOL
  [ -s "$WORK/$1.requests-again" ] || return 0
  printf 'goal: %s, again: %s, target HEAD only: %s\n' "${TITLE[$1]:-$1}" "$(cat "$WORK/$1.requests-again")" \
    "$(if grep -qvE '^[0-9]+ HEAD$' "$WORK/$1.requests-again"; then echo MISSED; else echo reached; fi)"
}

# Checks the memory limit and the disk usage of our runs, for every cache state.
goal_frugal() { # TOOL...
  local tool peak=0 disk=0 file value
  for tool in "$@"; do
    for file in "$WORK/$tool".{cold,warm,again}; do
      [ -s "$file" ] || continue
      value="$(awk '{ print $5 * 1024 }' "$file" | sort -n | tail -n 1)"
      if [ "$value" -gt "$peak" ]; then peak=$value; fi
      value="$(awk '{ print $6 }' "$file" | sort -n | tail -n 1)"
      if [ "$value" -gt "$disk" ]; then disk=$value; fi
    done
  done
  printf 'goal: peak memory of ours: %s MB, target below %d MB: %s; extra disk: %s MB\n' "$(megabytes "$peak")" \
    "$MEMORY_MB" "$(verdict "$((MEMORY_MB * 1000000 - 1))" "$peak")" "$(megabytes "$disk")"
}

# Compares the ratio of the times of the fastest peer and OURS with a target.
goal_best() { # OURS CACHE HUNDREDTHS TOOL...
  local ours=$1 cache=$2 aim=$3 tool best='' wall least=''
  shift 3
  for tool in "$@"; do
    [ -s "$WORK/$tool.$cache" ] || continue
    wall="$(column "$tool" "$cache" 1 | median)"
    if [ -z "$least" ] || [ "$wall" -lt "$least" ]; then
      least=$wall
      best=$tool
    fi
  done
  if [ -n "$best" ]; then goal_times "$ours" "$best" "$cache" "$aim"; fi
}
