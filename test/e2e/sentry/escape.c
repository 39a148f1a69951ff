// Ways out that have been tried elsewhere. Prints one line a try: "NAME ok" when it failed as it must (or, for what has
// to work, worked), else "NAME BAD DETAIL".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

static void verdict(const char* name, int ok, long detail) {
  if (ok) printf("%s ok\n", name);
  else printf("%s BAD %ld errno %d\n", name, detail, errno);
  fflush(stdout);
}
static void refused(const char* name, long result, int expected) {
  verdict(name, result == -1 && errno == expected, result);
}

static long int80(long number) {
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(0), "c"(0), "d"(0) : "memory");
  return result;
}

static void namespaces_and_mounts(void) {
  refused("user namespace by unshare", unshare(CLONE_NEWUSER), EPERM);
  refused("mount namespace by unshare", unshare(CLONE_NEWNS), EPERM);
  refused("user namespace by clone", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0), EPERM);
  char arguments[88] = {0};
  arguments[3] = 0x10;
  refused("user namespace by clone3", syscall(SYS_clone3, arguments, sizeof arguments), ENOSYS);
  int self = open("/proc/self/ns/mnt", O_RDONLY);
  refused("setns", setns(self, 0), EPERM);
  refused("mount proc", mount("proc", "/tmp", "proc", 0, NULL), EPERM);
  refused("bind mount", mount("/", "/tmp", NULL, MS_BIND, NULL), EPERM);
  refused("unmount a mask", umount2("/proc/kallsyms", MNT_DETACH), EPERM);
  refused("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1), EPERM);
  refused("fsopen", syscall(SYS_fsopen, "tmpfs", 0), EPERM);
  refused("pivot_root", syscall(SYS_pivot_root, "/tmp", "/tmp"), EPERM);
  refused("block device", mknod("/tmp/sda", S_IFBLK | 0600, makedev(8, 0)), EPERM);
  refused("character device", mknod("/tmp/mem", S_IFCHR | 0600, makedev(1, 1)), EPERM);
}

static void kernel_doors(void) {
  char zeros[256] = {0};
  refused("io_uring", syscall(SYS_io_uring_setup, 8, zeros), ENOSYS);
  refused("keyctl", syscall(SYS_keyctl, 0, -3, 1), ENOSYS);
  refused("add_key", syscall(SYS_add_key, "user", "a", "b", 1, -3), ENOSYS);
  refused("bpf", syscall(SYS_bpf, 0, zeros, 72), EPERM);
  refused("perf_event_open", syscall(SYS_perf_event_open, zeros, 0, -1, -1, 0), EPERM);
  refused("userfaultfd", syscall(SYS_userfaultfd, 0), EPERM);
  refused("ptrace", ptrace(PTRACE_TRACEME, 0, 0, 0), EPERM);
  refused("process_vm_readv", syscall(SYS_process_vm_readv, getppid(), 0, 0, 0, 0, 0), EPERM);
  refused("open_by_handle_at", syscall(SYS_open_by_handle_at, AT_FDCWD, zeros, O_RDONLY), EOPNOTSUPP);
  refused("vsock", socket(AF_VSOCK, SOCK_STREAM, 0), EAFNOSUPPORT);
  refused("packet socket", socket(AF_PACKET, SOCK_RAW, 0), EAFNOSUPPORT);
  refused("crypto socket", socket(AF_ALG, SOCK_SEQPACKET, 0), EAFNOSUPPORT);
  refused("raw socket", socket(AF_INET, SOCK_RAW, 1), EPERM);
  refused("netfilter socket", socket(AF_NETLINK, SOCK_RAW, 12), EPROTONOSUPPORT);
  refused("generic netlink socket", socket(AF_NETLINK, SOCK_RAW, 16), EPROTONOSUPPORT);
  refused("PR_SET_MM", prctl(PR_SET_MM, PR_SET_MM_BRK, 0, 0, 0), EINVAL);
  refused("TIOCSTI", ioctl(0, TIOCSTI, "x"), ENOTTY);
  refused("TIOCLINUX", ioctl(0, TIOCLINUX, "\3"), ENOTTY);
  refused("syslog", syscall(SYS_syslog, 3, zeros, sizeof zeros), EPERM);
  refused("x32", syscall(0x40000000 + SYS_getpid), ENOSYS);
  verdict("i386", int80(20) == -ENOSYS, int80(20));
  int pair[2];
  refused("tipc pair", socketpair(30, SOCK_STREAM, 0, pair), EAFNOSUPPORT);
  int tcp = socket(AF_INET, SOCK_STREAM, 0);
  struct sock_fprog none = {0, NULL};
  refused("packet filter", setsockopt(tcp, SOL_SOCKET, SO_ATTACH_FILTER, &none, sizeof none), ENOPROTOOPT);
  refused("iptables", setsockopt(tcp, 0, 64, zeros, sizeof zeros), ENOPROTOOPT);
}

static int opens(const char* path, int flags) {
  int fd = open(path, flags);
  if (fd >= 0) close(fd);
  return fd >= 0;
}

static void files(void) {
  verdict("core_pattern", !opens("/proc/sys/kernel/core_pattern", O_WRONLY), 0);
  verdict("sysrq", !opens("/proc/sysrq-trigger", O_WRONLY), 0);
  char byte;
  int fd = open("/proc/kallsyms", O_RDONLY);
  verdict("kallsyms is empty", fd < 0 || read(fd, &byte, 1) == 0, fd);
  verdict("/dev/mem", !opens("/dev/mem", O_RDONLY), 0);
  // From the root of the first process upwards there is nothing but that root.
  struct stat root, up;
  stat("/", &root);
  verdict("above the root", stat("/proc/1/root/../../..", &up) < 0 || up.st_ino == root.st_ino, 0);
  verdict("no new privileges", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1, 0);
  struct stat other;
  verdict("only own processes", stat("/proc/2147483", &other) < 0, 0);
}

