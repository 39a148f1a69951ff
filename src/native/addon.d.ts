/**
 * The N-API addon (native/addon), thin bindings over native/core. Loaded only by src/native/index.ts.
 * Every failing call throws an Error with `errno` (number), `code` ("ENOENT"), `syscall` and, where there is one, `path`.
 * Nothing here blocks for long: calls that can (mount of a hung device, driver unbind) belong into a launched helper.
 */

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
  | { type: 'failed'; failure: StepFailure }
  | { type: 'console'; fd: number }
  | { type: 'warning'; failure: StepFailure }
  /** Once, last. The launched process (not the outer stage) ended; waitStatus as waitpid(2) gives it. */
  | { type: 'exited'; pid: number; waitStatus: number };

/** A launched process, owned by this Node process (which is its parent). */
export interface LaunchHandle {
  readonly pid: number;
  /** Opens the gate at which it waits. */
  proceed(): void;
  /** Makes a process that waits at a gate exit quietly. */
  abandon(): void;
  /** pidfd_send_signal(2). */
  signal(signum: number): void;
  /** Lets it live on after this process: no more events, nothing is killed. */
  release(): void;
}

export interface Addon {
  /** Starts bulkhead-init with the plan; events come on the event loop, in order. */
  launch(options: LaunchOptions, onEvent: (event: LaunchEvent) => void): LaunchHandle;

  /** pidfd_open(2), waits for exit without being the parent (poll); resolves when the process is gone. */
  waitPidGone(pid: number): Promise<void>;
  pidfdSendSignal(pid: number, startTime: bigint | undefined, signum: number): void;

  /** Seccomp: OCI profile (JSON of `linux.seccomp`) to struct sock_filter[] by libseccomp. */
  compileSeccomp(profileJson: string): { program: Uint8Array; flags: number; warnings: string[] };
  seccompInfo(): { actions: string[]; archs: string[]; operators: string[]; flags: string[]; apiLevel: number };

  /** Replaces the device program of a cgroup v2 directory; instructions are struct bpf_insn[]. */
  attachDeviceProgram(cgroupPath: string, instructions: Uint8Array): void;

  /** cgroup v1: an eventfd registered in cgroup.event_control for `file`; the callback gets the counter. */
  watchCgroupV1Event(cgroupPath: string, file: string, onEvent: (count: number) => void): { close(): void };

  /** mount(2), umount2(2). */
  mount(source: string, target: string, fstype: string, flags: number, data: string): void;
  umount(target: string, flags: number): void;

  /** prctl(PR_SET_CHILD_SUBREAPER). */
  setSubreaper(): void;
  /** Terminal helpers. */
  setWinsize(fd: number, width: number, height: number): void;
  setRawMode(fd: number): { restore(): void };
  /** Connects to a unix socket and sends one message with a descriptor (console socket, pidfd socket: runc's protocol). */
  sendFd(socketPath: string, fd: number, message: string): void;
  /** openat2(RESOLVE_IN_ROOT) of a file beneath a root, contents up to `limit` bytes (passwd and group look-ups). */
  readFileInRoot(root: string, path: string, limit: number): Uint8Array;
  /** mkfifo(3) with exactly this mode, whatever the umask. */
  mkfifo(path: string, mode: number): void;
  /** flock(2) LOCK_EX, optionally with LOCK_NB (throws EAGAIN). */
  flock(fd: number, nonBlocking: boolean): void;
  /** SO_PEERCRED of a socket fd. */
  peerCredentials(fd: number): { pid: number; uid: number; gid: number };
}
