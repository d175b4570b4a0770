# shellcheck shell=bash
# `bootstrap` that is interrupted. Sourced by scripts/e2e-bootstrap, never executed.

# shellcheck disable=SC2154  # set by scripts/e2e-bootstrap

# Another machine in the network, from which bootstrap reaches the API server.
LAPTOP=10.99.0.2

laptop_network() {
  if [ -e "$work/laptop/holder" ]; then return 0; fi
  mkdir -p "$work/laptop"
  server laptop unshare --net sh -c "echo \$\$ >'$work/laptop/holder'; exec sleep infinity"
  await laptop test -s "$work/laptop/holder"
  ip link add jkl type veth peer name eth0 netns "$(cat "$work/laptop/holder")"
  ip link set jkl master jk0 up
  on_laptop ip link set lo up
  on_laptop ip addr add "$LAPTOP/24" dev eth0
  on_laptop ip link set eth0 up
}

on_laptop() { nsenter --target "$(cat "$work/laptop/holder")" --net -- "$@"; }

# Starts bootstrap in the background over a network of 100 Mbit/s.
background_bootstrap() {
  laptop_network
  on_laptop tc qdisc replace dev eth0 root tbf rate 100mbit burst 256kb latency 100ms
  on_laptop jackal-operator bootstrap "$work/site.tar.zst" >"$work/bootstrap.log" 2>&1 </dev/null &
  running=$!
}

# Waits for it, repeats it if it failed, and compares the result.
finish_bootstrap() {
  local code=0
  wait "$running" || code=$?
  note "the interrupted bootstrap: exit code $code$([ "$code" -eq 0 ] || tail -n 1 "$work/bootstrap.log" | sed 's/^/: /')"
  on_laptop tc qdisc del dev eth0 root
  if [ "$code" -ne 0 ]; then bootstrap "$work/site.tar.zst"; fi
  all_ready
  packed_pods interrupted
  remove_team
  undo
}

seed_runs() {
  kubectl -n jackal-seed get pods -o json | jq -e '.items | length > 0 and all(.status.phase == "Running")' >/dev/null
}

# Whether seeds have received something.
in_delivery() { seed_runs && on_seed_bytes; }

on_seed_bytes() {
  local n size
  for n in "${NODES[@]}"; do
    size="$(du -s "$work/node$n/lib/kubelet/pods" | cut -f 1)"
    [ "$size" -gt 4000 ] || return 1
  done
}

# Kills bootstrap when it prints a line that no earlier run has printed, until one ends by itself.
killed_step() {
  local line kind kills=0 code pid seen="$work/seen" killed
  step 'bootstrap is killed at each line that it prints for the first time, and repeated'
  : >"$seen"
  mkfifo "$work/lines"
  while :; do
    killed='' code=0
    jackal-operator bootstrap "$work/site.tar.zst" >"$work/lines" 2>&1 </dev/null &
    pid=$!
    exec 6<"$work/lines"
    while read -r line <&6; do
      kind="${line//[0-9.]/}"
      if [ -z "$killed" ] && ! grep -qxF -e "$kind" "$seen"; then
        printf '%s\n' "$kind" >>"$seen"
        kill -KILL "$pid" 2>/dev/null || true
        killed=yes kills=$((kills + 1))
        note "killed at: $line"
      fi
    done
    exec 6<&-
    wait "$pid" 2>/dev/null || code=$?
    if [ -z "$killed" ]; then break; fi
  done
  rm "$work/lines"
  [ "$code" -eq 0 ] || fail "bootstrap after $kills kills: exit code $code"
  [ "$kills" -ge 12 ] || fail "bootstrap was killed at $kills steps only"
  all_ready
  packed_pods killed
  remove_team
  undo
}

seed_pod_step() {
  step 'A seed pod is deleted during the delivery'
  background_bootstrap
  until_true "$TIMEOUT" 'no delivery' in_delivery
  kubectl -n jackal-seed delete pods --all --grace-period 0 --force >/dev/null 2>&1
  finish_bootstrap
}

apiserver_step() {
  step 'The API server restarts during the delivery'
  background_bootstrap
  until_true "$TIMEOUT" 'no delivery' in_delivery
  end_server kube-apiserver
  start_control_plane_apiserver
  finish_bootstrap
}

node_step() {
  step 'The kubelet and the containerd of a node restart during the delivery'
  background_bootstrap
  until_true "$TIMEOUT" 'no delivery' in_delivery
  end_server kubelet1
  end_server containerd1
  start_node_containerd 1
  start_kubelet 1
  finish_bootstrap
}

connection_step() {
  step 'All connections to the API server are reset during the delivery, and refused for some seconds'
  background_bootstrap
  until_true "$TIMEOUT" 'no delivery' in_delivery
  iptables -I INPUT -s "$LAPTOP" -p tcp --dport 6443 -j REJECT --reject-with tcp-reset
  sleep 3
  iptables -D INPUT -s "$LAPTOP" -p tcp --dport 6443 -j REJECT --reject-with tcp-reset
  finish_bootstrap
}
