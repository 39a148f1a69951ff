/**
 * The N-API addon (native/addon), thin bindings over native/core. Loaded only by src/native/index.ts.
 * Every failing call throws an AddonError; a wrong argument throws a TypeError.
 * Nothing here blocks for long: calls that can (mount of a hung device, driver unbind) belong into a launched helper.
 */

/** errno is positive, as in errno(3); code is its name ("ENOENT"). */
export interface AddonError extends Error {
  errno: number;
  code: string;
  syscall: string;
  path?: string;
}

export interface StepFailure {
  index: number;
  /** Field number of the step in LaunchPlan's oneof. */
  action: number;
  path: string;
  errno: number;
  detail: string;
  /** Wait status of a hook, else 0. */
  status: number;
  /** What the kernel (mount option log) or the hook (start of its stderr) said; may be empty. */
  output: string;
}

export interface LaunchOptions {
  /** Path of the static helper; executed from a sealed copy that the container cannot write to (CVE-2019-5736). */
  initPath: string;
  /** Encoded bulkhead.plan.v1.LaunchPlan. */
  plan: Uint8Array;
  /** Descriptors that become 0, 1 and 2; borrowed. -1: /dev/null. */
  stdio: [number, number, number];
  /** Descriptors that become 3, 4, …; borrowed. */
  extraFds?: number[];
}

export type LaunchEvent =
  | { type: 'cloned'; pid: number }
  | { type: 'paused'; pid: number; point: string }
  | { type: 'started'; pid: number }
  /**
   * A step failed; or, with action 0, what `detail` says: "died" (before execve, at no gate that was refused),
   * "protocol", "pidfd_open".
   */
  | { type: 'failed'; failure: StepFailure }
  | { type: 'console'; fd: number }
  | { type: 'warning'; failure: StepFailure }
  /**
   * Once, last. The launched process (not the outer stage) ended; waitStatus as waitpid(2) gives it, -1 when
   * something else in this process has reaped it.
   */
  | { type: 'exited'; pid: number; waitStatus: number };

/** A launched process, owned by this Node process (which is its parent). */
export interface LaunchHandle {
  /** Of the outer stage until `cloned` was reported, then of the launched process. */
  readonly pid: number;
  /** Opens the gate at which it waits. Throws EINVAL when it waits at none, ESRCH when it is gone. */
  proceed(): void;
  /** Makes a process that waits at a gate, or reaches one, exit quietly: no `started`, no `failed`. */
  abandon(): void;
  /** pidfd_send_signal(2). Throws ESRCH when it has ended. */
  signal(signum: number): void;
  /** Lets it live on after this process: no more events, nothing is killed. */
  release(): void;
}

/** A seccomp policy as flat arrays; numbers are SECCOMP_RET_* and enum scmp_compare. */
export interface SeccompPolicy {
  defaultAction: number;
  /** libseccomp's names ("x86_64"); the machine's own is always included. */
  archs: string[];
  /** One element a rule; rules of the same name are alternatives. */
  names: string[];
  actions: Uint32Array;
  conditionCounts: Uint32Array;
  /** Four words a condition: argument index, operator, first value (mask), second value. All rules' in one row. */
  conditions: BigUint64Array;
}

/** A link of a network namespace; numbers are those of rtnetlink(7). */
export interface NetnsLink {
  index: number;
  name: string;
  /** "veth", "macvlan", "tun"; empty for hardware and loopback. */
  kind: string;
  /** ARPHRD_*: 1 Ethernet, 772 loopback. */
  type: number;
  /** "02:00:00:00:00:01"; empty when it has none. */
  mac: string;
  mtu: number;
  /** IFF_*. */
  flags: number;
  /** Index of the bridge or bond that it belongs to, or 0. */
  master: number;
  /** ipvlan: 0 L2, 1 L3, 2 L3S; netkit: 0 L2, 1 L3; tun: 1 tun, 2 tap. */
  mode: number;
}

export interface NetnsAddress {
  /** Of the link. */
  index: number;
  /** In text; IPv6 has colons. */
  address: string;
  prefix: number;
  peer?: string;
  broadcast?: string;
  /** RT_SCOPE_*. */
  scope: number;
  /** IFA_F_*. */
  flags: number;
}

export interface NetnsRoute {
  /** AF_INET 2, AF_INET6 10. */
  family: number;
  /** Absent: the default route. */
  destination?: string;
  prefix: number;
  gateway?: string;
  source?: string;
  /** Of the link, 0: none. */
  index: number;
  table: number;
  /** RTPROT_*, RT_SCOPE_*, RTN_*, RTNH_F_*. */
  protocol: number;
  scope: number;
  type: number;
  flags: number;
  priority: number;
  mtu: number;
  /** It has several next hops, which are not told. */
  multipath: boolean;
}

