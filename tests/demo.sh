#!/usr/bin/env bash
# Pontoon on three hosts, on this machine: shows what it does, in under a minute.
#
#   tests/demo.sh            run the demo and clean up (`make demo`, which builds first)
#   KEEP=1 tests/demo.sh     leave the hosts up afterwards, to look around
#   tests/demo.sh down       remove what KEEP=1, or a demo that was killed, left
#
# The hosts are network namespaces joined by a bridge: each has its own interfaces, routes, firewall and daemon.
# Every run has names of its own and changes nothing of the machine's own network.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${PONTOON_BIN_DIR:-${CARGO_TARGET_DIR:-$root/target}/debug}
id=pdemo$$                              # what the names of all namespaces of this run begin with
dir=/tmp/pontoon-$id                    # the daemons' data, sockets and logs
outside=203.0.113.10                    # a host behind the router (RFC 5737)
hosts=(h1 h2 h3)
declare -A address=([h1]=192.168.140.200 [h2]=192.168.140.201 [h3]=192.168.140.202)
declare -A host_of=([c1]=h1 [c2]=h2 [c3]=h3)    # which host a container is on
declare -A overlay=()                           # a container's address on the overlay
declare -A daemon=()                            # process ids
table=()                                        # lines of the summary
lost=0

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
  bold=$'\e[1m' cyan=$'\e[36m' red=$'\e[31m' green=$'\e[32m' off=$'\e[0m'
else
  bold='' cyan='' red='' green='' off=''
fi

die() { printf 'demo: %s\n' "$*" >&2; exit 1; }
step() { printf '\n%s== %s%s\n' "$bold" "$*" "$off"; }
say() { printf '%s\n' "$*"; }
prompt() { printf '\n%s[%s] $ %s%s\n' "$cyan" "$1" "$2" "$off"; }

# Runs a command in a namespace of this run. Not `ip netns exec`: it would give a daemon a mount namespace of its
# own, and the overlay's namespace would be gone with the daemon.
within() { local ns=$1; shift; nsenter --net="/run/netns/$id-$ns" -- "$@"; }

# Prints a command as the administrator of host $1 would type it, and runs it.
pontoon() {
  local host=$1; shift
  prompt "$host" "pontoon $*"
  ask "$host" "$@"
}
ask() { local host=$1; shift; "$bin/pontoon" --host "unix://$dir/$host/pontoon.sock" "$@"; }

# ---- the hosts --------------------------------------------------------------------------------------------------

namespace() { ip netns add "$id-$1"; ip -n "$id-$1" link set lo up; }

# Gives namespace $1 an interface ens33 with address $2 on the LAN.
plug() {
  ip -n "$id-lan" link add "p-$1" type veth peer name ens33 netns "$id-$1"
  ip -n "$id-lan" link set "p-$1" master br0 up
  ip -n "$id-$1" addr add "$2/24" dev ens33
  ip -n "$id-$1" link set ens33 up
}

make_hosts() {
  namespace lan; namespace router; namespace outside
  ip -n "$id-lan" link add br0 type bridge
  ip -n "$id-lan" link set br0 up
  plug router 192.168.140.1
  ip -n "$id-router" link add out0 type veth peer name eth0 netns "$id-outside"
  ip -n "$id-router" addr add 203.0.113.1/24 dev out0
  ip -n "$id-router" link set out0 up
  within router sysctl -qw net.ipv4.ip_forward=1
  ip -n "$id-outside" addr add "$outside/24" dev eth0
  ip -n "$id-outside" link set eth0 up
  ip -n "$id-outside" route add default via 203.0.113.1
  local host
  for host in "${hosts[@]}"; do
    namespace "$host"
    plug "$host" "${address[$host]}"
    ip -n "$id-$host" route add default via 192.168.140.1
    within "$host" sysctl -qw net.ipv4.ip_forward=0
    mkdir -p "$dir/$host"
    : >"$dir/$host/pontoon.toml"
  done
}

start_daemon() {
  local host=$1 folder=$dir/$1
  # nsenter becomes the daemon, so the process id is the daemon's. Through a function it would be a shell's.
  nsenter --net="/run/netns/$id-$host" -- "$bin/pontoond" --docker off --config "$folder/pontoon.toml" --data-dir "$folder/data" \
    --socket "$folder/pontoon.sock" --netns "$id-$host-pontoon" >>"$folder/log" 2>&1 </dev/null &
  daemon[$host]=$!
  disown
}

# The loops below ask again until a deadline: whatever they wait for is usually there within milliseconds.
wait_daemon() {
  local host=$1 _
  for _ in $(seq 200); do
    ask "$host" status >/dev/null 2>&1 && return
    kill -0 "${daemon[$host]}" 2>/dev/null || break
    sleep 0.05
  done
  tail -n 20 "$dir/$host/log" >&2
  die "the daemon on $host does not answer; its log is above"
}

