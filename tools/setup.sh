#!/usr/bin/env bash
# Puts in place everything that building, testing and measuring needs, and nothing else.
#
#   tools/setup.sh          Debian packages, npm dependencies, peers
#   tools/setup.sh build    only what a build needs (no peers)
#
# Idempotent; a second run does nothing and takes well under two seconds. Runs as root on Debian 12.
# Debian's own containerd, runc, crun and CNI plugins are installed by apt; newer containerds (1.7
# from trixie, 2.x from sid) and Node 24 are unpacked below build/peers and never touch the system.
# No service is started. Every download stays inside build/.
set -euo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD
PEERS=$ROOT/build/peers
WHAT=${1:-all}

say() { printf 'setup: %s\n' "$*"; }
die() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

BUILD_PACKAGES=(g++ make clang clang-format libclang-rt-14-dev pkg-config libseccomp-dev libprotozero-dev)
# What `bulkhead guest build` compiles Linux and unpacks kernels and modules with.
GUEST_PACKAGES=(gcc binutils flex bison bc libelf-dev xz-utils zstd lz4)
# socat gives tests a terminal, iproute2/iptables are what Debian's CNI plugins work with.
RUN_PACKAGES=(busybox-static containerd runc crun containernetworking-plugins iproute2 iptables
  util-linux procps socat strace qemu-system-x86 erofs-utils squashfs-tools e2fsprogs kmod xz-utils ndctl
  # What it writes into config.json for CDI devices is compared with ours.
  podman)

# Debian's packages ------------------------------------------------------------------------------

missing_packages() {
  local have
  have=$(dpkg-query -W -f='${db:Status-Abbrev} ${Package}\n' 2>/dev/null | awk '$1 == "ii" { print $2 }')
  comm -23 <(printf '%s\n' "$@" | sort -u) <(sort -u <<<"$have")
}

# Package scripts start services through invoke-rc.d, which asks policy-rc.d first: 101 means "no".
without_services() {
  local policy=/usr/sbin/policy-rc.d made=
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made=1
  fi
  local rc=0
  "$@" || rc=$?
  [[ -n $made ]] && rm -f "$policy"
  return $rc
}

apt_install() {
  # --no-remove: a machine with another vendor's containerd keeps it, and we say so instead.
  DEBIAN_FRONTEND=noninteractive without_services apt-get -o DPkg::Lock::Timeout=600 -qq install -y \
    --no-install-recommends --no-remove "$@" >"$ROOT/build/apt-install.log" 2>&1
}

