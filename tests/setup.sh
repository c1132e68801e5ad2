#!/usr/bin/env bash
# Installs what is missing, and nothing else: `tests/setup.sh demo` for the demo, `tests/setup.sh test` for the tests,
# `tests/setup.sh bench` for the benchmarks, `tests/setup.sh check` for the checks. Debian's packages; on another system it names the programs.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=${CARGO_TARGET_DIR:-$root/target}/tools     # where cargo-deny goes: kept between runs, gone with `cargo clean`

# program:package
demo=(ip:iproute2 nft:nftables ping:iputils-ping sysctl:procps)
test=("${demo[@]}" strace:strace iperf3:iperf3 sockperf:sockperf jq:jq ss:iproute2
  setpriv:util-linux systemd-analyze:systemd)
faketime='/usr/lib/*/faketime/libfaketimeMT.so.1'

die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
is_there() {
  if [[ $1 == */* ]]; then
    compgen -G "$1" >/dev/null
  else
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null
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

nextest() {
  cargo nextest --version >/dev/null 2>&1 && return
  printf 'setup: building cargo-nextest, once (some minutes)\n'
  cargo install --locked --quiet cargo-nextest
}

# The advisory database is fetched from elsewhere and is no part of this check, so neither is the code for it.
deny() {
  is_there cargo-deny || [[ -x $tools/bin/cargo-deny ]] && return
  printf 'setup: building cargo-deny, once (some minutes)\n'
  cargo install --locked --quiet --no-default-features --root "$tools" --target-dir "$tools/build" cargo-deny
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
  test) packages "${test[@]}" "$faketime:libfaketime"; nextest ;;
  bench) packages "${test[@]}"; etcd ;;
  check) deny ;;
  *) sed -n '2,4p' "$0" | sed 's/^# //'; exit 2 ;;
esac
