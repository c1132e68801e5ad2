#!/usr/bin/env bash
# Installs what is missing, and nothing else: `tests/setup.sh demo` for the demo, `tests/setup.sh demo-docker` for that
# with Docker, `tests/setup.sh test` for the tests, `tests/setup.sh engines` for one more Docker Engine to test with,
# `tests/setup.sh bench` for the benchmarks, `tests/setup.sh check` for the checks. Debian's packages; on another system
# it names the programs.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}          # what is made here is kept between runs, and gone with `cargo clean`
tools=$target/tools                               # where cargo-deny goes
engines=$target/engines                           # Docker Engines of other Debian releases, a root folder each

# program:package
demo=(ip:iproute2 nft:nftables ping:iputils-ping sysctl:procps)
image=(busybox:busybox-static iperf3:iperf3 sockperf:sockperf)
test=("${demo[@]}" "${image[@]}" strace:strace jq:jq ss:iproute2
  setpriv:util-linux systemd-analyze:systemd docker-compose:docker-compose iptables:iptables debootstrap:debootstrap)
faketime='/usr/lib/*/faketime/libfaketimeMT.so.1'

die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
is_there() {
  if [[ $1 == */* ]]; then
    compgen -G "$1" >/dev/null
  else
    # A program, not a function of this script that has its name.
    PATH=$PATH:/usr/sbin:/sbin type -P "$1" >/dev/null
  fi
}

packages() {
  local pair missing=()
  for pair in "$@"; do is_there "${pair%:*}" || missing+=("${pair##*:}"); done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  command -v apt-get >/dev/null || die "please install what these Debian packages hold: ${missing[*]}"
  [[ $(id -u) -eq 0 ]] || die "these packages are missing, and only root can install them: apt-get install ${missing[*]}"
  printf 'setup: installing %s\n' "${missing[*]}"
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null
}

# The tests start engines of their own. A package would start one as a service of this machine, now and at every boot.
docker() {
  is_there /usr/sbin/dockerd && return
  local policy=/usr/sbin/policy-rc.d
  if [[ $(id -u) -eq 0 && ! -e $policy ]]; then
    trap "rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  packages /usr/sbin/dockerd:docker.io
  [[ ! -d /run/systemd/system ]] || systemctl --quiet disable docker.service docker.socket containerd.service
}

# Makes something that the engines need, once: $1 is its name, the rest a command that is given a path to make it at.
# Whoever comes while another makes it waits, and finds it made.
keep() {
  local made=$engines/$1 making=$engines/$1.making lock
  [[ ! -e $made ]] || return 0
  mkdir -p "$engines"
  exec {lock}>"$made.lock"
  flock "$lock"
  if [[ ! -e $made ]]; then
    rm -rf "$making"
    "${@:2}" "$making"
    mv "$making" "$made"
  fi
  exec {lock}>&-
}

# A root folder with the Docker Engine of another Debian release.
suite() {
  local suite=$1 making=$2 log=$engines/$1.log
  [[ $(id -u) -eq 0 ]] || die "only root can make the root folder of an engine: run this as root"
  printf 'setup: making a root folder with the Docker Engine of %s, once (half a minute)\n' "$suite"
  PATH=$PATH:/usr/sbin:/sbin debootstrap --variant=minbase --include=docker.io,docker-cli,iptables,ca-certificates \
    "$suite" "$making" >"$log" 2>&1 || die "debootstrap failed; the end of $log: $(tail -5 "$log")"
  rm -rf "$making"/var/cache/apt/archives/*.deb
}

# What containers run: busybox, iperf3 and sockperf with their libraries, as `docker load` reads it. They are stopped
# with SIGKILL, because a first process ignores SIGTERM unless it asks for it.
image() {
  local making=$1 work=$1.work program digest
  local layer=$work/layer
  rm -rf "$work"
  mkdir -p "$layer"/{bin,etc,tmp}
  for program in busybox iperf3 sockperf; do
    program=$(command -v "$program")
    cp "$program" "$layer/bin"
    # busybox may need none.
    { ldd "$program" 2>/dev/null || true; } | { grep -o '/[^ ]*' || true; } | xargs -r cp -L --parents -t "$layer"
  done
  for program in $(busybox --list); do [[ -e $layer/bin/$program ]] || ln -s busybox "$layer/bin/$program"; done
  tar -C "$layer" --owner=0 --group=0 -cf "$work/layer.tar" .
  digest=$(sha256sum <"$work/layer.tar")
  printf '{"os": "linux", "architecture": "%s", "config": {"Cmd": ["sleep", "1d"], "StopSignal": "SIGKILL"},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:%s"]}}' \
    "$(dpkg --print-architecture)" "${digest%% *}" >"$work/config.json"
  printf '[{"Config": "config.json", "RepoTags": ["pontoon-test:latest"], "Layers": ["layer.tar"]}]' \
    >"$work/manifest.json"
  tar -C "$work" -cf "$making" manifest.json config.json layer.tar
  rm -rf "$work"
}

nextest() {
  cargo nextest --version >/dev/null 2>&1 && return
  printf 'setup: building cargo-nextest, once (some minutes)\n'
  cargo install --locked --quiet cargo-nextest
}

# The advisory database is fetched from elsewhere and is no part of this check, so neither is the code for it.
deny() {
  is_there cargo-deny || [[ -x $tools/bin/cargo-deny ]] && return
  printf 'setup: building cargo-deny, once (some minutes)\n'
  cargo install --locked --quiet --debug --no-default-features --root "$tools" --target-dir "$tools/build" cargo-deny
  rm -rf "$tools/build"
}

# Installed as a package, etcd would also be started as a service of this machine.
etcd() {
  is_there etcd || [[ -x $tools/bin/etcd ]] && return
  command -v apt-get >/dev/null || die "please put etcd 3.4 or later on the PATH: the benchmarks run it beside Pontoon"
  printf 'setup: unpacking etcd\n'
  local unpacked=$tools/etcd
  mkdir -p "$unpacked" "$tools/bin"
  (cd "$unpacked" && apt-get -qq update && apt-get -qq -o APT::Sandbox::User=root download etcd-server && dpkg -x etcd-server_*.deb .)
  mv "$unpacked/usr/bin/etcd" "$tools/bin/etcd"
  rm -rf "$unpacked"
}

case ${1:-} in
  demo) packages "${demo[@]}" ;;
  demo-docker)
    packages "${demo[@]}" "${image[@]}" iptables:iptables
    docker
    keep image.tar image
    ;;
  test)
    packages "${test[@]}" "$faketime:libfaketime"
    docker
    keep trixie suite trixie
    keep image.tar image
    nextest
    ;;
  engines) packages "${test[@]}"; docker; keep sid suite sid; keep image.tar image ;;
  bench) packages "${test[@]}"; docker; keep trixie suite trixie; keep image.tar image; etcd ;;
  check) packages clang-14:clang-14 /usr/include/linux/bpf.h:linux-libc-dev; deny ;;
  *) sed -n '2,5p' "$0" | sed 's/^# //'; exit 2 ;;
esac