install_packages() {
  local wanted=("${BUILD_PACKAGES[@]}") missing
  [[ $WHAT == build ]] || wanted+=("${GUEST_PACKAGES[@]}" "${RUN_PACKAGES[@]}")
  mapfile -t missing < <(missing_packages "${wanted[@]}")
  [[ ${#missing[@]} -eq 0 ]] && return
  [[ $EUID -eq 0 ]] || die "must run as root to install ${missing[*]}"
  say "apt-get install ${missing[*]}"
  if ! apt_install "${missing[@]}"; then
    apt-get -o DPkg::Lock::Timeout=600 -qq update
    apt_install "${missing[@]}" || {
      cat build/apt-install.log >&2
      die "apt-get install ${missing[*]} failed"
    }
  fi
}

# Node and npm -----------------------------------------------------------------------------------

check_node() {
  command -v node >/dev/null && command -v npm >/dev/null || die "node and npm are needed: install Node.js 20 or newer"
  node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 11) ? 0 : 1)' ||
    die "node $(node --version) is too old: install Node.js 20.11 or newer"
}

install_modules() {
  local stamp=node_modules/.bulkhead-lock now
  now=$(sha256sum package-lock.json | cut -d' ' -f1)
  [[ -f $stamp && $(<"$stamp") == "$now" ]] && return
  say 'npm ci'
  # Nobody's scripts: what has to be compiled (ffi-napi, an optional dependency), the build compiles, with the headers that
  # lie beside node.
  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
  printf '%s\n' "$now" >"$stamp"
}

# Peers ------------------------------------------------------------------------------------------

# The archive this machine already uses for Debian itself, asked of apt, never written down here.
debian_archive() {
  apt-get indextargets --format '$(IDENTIFIER)|$(REPO_URI)|$(CODENAME)|$(COMPONENT)' |
    awk -F'|' '$1 == "Packages" && $3 == "bookworm" && $4 == "main" { print $2; exit }'
}

# unpack_peer NAME SUITE PACKAGE…: the newest PACKAGEs of SUITE below build/peers/NAME, for a metapackage of
# kernels the kernel. apt works on a private root, so that the machine's own sources, lists and dpkg database stay
# as they are.
unpack_peer() {
  local name=$1 suite=$2 package kernel
  local packages=("${@:3}")
  local dir=$PEERS/$name apt=$PEERS/apt-$suite archive
  [[ -f $dir/.complete ]] && return
  say "unpacking ${packages[*]} of Debian $suite into build/peers/$name"
  archive=$(debian_archive)
  if [[ -z $archive ]]; then
    apt-get -o DPkg::Lock::Timeout=600 -qq update
    archive=$(debian_archive)
  fi
  [[ -n $archive ]] || die "no Debian bookworm archive in apt's sources"
  rm -rf "$dir"
  mkdir -p "$dir" "$apt"/{lists/partial,cache/archives/partial}
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $suite main" >"$apt/sources.list"
  local options=(-qq -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt/cache" -o Dir::State::Status=/dev/null
    -o APT::Sandbox::User=root -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none)
  apt-get "${options[@]}" update
  for package in "${packages[@]}"; do
    kernel=$(apt-cache "${options[@]}" depends "$package" | awk '/Depends: linux-image-/ { print $2; exit }')
    package=${kernel:-$package}
    (cd "$apt" && rm -f "$package"_*.deb && apt-get "${options[@]}" download "$package")
    dpkg-deb -x "$apt/$package"_*.deb "$dir"
    dpkg-deb -f "$apt/$package"_*.deb Version >>"$dir/.version"
  done
  mv "$dir/.version" "$dir/.complete"
  rm -rf "$apt"
}

install_node24() {
  local dir=$PEERS/node24
  [[ -x $dir/node_modules/node/bin/node ]] && return
  say 'npm install node@24 into build/peers/node24'
  mkdir -p "$dir"
  [[ -f $dir/package.json ]] || echo '{ "private": true }' >"$dir/package.json"
  npm install --prefix "$dir" --no-audit --no-fund --no-save --loglevel=error node@24
}

# The lab's machine: a QEMU with SR-IOV devices, and a stock kernel with modules that modprobe finds by their index.
unpack_lab() {
  local dir=$PEERS/lab-kernel
  unpack_peer lab-qemu bookworm-backports qemu-system-x86 qemu-system-data seabios
  unpack_peer lab-kernel trixie linux-image-amd64
  [[ -f $dir/.indexed ]] && return
  [[ -e $dir/lib ]] || ln -s usr/lib "$dir/lib"
  depmod -b "$dir" "$(ls "$dir/lib/modules")"
  touch "$dir/.indexed"
}

# Servers that tests run behind the sentry wall, with the libraries that this machine may lack; never installed here.
SERVERS=(nginx redis-server redis-tools libjemalloc2 liblzf1 liblua5.1-0 lua-cjson lua-bitop libatomic1 libsystemd0
  libcrypt1 libpcre2-8-0 libssl3 zlib1g)

unpack_servers() {
  local dir=$ROOT/build/test-images/servers work=$ROOT/build/test-images/servers.new
  [[ -f $dir/.complete ]] && return
  say "unpacking ${SERVERS[*]} into build/test-images/servers"
  rm -rf "$dir" "$work"
  mkdir -p "$work/debs"
  local download=(apt-get -qq -o APT::Sandbox::User=root download)
  (cd "$work/debs" && "${download[@]}" "${SERVERS[@]}" 2>/dev/null) || {
    apt-get -o DPkg::Lock::Timeout=600 -qq update
    (cd "$work/debs" && "${download[@]}" "${SERVERS[@]}")
  }
  local deb
  for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work"; done
  rm -rf "$work/debs"
  touch "$work/.complete"
  mv "$work" "$dir"
}

[[ -r /etc/debian_version ]] || die 'this machine is not Debian: install the packages named in tools/setup.sh by hand'
mkdir -p build "$PEERS"
# Two set-ups in one tree (make demo beside make test) take turns.
exec 9>build/.setup.lock
flock 9
install_packages
check_node
install_modules
if [[ $WHAT != build ]]; then
  unpack_peer containerd-1.7 trixie containerd
  unpack_peer containerd-2 sid containerd
  install_node24
  unpack_servers
  unpack_lab
fi
