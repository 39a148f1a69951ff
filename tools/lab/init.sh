#!/bin/busybox sh
# PID 1 of the lab. The host's tree comes read-only over 9p; what is written stays in memory, in an overlay above
# it, and in /run/lab, which is the host's directory for this boot. Given on the kernel's command line:
#   LAB_TREE     the source tree, the same path as on the host
#   LAB_KERNEL   directory with lib/modules of this kernel, on the host; absent for a kernel without modules
# /run/lab/job.sh is run as root in the host's tree; its exit status goes to /run/lab/status. Then the power goes off.
off() {
  echo "lab: $*"
  /bin/busybox poweroff -f
  /bin/busybox sleep 60
}

# In the host's tree; the root of the first mount namespace, so that a container's pivot_root moves what it should.
if [ "${1:-}" = job ]; then
  # The host sees by it that time goes on here.
  while :; do cut -d' ' -f1 /proc/uptime >/run/lab/alive; sleep 5; done &
  echo "lab: ready after $(cut -d' ' -f1 /proc/uptime) s"
  /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
    TERM=dumb LANG=C.UTF-8 BULKHEAD_LAB=/run/lab /bin/bash -c "cd '$LAB_TREE' && . /run/lab/job.sh"
  echo $? >/run/lab/status
  off "done after $(cut -d' ' -f1 /proc/uptime) s"
fi

/bin/busybox --install -s /bin
export PATH=/bin

mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t devtmpfs dev /dev || off 'no kernel file systems'
while read -r module; do
  insmod "/modules/$module" || off "module $module does not load"
done </modules/order

share() { mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$3" "$1" "$2" || off "no share $1"; }
mkdir -p /host /layers /tree /root
share host /host ro,cache=loose
mount -t tmpfs -o size=75% layers /layers && mkdir /layers/upper /layers/work
mount -t overlay -o lowerdir=/host,upperdir=/layers/upper,workdir=/layers/work overlay /root || off 'no overlay'
for dir in proc sys dev; do mount --move /$dir /root/$dir; done

# The tree may lie below /tmp, which is to be a file system of its own: containerd's overlays need a plain one.
mount --bind "/root$LAB_TREE" /tree
mount -t tmpfs -o mode=1777 tmp /root/tmp
mkdir -p "/root$LAB_TREE" && mount --bind /tree "/root$LAB_TREE"
mount -t tmpfs -o mode=755 run /root/run
mkdir -p /root/run/lab /root/dev/shm /root/dev/pts /root/dev/hugepages
share out /root/run/lab cache=none
mount -t tmpfs -o mode=1777 shm /root/dev/shm
mount -t devpts -o ptmxmode=0666 devpts /root/dev/pts
ln -s pts/ptmx /root/dev/ptmx 2>/dev/null
ln -s /proc/self/fd /root/dev/fd
# As systemd mounts it; nsdelegate is what makes a cgroup namespace a boundary.
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /root/sys/fs/cgroup || off 'no cgroup2'
if [ -n "${LAB_KERNEL:-}" ]; then
  mkdir -p "/root/lib/modules/$(uname -r)"
  mount --bind "/root$LAB_KERNEL/lib/modules/$(uname -r)" "/root/lib/modules/$(uname -r)" || off 'no modules'
fi
hostname lab
ip link set lo up

cp /init /root/run/init.sh
exec switch_root /root /bin/busybox sh /run/init.sh job