start_daemons() {
  local host
  for host in "${hosts[@]}"; do
    prompt "$host" "pontoond"
    start_daemon "$host"
  done
  for host in "${hosts[@]}"; do wait_daemon "$host"; done
  say "three daemons run, and wait to be told what to do"
}

# The host whose daemon leads, as the daemon on host $1 sees it.
leader() { ask "$1" -o json node ls | awk -F'"' '/"name":/ { name = $4 } /"leader": true/ { print name }'; }

wait_leader() {
  local found _
  for _ in $(seq 100); do
    found=$(leader "$1" 2>/dev/null) && [[ -n $found && $found != "${2:-}" ]] && { echo "$found"; return; }
    sleep 0.05
  done
  die "no leader after 5 s: see $dir/*/log"
}

# ---- containers -------------------------------------------------------------------------------------------------

attach() {
  local name=$1 host=${host_of[$1]}
  namespace "$name"
  pontoon "$host" attach --network my-overlay --netns "/run/netns/$id-$name" --name "$name"
  overlay[$name]=$(ip -n "$id-$name" -4 -o addr show dev eth0 | awk '{ sub("/.*", "", $4); print $4; exit }')
}

# A container is on the overlay when attach returns; the other hosts hear of it a moment later.
settle() {
  local from=$1 to=$2 _
  for _ in $(seq 50); do
    within "$from" ping -n -q -c 1 -W 1 "$to" >/dev/null 2>&1 && return
  done
  return 0    # the ping that follows shows it
}

# Adds ping's counts to the summary: from, to, what that is, ping's output.
count() {
  local from=$1 to=$2 what=$3 output=$4 sent got loss
  sent=$(sed -nE 's/^([0-9]+) packets transmitted.*/\1/p' <<<"$output")
  got=$(sed -nE 's/.* ([0-9]+) received.*/\1/p' <<<"$output")
  sent=${sent:-0} got=${got:-0}
  if [[ $sent -gt 0 && $sent -eq $got ]]; then
    loss="${green}0 % loss$off"
  else
    loss="$red$((sent - got)) lost$off" lost=1
  fi
  table+=("$(printf '  %-3s -> %-15s  %-34s %5s sent %5s received  %s' "$from" "$to" "$what" "$sent" "$got" "$loss")")
}

check() {
  local from=$1 to=$2 what=$3 output
  settle "$from" "$to"
  prompt "$from on ${host_of[$from]}" "ping -c 10 -i 0.02 $to    # $what"
  output=$(within "$from" ping -n -q -c 10 -i 0.02 -W 1 "$to" 2>&1) || true
  grep -E 'transmitted|rtt|unreachable|error' <<<"$output" || say "$output"
  count "$from" "$to" "$what" "$output"
}

pings() {
  check c1 "${address[h1]}" "its own host"
  check c1 "${address[h2]}" "another host"
  check c1 "$outside" "the outside, behind the router"
  local from to
  for from in c1 c2 c3; do
    for to in c1 c2 c3; do
      [[ $from == "$to" ]] || check "$from" "${overlay[$to]}" "$to, on ${host_of[$to]}"
    done
  done
}

# ---- the bad day ------------------------------------------------------------------------------------------------

kill_leader() {
  local old survivor ways=(c1:c2 c2:c3 c3:c1) way pids=() pid
  old=$(wait_leader h1)
  survivor=h1; [[ $old == h1 ]] && survivor=h2
  say "Traffic first: each container pings the next, every 10 ms, 600 times, while the following happens."
  for way in "${ways[@]}"; do
    within "${way%:*}" ping -n -q -c 600 -i 0.01 -W 1 "${overlay[${way#*:}]}" >"$dir/ping-$way" 2>&1 &
    pids+=($!)
  done
  sleep 1
  prompt "$old" "kill -9 ${daemon[$old]}    # pontoond on $old, which leads"
  kill -9 "${daemon[$old]}"
  unset "daemon[$old]"
  host_of[c4]=$survivor
  local start=${EPOCHREALTIME/./}
  attach c4
  say "(attached $(((${EPOCHREALTIME/./} - start) / 1000)) ms after the leader's death)"
  wait_leader "$survivor" "$old" >/dev/null
  pontoon "$survivor" node ls
  local other; for other in c1 c2 c3; do
    # The killed daemon's host cannot hear of a new container; the other one does.
    [[ ${host_of[$other]} == "$old" || ${host_of[$other]} == "$survivor" ]] || check c4 "${overlay[$other]}" "$other, on ${host_of[$other]}"
  done
  for pid in "${pids[@]}"; do wait "$pid" || true; done
  say; say "What the pings counted meanwhile:"
  for way in "${ways[@]}"; do
    grep transmitted "$dir/ping-$way" || cat "$dir/ping-$way"
    count "${way%:*}" "${overlay[${way#*:}]}" "while the leader was killed" "$(cat "$dir/ping-$way")"
  done
  step "The killed daemon comes back"
  prompt "$old" "pontoond"
  start_daemon "$old"
  wait_daemon "$old"
  for other in c1 c2 c3; do
    [[ ${host_of[$other]} != "$old" ]] || check c4 "${overlay[$other]}" "$other, on $old, which is back"
  done
}