export interface NetnsNeighbour {
  index: number;
  address: string;
  mac: string;
  /** NUD_*. */
  state: number;
  /** NTF_*. */
  flags: number;
}

export interface NetnsInventory {
  links: NetnsLink[];
  addresses: NetnsAddress[];
  routes: NetnsRoute[];
  neighbours: NetnsNeighbour[];
}

export interface Addon {
  /** Starts bulkhead-init with the plan; events come on the event loop, in order. */
  launch(options: LaunchOptions, onEvent: (event: LaunchEvent) => void): LaunchHandle;

  /** pidfd_open(2), waits for exit without being the parent (poll); resolves when the process is gone. */
  waitPidGone(pid: number): Promise<void>;
  /** sched_setaffinity(2) of a thread; bytes of a cpu_set_t, as parseCpuList makes them. */
  setAffinity(tid: number, mask: Uint8Array): void;
  /** Throws ESRCH when there is no such process, or it did not start at `startTime` (processStartTime). */
  pidfdSendSignal(pid: number, startTime: bigint | undefined, signum: number): void;
  /** Clock ticks since boot, proc_pid_stat(5) field 22. Throws ESRCH. */
  processStartTime(pid: number): bigint;

  /** Compiles a policy to struct sock_filter[] by libseccomp. For src/native/seccomp.ts, which has the OCI form. */
  compileSeccomp(policy: SeccompPolicy): {
    program: Uint8Array;
    /** Passed over: this libseccomp does not know them. */
    unknownSyscalls: string[];
    unknownArchs: string[];
  };
  seccompLibrary(): { version: string; apiLevel: number; kernelFlags: number; nativeArch: string };

  /** Replaces the device program of a cgroup v2 directory; instructions are struct bpf_insn[]. */
  /**
   * What the socket programs of a cgroup (v2) have refused: a key of 24 and a count of 8 bytes each, little-endian
   * (native/core/bpf_socket.h). Empty when it has no such programs.
   */
  readSocketLog(cgroupPath: string): Buffer;
  attachDeviceProgram(cgroupPath: string, instructions: Uint8Array): void;
  /** How many device programs a cgroup v2 directory itself has. */
  countDevicePrograms(cgroupPath: string): number;

  /**
   * cgroup v1: an eventfd registered in cgroup.event_control for `file` (with `args`, where that file takes any: a
   * pressure level, a threshold); the callback gets the counter. It also fires when the cgroup is removed. Does not
   * keep the event loop alive.
   */
  watchCgroupV1Event(
    cgroupPath: string,
    file: string,
    onEvent: (count: number) => void,
    args?: string,
  ): { close(): void };

  /** mount(2), umount2(2). */
  mount(source: string, target: string, fstype: string, flags: number, data: string): void;
  umount(target: string, flags: number): void;