// Every way to get hold of the supervisor: it is no process of this pid namespace, and nobody here may trace.
static void at_the_supervisor(void) {
  char path[64], name[64];
  long seen = 0, traced = 0, odd = 0, reached = 0;
  pid_t child = fork();
  if (child == 0) {
    for (;;) pause();
  }
  for (int pid = 0; pid <= 65536; pid++) {
    if (pid == getpid() || pid == child) continue;
    if (pid > 0 && kill(pid, 0) == 0) reached++;
    if (pid % 512 > 32) continue;
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    int fd = open(path, O_RDONLY);
    if (fd >= 0) {
      ssize_t got = read(fd, name, sizeof name - 1);
      name[got < 0 ? 0 : got] = 0;
      seen += strstr(name, "bulkhead") != NULL;
      close(fd);
    }
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    fd = open(path, O_RDWR);
    if (fd >= 0) reached++, close(fd);
  }
  pid_t pids[] = {0, 1, getpid(), getppid(), child, -1};
  long requests[] = {PTRACE_ATTACH, PTRACE_SEIZE, PTRACE_PEEKDATA, PTRACE_SYSCALL, PTRACE_KILL};
  for (unsigned i = 0; i < sizeof pids / sizeof *pids; i++) {
    for (unsigned j = 0; j < sizeof requests / sizeof *requests; j++) {
      errno = 0;
      if (syscall(SYS_ptrace, requests[j], pids[i], 0, 0) != -1) traced++;
      odd += errno != EPERM;
    }
  }
  verdict("the supervisor is not to be seen", seen == 0, seen);
  verdict("nothing to signal or to write to", reached == 0, reached);
  verdict("nothing to trace, not even a child", traced == 0 && odd == 0, traced * 1000 + odd);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  // All that a signal to everybody finds is in here.
  child = fork();
  if (child == 0) {
    kill(-1, SIGSTOP);
    kill(-1, SIGKILL);
    _exit(0);
  }
  waitpid(child, NULL, 0);
  struct utsname names;
  verdict("answers after signals to everybody", uname(&names) == 0, 0);
}

static void own_filter(void) {
  // The workload's own filter works, on top of ours, and cannot take ours away.
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {4, code};
  refused("second listener", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program),
          EBUSY);
  verdict("own filter", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0, 0);
  refused("own filter's errno", syscall(SYS_getppid), EXDEV);
  struct utsname names;
  verdict("brokered call behind own filter", uname(&names) == 0, 0);
  refused("our filter behind own filter", syscall(SYS_keyctl, 0, -3, 1), ENOSYS);
}

static volatile uint64_t target;
static volatile int stop;
static void* flip(void* good) {
  while (!stop) {
    target = (uint64_t)good;
    target = 8;
    target = ~0ull - 64;
  }
  return NULL;
}

// The pointer of a brokered call changes while it is answered; and so does what is mapped there.
static void* unmap(void* page) {
  while (!stop) {
    mmap(page, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    mmap(page, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  }
  return NULL;
}

static void races(void) {
  static struct utsname names;
  void* page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  pthread_t flipper, unmapper;
  pthread_create(&flipper, NULL, flip, &names);
  pthread_create(&unmapper, NULL, unmap, page);
  long odd = 0;
  for (int i = 0; i < 3000; i++) {
    long result = syscall(SYS_uname, target);
    if (result != 0 && errno != EFAULT) odd++;
    result = syscall(SYS_uname, page);
    if (result != 0 && errno != EFAULT) odd++;
    result = syscall(SYS_getgroups, 1, target);
    if (result < 0 && errno != EFAULT && errno != EINVAL) odd++;
  }
  stop = 1;
  pthread_join(flipper, NULL);
  pthread_join(unmapper, NULL);
  verdict("pointer races", odd == 0, odd);
}

// Callers that are killed in the middle of a call, many at once, again and again.
static void storms(void) {
  struct utsname names;
  for (int round = 0; round < 60; round++) {
    pid_t children[8];
    for (int i = 0; i < 8; i++) {
      children[i] = fork();
      if (children[i] == 0) {
        for (;;) uname(&names);
      }
    }
    usleep(3000);
    for (int i = 0; i < 8; i++) kill(children[i], SIGKILL);
    for (int i = 0; i < 8; i++) waitpid(children[i], NULL, 0);
  }
  verdict("answers after a storm of kills", uname(&names) == 0 && strcmp(names.sysname, "Linux") == 0, 0);
}

static void on_alarm(int signal) { (void)signal; }
static void signals(void) {
  // A signal during a call neither loses its answer nor doubles it.
  struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
  sigaction(SIGALRM, &action, NULL);
  pid_t parent = getpid();
  pid_t child = fork();
  if (child == 0) {
    for (;;) kill(parent, SIGALRM);
  }
  struct utsname names;
  long failed = 0;
  for (int i = 0; i < 5000; i++) failed += uname(&names) != 0;
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  verdict("signals during calls", failed == 0, failed);
}

int main(void) {
  namespaces_and_mounts();
  kernel_doors();
  files();
  at_the_supervisor();
  races();
  storms();
  signals();
  own_filter();
  return 0;
}
