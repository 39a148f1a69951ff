/** What runs behind the wall during a soak: each load works in rounds and prints one line a round. */
import { debian } from '../e2e/sentry/programs.ts';

export interface Load {
  name: string;
  command: string[];
  flags: readonly string[];
}

/** Brokered calls from many short processes. */
const shell = `while :; do
  for i in 1 2 3 4 5 6 7 8 9 10; do uname -a; id; nproc; date; hostname; (echo $i | cat); done >/dev/null
  echo round; sleep $PAUSE
done`;

/** Directories that come and go; hidden and refused things asked for. */
const files = `while :; do
  mkdir -p /scratch/t && cd /scratch/t
  for i in $(seq 60); do echo line $i >f$i; mv f$i g$i; ln -s g$i l$i; done
  find . -type f | wc -l >/dev/null; tar cf ../t.tar . && tar xf ../t.tar; grep -r 'line 7' . >/dev/null
  cat /proc/kcore /proc/keys >/dev/null 2>&1; mknod d b 8 0 2>/dev/null; mount -t tmpfs x . 2>/dev/null
  cd / && rm -rf /scratch/t /scratch/t.tar
  echo round; sleep $PAUSE
done`;

/** TCP, UDP and unix sockets, and every descriptor that the supervisor makes and hands over. */
const sockets = `
import os, select, socket, threading, time, resource, ctypes
libc = ctypes.CDLL(None, use_errno=True)
pause = float(os.environ["PAUSE"])
def serve(listener, n):
    for _ in range(n):
        peer, _ = listener.accept()
        peer.sendall(peer.recv(64)); peer.close()
while True:
    for family, where in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, "/scratch/s")):
        if family == socket.AF_UNIX and os.path.exists(where): os.unlink(where)
        listener = socket.socket(family); listener.bind(where); listener.listen(16)
        thread = threading.Thread(target=serve, args=(listener, 20)); thread.start()
        for _ in range(20):
            s = socket.socket(family); s.connect(listener.getsockname()); s.sendall(b"x" * 64); assert s.recv(64); s.close()
        thread.join(); listener.close()
    for _ in range(20):
        fds = [libc.eventfd(0, 0), libc.timerfd_create(1, 0), libc.epoll_create(1)]
        assert min(fds) > 2, fds
        for fd in fds: os.close(fd)
        resource.getrusage(resource.RUSAGE_SELF); os.getgroups(); os.getresuid(); os.uname(); os.getpriority(0, 0)
        try: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        except OSError: pass
    print("round", flush=True); time.sleep(pause)
`;

/** Storms of processes, half of which are killed in the middle of a brokered call. */
const forks = `
import os, signal, time
pause = float(os.environ["PAUSE"])
def child():
    try:
        while True: os.uname(); os.getgroups(); os.getresuid()
    finally: os._exit(0)
while True:
    children = []
    for _ in range(40):
        pid = os.fork()
        if pid == 0: child()
        children.append(pid)
    for pid in children: os.kill(pid, signal.SIGKILL)
    for pid in children: os.waitpid(pid, 0)
    for _ in range(20):
        pid = os.posix_spawn("/usr/bin/true", ["true"], {}); os.waitpid(pid, 0)
    print("round", flush=True); time.sleep(pause)
`;

/** The same with paths, under the profile strict: killed while descriptors are handed over and names are made. */
const paths = `
import os, signal, time
pause = float(os.environ["PAUSE"])
def child(n):
    try:
        here = os.open("/scratch", os.O_RDONLY | os.O_DIRECTORY)
        while True:
            os.close(os.open("f%d" % n, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=here))
            os.close(os.open("/etc/passwd", os.O_RDONLY))
            os.access("/scratch", os.R_OK); os.unlink("f%d" % n, dir_fd=here)
    finally: os._exit(0)
while True:
    children = []
    for n in range(30):
        pid = os.fork()
        if pid == 0: child(n)
        children.append(pid)
    time.sleep(0.02)
    for pid in children: os.kill(pid, signal.SIGKILL)
    for pid in children: os.waitpid(pid, 0)
    print("round", flush=True); time.sleep(pause)
`;

const strict = ['--annotation', 'io.bulkhead.sentry.profile=strict'];

/** @param pause seconds between the rounds of a load: how hard the soak is on the machine */
export const loads = (pause: number): Load[] => {
  const flags = [...debian, '--env', `PAUSE=${pause}`, '--memory-limit', String(256 << 20)];
  return [
    { name: 'shell', command: ['/bin/sh', '-c', shell], flags },
    { name: 'files', command: ['/bin/sh', '-c', files], flags },
    { name: 'sockets', command: ['python3', '-c', sockets], flags },
    { name: 'forks', command: ['python3', '-c', forks], flags },
    { name: 'strict-files', command: ['/bin/sh', '-c', files], flags: [...flags, ...strict] },
    { name: 'strict-paths', command: ['python3', '-c', paths], flags: [...flags, ...strict] },
  ];
};
