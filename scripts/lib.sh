# shellcheck shell=bash
# Functions that the scripts share. Sourced, never executed.

JACKAL_CACHE="${JACKAL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/jackal-operator}"

# Messages go to stderr; stdout contains only output for a caller (paths, export lines).
say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

is_root() { [ "$(id -u)" -eq 0 ]; }

need_root() { # WHAT
  is_root || die "$1 needs root; run it again as root (for example with sudo -E)"
}

# Milliseconds since boot, for deadlines and durations: the wall clock may jump.
now_ms() {
  local uptime rest
  read -r uptime rest </proc/uptime
  : "$rest"
  printf '%s\n' "$((10#${uptime/./} * 10))"
}

# Milliseconds as seconds with one decimal.
seconds() { printf '%d.%d' "$(($1 / 1000))" "$(($1 % 1000 / 100))"; }
