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

export interface Addon {
  /** Starts bulkhead-init with the plan; events come on the event loop, in order. */
  launch(options: LaunchOptions, onEvent: (event: LaunchEvent) => void): LaunchHandle;

  /** pidfd_open(2), waits for exit without being the parent (poll); resolves when the process is gone. */
  waitPidGone(pid: number): Promise<void>;
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
  /** Connects to a unix socket and sends one message with a descriptor (console socket, pidfd socket: runc's protocol). */
  sendFd(socketPath: string, fd: number, message: string): void;
  /** The same with a descriptor for a process (pidfd_open(2)). */
  sendPidfd(socketPath: string, pid: number, message: string): void;
  /**
   * openat2(RESOLVE_IN_ROOT) of a regular file beneath a root (passwd and group look-ups). Throws EFBIG when it is
   * larger than `limit` bytes, EINVAL when it is no regular file, ELOOP at a magic link of procfs.
   */
  readFileInRoot(root: string, path: string, limit: number): Uint8Array;
  /** mkfifo(3) with exactly this mode, whatever the umask. */
  mkfifo(path: string, mode: number): void;
  /** flock(2) LOCK_EX, optionally with LOCK_NB (throws EAGAIN). */
  flock(fd: number, nonBlocking: boolean): void;
  /** SO_PEERCRED of a socket fd. */
  peerCredentials(fd: number): { pid: number; uid: number; gid: number };
}