  /** prctl(PR_SET_CHILD_SUBREAPER). */
  setSubreaper(): void;
  /** Terminal helpers. Sizes in characters. */
  setWinsize(fd: number, width: number, height: number): void;
  getWinsize(fd: number): { width: number; height: number };
  /** Input byte by byte, without echo and signals; output processing stays on. */
  setRawMode(fd: number): { restore(): void };
  /** A copy for the caller to close (F_DUPFD_CLOEXEC). EBADF. */
  duplicate(fd: number): number;
  /** Connects to a unix socket and sends one message with a descriptor (console socket, pidfd socket: runc's protocol). */
  sendFd(socketPath: string, fd: number, message: string): void;
  /**
   * The same on a connected unix stream socket, with nothing of its own still waiting to be sent (QMP's getfd). EAGAIN,
   * EMSGSIZE: the peer does not read; the stream may be torn then.
   */
  sendFdOver(socketFd: number, fd: number, message: string): void;
  /** The same with a descriptor for a process (pidfd_open(2)). */
  sendPidfd(socketPath: string, pid: number, message: string): void;
  /**
   * Connects to a unix socket (a path of any length) without waiting; the descriptor, non-blocking, is the caller's.
   * Throws ENOENT or ECONNREFUSED when nobody listens, EAGAIN when too many wait already.
   */
  connectUnix(path: string): number;
  /**
   * Connects by vsock to "vsock://CID:PORT" from a reserved port, on a thread of the pool, for up to two seconds; the
   * descriptor, non-blocking, is the caller's: a unix socket (Node's know no vsock) whose bytes a thread passes on both ways
   * until it is closed. Throws a TypeError for another address. Rejects with ENODEV (no such guest, or no driver),
   * ECONNRESET (nobody listens), ETIMEDOUT, EACCES (not root).
   */
  connectVsock(address: string): Promise<number>;
  /**
   * A descriptor (O_PATH) of a file on a mount of its own whose ids the user namespace maps: who has it may open it anew
   * by /proc/self/fd, as the mapped owner. EINVAL where the file system cannot (Linux 5.12, most since).
   */
  lendFile(path: string, userNamespace: number, readOnly: boolean): number;
  /** The same of a block or character device, by a node of its own. ENOTBLK: it is neither. */
  lendDevice(path: string, uid: number, gid: number, readOnly: boolean): number;
  /** memfd_create(2) of a size in bytes: sealable, mode 0666; the descriptor is the caller's. */
  memfd(name: string, size: number): number;
  /** Fixes the size of a memfd; with `writes` also its content, but for private mappings. Nobody can undo it. */
  sealMemfd(fd: number, writes: boolean): void;
  /**
   * Copies a file's pages to the same places of another, without holes and pages of zeros; on a thread of the pool. With
   * `sum` it answers a checksum of the data that does not depend on the holes (finds damage, not forgery), else 0. EIO
   * when the source shrinks meanwhile. With `padding` pages of 0xcc bytes are left out too: gaps in the text of Linux, and
   * its start-up code that is not needed any more.
   */
  copySparse(source: number, target: number, sum: boolean, padding?: boolean): Promise<bigint>;
  /**
   * openat2(RESOLVE_IN_ROOT) of a regular file beneath a root (passwd and group look-ups). Throws EFBIG when it is
   * larger than `limit` bytes, EINVAL when it is no regular file, ELOOP at a magic link of procfs.
   */
  readFileInRoot(root: string, path: string, limit: number): Uint8Array;
  /** Replaces a file beneath a root, links followed as they lead there; missing directories are made, 0755. */
  writeFileInRoot(root: string, path: string, data: Uint8Array, mode: number): void;
  /**
   * Maps `length` bytes with MAP_SYNC (mmap(2)): of a file, a device, or of a nameless file in a directory. Throws
   * EOPNOTSUPP when a store to that memory is not durable by itself.
   */
  mapSync(path: string, length: number): void;
  /**
   * Bytes of a device that is only reached by mmap(2) (device-DAX). `align`: what its mappings are made of, in bytes. At
   * most 64 MiB at once. Throws EINVAL where there is nothing; reading behind the end of a file is SIGBUS, as ever.
   */
  readMapped(path: string, offset: number, align: number, length: number): Buffer;
  /** Writes to such a device; durable when it returns. */
  writeMapped(path: string, offset: number, align: number, data: Uint8Array): void;
  /** Names in a directory beneath a root, in no order. */
  listInRoot(root: string, path: string): string[];
  /** mkfifo(3) with exactly this mode, whatever the umask. */
  mkfifo(path: string, mode: number): void;
  /** flock(2) LOCK_EX, optionally with LOCK_NB (throws EAGAIN). */
  flock(fd: number, nonBlocking: boolean): void;
  /** SO_PEERCRED of a socket fd. */
  peerCredentials(fd: number): { pid: number; uid: number; gid: number };

  /**
   * What a network namespace (a path such as /proc/PID/ns/net) holds. Rejects with an AddonError whose `path` is the
   * namespace's; syscall "setns" with EINVAL: the file is no network namespace.
   */
  netnsInventory(path: string): Promise<NetnsInventory>;
  /**
   * Makes a tap beside `link` (a name) in a network namespace, with its MTU, and ties the two: what arrives at one
   * leaves by the other (tc: ingress, u32, mirred). The tap lives as long as `fd` and its copies; `fd` is the
   * caller's. vnetHeader (default true): packets carry struct virtio_net_hdr. Rejects with an AddonError: ENODEV no
   * such link, EBUSY a tap of that name is in use; nothing is left then. `reason`, when there, is the kernel's own.
   */
  tapBridge(
    path: string,
    link: string,
    options: { tap: string; vnetHeader?: boolean },
  ): Promise<{ fd: number; name: string }>;
  /** Takes the link's half of it away (the tap's goes with the tap). Idempotent. */
  tapUnbridge(path: string, link: string): Promise<void>;
}