# ---- beginning and end ------------------------------------------------------------------------------------------

# Removes a run: ends the processes in its namespaces, which are all its own, and removes those.
remove() {
  local prefix=$1 folder=$2 path
  for path in "/run/netns/$prefix"-*; do
    [[ -e $path ]] && ip netns pids "${path##*/}" | xargs -r kill -9
  done
  for path in "/run/netns/$prefix"-*; do
    [[ -e $path ]] && ip netns del "${path##*/}"
  done
  rm -rf "$folder"
}

finish() {
  local code=$?
  trap - EXIT INT TERM HUP
  if [[ -n ${KEEP:-} && $code -lt 128 && -d $dir ]]; then
    touch "$dir/kept"
    [[ $code -eq 0 ]] || printf '\ndemo: ended early (exit code %s); left as it is in %s\n' "$code" "$dir" >&2
  else
    [[ $code -eq 0 ]] || printf '\ndemo: ended early (exit code %s); cleaning up\n' "$code" >&2
    remove "$id" "$dir" 2>/dev/null || true
  fi
  exit "$code"
}

down() {
  local folder prefix found=0
  for folder in /tmp/pontoon-pdemo*; do
    [[ -d $folder ]] || continue
    prefix=${folder#/tmp/pontoon-}
    # One that still runs cleans up after itself.
    [[ -e $folder/kept ]] || ! kill -0 "${prefix#pdemo}" 2>/dev/null || continue
    remove "$prefix" "$folder"
    say "removed $prefix"
    found=1
  done
  [[ $found == 1 ]] || say "there is no demo to remove"
}

summary() {
  step "Summary"
  printf '%s\n' "${table[@]}"
  say
  if [[ $lost == 0 ]]; then
    say "${green}Nothing was lost.$off The overlay outlived its leader."
  else
    say "${red}Packets were lost.$off"
  fi
  if [[ -n ${KEEP:-} ]]; then
    look_around
  else
    say "To look around, run it with KEEP=1: make demo KEEP=1"
  fi
}

look_around() {
  cat <<END

The hosts are still there. Look around:
  export PONTOON_HOST=unix://$dir/h1/pontoon.sock
  $bin/pontoon status
  $bin/pontoon lease ls
  ip netns exec $id-c1 ping ${overlay[c2]}     # in a container
  ip -n $id-h1 -br addr                       # on a host: what the overlay adds does not clutter it
  ip -n $id-h1-pontoon -d link                # the overlay's own namespace
  less $dir/h1/log
Remove them: tests/demo.sh down
END
}

preflight() {
  [[ $(id -u) -eq 0 ]] || die "the demo makes network namespaces, which needs root: run it with sudo, or as root"
  local tool
  for tool in ip nft ping nsenter sysctl; do
    command -v "$tool" >/dev/null || die "$tool is not installed: tests/setup.sh demo installs what the demo needs"
  done
  [[ -x $bin/pontoond && -x $bin/pontoon ]] || die "pontoond and pontoon are not built: run make demo, which builds them"
}

main() {
  preflight
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  mkdir "$dir"
  say "${bold}Pontoon: one network for the containers of three hosts$off"
  say "Hosts and containers are network namespaces here. The daemons, the kernel's VXLAN and the packets are real."

  step "Three hosts on one LAN (192.168.140.0/24, ens33), and an outside ($outside) behind a router"
  make_hosts
  start_daemons

  step "A cluster"
  local told token
  told=$(pontoon h1 init --advertise "${address[h1]}" --name h1 --token-uses 2 | tee /dev/stderr)
  token=$(grep -o 'PTN1-[A-Z2-7]*' <<<"$told") || die 'init prints no token'
  pontoon h2 join "$token" --name h2
  pontoon h3 join "$token" --name h3
  pontoon h2 node ls

  step "A network, made on one host and there on all"
  pontoon h1 network create my-overlay

  step "A container on each host"
  attach c1; attach c2; attach c3
  pontoon h3 network inspect my-overlay
  prompt "c1 on h1" "ip addr"
  within c1 ip addr

  step "Who reaches whom"
  pings

  step "The leader is killed"
  kill_leader

  summary
  return "$lost"
}

case ${1:-} in
  '') main ;;
  down) down ;;
  *) sed -n '2,7p' "$0" | sed 's/^# \{0,1\}//'; exit 2 ;;
esac
