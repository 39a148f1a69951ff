#!/usr/bin/env bash
# Runs a command that starts containerds, in mount and PID namespaces of its own:
#
#   tools/private.sh COMMAND [ARGUMENTS]
#
# Inside, /run/containerd, /run/netns and /var/lib/cni are empty and private, so that what a shim leaves
# there can be seen exactly, and two runs at once never meet. When the command ends, or is killed, the
# kernel ends every process and drops every mount of it; the scratch directory and the cgroups, all
# named after it, are removed here. The command finds the scratch directory in BULKHEAD_TEST_DIR.
#
# BULKHEAD_HIDE_UNIFIED=1 takes the cgroup2 mount of a hybrid machine out of sight, which leaves cgroup v1
# pure: crun refuses to run on a hybrid machine with controllers on cgroup2.
set -euo pipefail
[[ $EUID -eq 0 ]] || { echo 'private.sh: must run as root' >&2; exit 1; }
[[ $# -gt 0 ]] || { echo 'usage: private.sh COMMAND [ARGUMENTS]' >&2; exit 2; }

scratch=$(mktemp -d /tmp/bh-XXXXXX)
run=${scratch##*/}

# cgroups can only go one by one, leaves first; a task that is just dying makes rmdir fail for a moment.
remove_cgroups() {
  local try
  for try in 1 2 3 4 5; do
    find /sys/fs/cgroup -depth -type d -path "*/$run*" -exec rmdir {} + 2>/dev/null || true
    [[ -n $(find /sys/fs/cgroup -type d -path "*/$run*" -print -quit 2>/dev/null) ]] || return 0
    sleep 0.2
  done
  echo "private.sh: cgroups named $run could not be removed" >&2
}
finish() {
  remove_cgroups
  rm -rf --one-file-system "$scratch"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir -p /run/containerd /run/netns /var/lib/cni
export BULKHEAD_TEST_DIR=$scratch
# The shell stays PID 1 of the new namespace: it reaps orphans, which the command would not.
unshare --mount --pid --fork --kill-child=KILL --mount-proc --propagation slave -- bash -c '
  for dir in /run/containerd /run/netns /var/lib/cni; do mount -t tmpfs -o mode=755 tmpfs $dir; done
  if [[ -n ${BULKHEAD_HIDE_UNIFIED:-} ]] && mountpoint -q /sys/fs/cgroup/unified; then
    umount /sys/fs/cgroup/unified
  fi
  trap "kill -TERM \$child 2>/dev/null" TERM INT
  "$@" &
  child=$!
  code=0
  while :; do
    wait $child && code=0 || code=$?
    kill -0 $child 2>/dev/null || break
  done
  exit $code' private "$@" &
wait $! || exit $?
