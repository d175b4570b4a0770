# shellcheck shell=bash
# Runs and reports the steps of scripts/interop, and runs each tool. Sourced, never executed.

# shellcheck disable=SC2154  # WORK, HERE and the servers' addresses are set by scripts/interop and scripts/stack

# The maximum duration in seconds of one command on a slow machine.
TOOL_SECONDS=180

passed=0
failed=()

# Runs FUNCTION as a step. A failed command fails only this step. Notes of the step are printed below its title.
check() { # TITLE FUNCTION [ARGUMENT...]
  local title=$1 started code took
  shift
  started="$(now_ms)"
  : >"$WORK/notes"
  rm -rf "$WORK/step"
  mkdir "$WORK/step"
  # Not `if (...)`: bash would ignore `set -e` in the subshell.
  set +e
  (
    trap - EXIT
    set -e
    cd "$WORK/step"
    "$@"
  ) >"$WORK/step.log" 2>&1 </dev/null
  code=$?
  set -e
  took="$(seconds $(($(now_ms) - started)))"
  if [ "$code" -eq 0 ]; then
    passed=$((passed + 1))
    printf 'ok: %s (%s s)\n' "$title" "$took"
  else
    failed+=("$title")
    printf 'FAILED: %s (%s s)\n' "$title" "$took"
    tail -n 25 "$WORK/step.log" | cut -c 1-600 | sed 's/^/    /'
  fi
  sed 's/^/    /' "$WORK/notes"
}

# Adds a line to the notes of the step.
note() { printf '%s\n' "$*" >>"$WORK/notes"; }

fail() {
  say "error: $*"
  exit 1
}

same() { # WHAT EXPECTED FOUND
  [ "$2" = "$3" ] || fail "$1: expected $2 and found $3"
}

# Checks that COMMAND fails and prints WORDS.
refused() { # WORDS COMMAND...
  local words=$1 said
  shift
  if said="$("$@" 2>&1)"; then fail "succeeded, but should have failed with: $words"; fi
  grep -qF -- "$words" <<<"$said" || fail "expected the output: $words; got: $said"
  note "refused: $(grep -F -- "$words" <<<"$said" | head -n 1 | grep -oF -- "$words" | head -n 1)"
}

summary() {
  printf '\n%d steps passed, %d failed\n' "$passed" "${#failed[@]}"
  if [ "${#failed[@]}" -gt 0 ]; then
    printf '  %s\n' "${failed[@]}"
    return 1
  fi
}

# --- The tools ------------------------------------------------------------------------------------------

part() { "$HERE/parts" path "$1"; }

find_tools() { # GROUP...
  BIN="${JACKAL_INTEROP_BINARY:?must name our binary}"
  CRANE="$(part crane)" REGCTL="$(part regctl)" ORAS="$(part oras)" SKOPEO="$(part skopeo)" HELM="$(part helm)"
  case " $* " in *" zarf "* | *" deploy "* | *" components "*) ZARF="$(part zarf)" ;; esac
  case " $* " in *" sboms "* | *" docker "*) SYFT="$(part syft)" ;; esac
  case " $* " in *" signatures "*) COSIGN="$(part cosign)" ;; esac
  case " $* " in *" docker "*) DOCKER="$(part docker)" ;; esac
  case " $* " in *" deploy "* | *" components "*) KUBECTL="$(part kubectl)" ;; esac
  # Nothing of the user's environment: no credentials, no caches, no proxies for the ports of this machine.
  export HOME="$WORK/home" DOCKER_CONFIG="$WORK/home/docker" REGCTL_CONFIG="$WORK/home/regctl.json" XDG_RUNTIME_DIR="$WORK/home"
  unset XDG_CACHE_HOME XDG_CONFIG_HOME HTTP_PROXY HTTPS_PROXY http_proxy https_proxy ALL_PROXY all_proxy
  mkdir -p "$DOCKER_CONFIG"
}

limited() { timeout "$TOOL_SECONDS" "$@"; }

ours() { DOCKER_HOST="${DOCKER_HOST:-unix:///nowhere}" limited "$BIN" --log error "$@"; }

# Builds the package of FILE and prints the report.
build() { # FILE DESTINATION FLAG...
  local file=$1 to=$2
  shift 2
  ours build "$file" --to "$to" --insecure --insecure-registry "$SOURCE,$OLD,$DEST" --output json "$@"
}

crane() { limited "$CRANE" --insecure "$@"; }

regctl() {
  limited "$REGCTL" --host "reg=$SOURCE,tls=disabled" --host "reg=$DEST,tls=disabled" --host "reg=$OLD,tls=disabled" "$@"
}

# The flags follow the command: oras COMMAND --plain-http ...
oras() { # COMMAND ARGUMENT...
  local command=$1
  shift
  case $command in
    cp) limited "$ORAS" cp --no-tty --from-plain-http --to-plain-http "$@" ;;
    pull | push | attach) limited "$ORAS" "$command" --no-tty --plain-http "$@" ;;
    manifest | repo | blob) limited "$ORAS" "$command" "$1" --plain-http "${@:2}" ;;
    *) limited "$ORAS" "$command" --plain-http "$@" ;;
  esac
}

skopeo() { # COMMAND ARGUMENT...
  local command=$1
  shift
  case $command in
    copy) limited "$SKOPEO" --insecure-policy copy --quiet --src-tls-verify=false --dest-tls-verify=false "$@" ;;
    *) limited "$SKOPEO" --insecure-policy "$command" --tls-verify=false "$@" ;;
  esac
}

# Each step has its own cache, so that everything is read from the registry.
zarf() {
  mkdir -p "$WORK/step/tmp"
  limited "$ZARF" --no-color --log-format console --log-level info --architecture "${ARCHITECTURE:-amd64}" --plain-http \
    --tmpdir "$WORK/step/tmp" --cache "$WORK/step/cache" "$@"
}

sha256() { sha256sum "$1" | cut -d ' ' -f 1; }

# The digest of a manifest's bytes, which a client without digests reads. The bytes are in $WORK/manifest.
digest_of() { # HOST/REPOSITORY:TAG, or with a digest, which counts alone
  local host=${1%%/*} path=${1#*/} reference=${1##*[:@]}
  case $path in *@*) reference=${path#*@} ;; esac
  path=${path%%[:@]*}
  curl --silent --show-error --fail --noproxy '*' --max-time 20 \
    -H 'Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json' \
    "http://$host/v2/$path/manifests/$reference" >"$WORK/manifest" || fail "$1 does not exist"
  printf 'sha256:%s\n' "$(sha256 "$WORK/manifest")"
}

# Checks a package's files in FOLDER as the commands that read packages do: each listed file exists with its checksum, there are
# no other files, and the definition contains the checksum of the list.
check_package() { # FOLDER DEFINITION
  local listed found
  (cd "$1" && sed '/^$/d; s/ /  /' checksums.txt | sha256sum --check --quiet --strict)
  listed="$(sed '/^$/d; s/^[^ ]* //' "$1/checksums.txt" | LC_ALL=C sort)"
  found="$(cd "$1" && find . -type f -printf '%P\n' | grep -vxF -e "$2" -e checksums.txt | LC_ALL=C sort)"
  same 'the files of the package' "$listed" "$found"
  grep -qF "aggregateChecksum: '$(sha256 "$1/checksums.txt")'" "$1/$2" ||
    grep -qF "aggregateChecksum: $(sha256 "$1/checksums.txt")" "$1/$2" || fail "$2 has another checksum of checksums.txt"
}
