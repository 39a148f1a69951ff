// Races and tricks with paths. Prints "NAME ok" or "NAME BAD DETAIL", as escape.c does. Arguments: a file of the host
// that must never be seen.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void verdict(const char* name, int ok, long detail) {
  if (ok) printf("%s ok\n", name);
  else printf("%s BAD %ld errno %d\n", name, detail, errno);
  fflush(stdout);
}

static volatile int stop;
static char text[4096];
static const char *one, *two;

// The path under a call changes all the time: whole, torn, without an end, and not there. Byte by byte, so that what is
// torn is seen often and not once in a hundred runs.
static void* flip(void* unused) {
  (void)unused;
  while (!stop) {
    for (size_t i = 0; i <= strlen(one); i++) ((volatile char*)text)[i] = one[i];
    for (size_t i = 0; i <= strlen(two); i++) ((volatile char*)text)[i] = two[i];
    memset(text, 'x', 300);
    text[300] = 0;
  }
  return NULL;
}

static void* flip_page(void* page) {
  while (!stop) {
    mprotect(page, 4096, PROT_NONE);
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
  }
  return NULL;
}

static void make(const char* name, const char* content) {
  int fd = open(name, O_CREAT | O_WRONLY | O_TRUNC, 0644);
  if (write(fd, content, strlen(content)) < 0) exit(3);
  close(fd);
}

// What was opened by a name that may have been torn: one of the two files, whole, or a directory of this file system
// that mkdir made by a torn name.
static int is_odd(int fd, dev_t here) {
  char content[10];
  struct stat file;
  if (fstat(fd, &file) < 0) return 1;
  if (S_ISDIR(file.st_mode)) return file.st_dev != here;
  ssize_t got = read(fd, content, sizeof content);
  return !(got == 5 && memcmp(content, "first", 5) == 0) && !(got == 6 && memcmp(content, "second", 6) == 0);
}

// A torn name may be nothing, too long, or a link that symlink made to itself.
static int is_error_of_torn(int error) {
  return error == ENOENT || error == EFAULT || error == ENAMETOOLONG || error == EACCES || error == ELOOP;
}

static void pointer_races(void) {
  pthread_t thread, other, another;
  struct stat file;
  long odd = 0, hits = 0;
  make("/w/first", "first");
  make("/w/second-file", "second");
  one = "/w/first";
  two = "/w/second-file";
  if (stat("/w", &file) < 0) exit(3);
  dev_t here = file.st_dev;
  char* page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  // Answers go to a page of their own: as a path they would be bytes of a struct stat.
  char* out = page + 4096;
  strcpy(page, "/w/first");
  pthread_create(&thread, NULL, flip, NULL);
  pthread_create(&other, NULL, flip_page, page);
  pthread_create(&another, NULL, flip_page, out);
  time_t limit = time(NULL) + 60;
  for (int i = 0; i < 4000 || (hits <= 10 && time(NULL) < limit); i++) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, i % 2 ? text : page, O_RDONLY);
    if (fd >= 0) {
      hits++;
      odd += is_odd(fd, here);
      close(fd);
    } else {
      odd += !is_error_of_torn(errno);
    }
    if (syscall(SYS_stat, text, &file) == 0 && S_ISREG(file.st_mode) && file.st_size != 5 && file.st_size != 6) odd++;
    syscall(SYS_access, page, R_OK);
    syscall(SYS_readlink, text, out, 100);
    syscall(SYS_stat, "/w/first", out);
    syscall(SYS_mkdir, text, 0755);
    syscall(SYS_rmdir, text);
    syscall(SYS_symlink, text, text);
    syscall(SYS_chmod, text, 0644);
  }
  stop = 1;
  pthread_join(thread, NULL);
  pthread_join(other, NULL);
  pthread_join(another, NULL);
  verdict("pointer races of paths", odd == 0 && hits > 10, odd);
}

static const char* outside;
static void* swap(void* unused) {
  (void)unused;
  while (!stop) {
    // A directory that moves away under whoever is in it, and a link in its place.
    rename("/w/a/b", "/w/moved");
    if (symlink("/../../../../../..", "/w/a/b") == 0) unlink("/w/a/b");
    rename("/w/moved", "/w/a/b");
    syscall(SYS_renameat2, AT_FDCWD, "/w/a", AT_FDCWD, "/w/x", 2);
  }
  return NULL;
}

static void root_races(void) {
  pthread_t thread;
  char path[5000];
  long seen = 0;
  mkdir("/w/a", 0755);
  mkdir("/w/a/b", 0755);
  mkdir("/w/a/b/c", 0755);
  mkdir("/w/x", 0755);
  stop = 0;
  pthread_create(&thread, NULL, swap, NULL);
  for (int i = 0; i < 6000; i++) {
    snprintf(path, sizeof path, "/w/%s/b/c/../../../../../../../../../..%s", i % 2 ? "a" : "x", outside);
    int fd = open(path, O_RDONLY);
    if (fd >= 0) seen++, close(fd);
    if (i % 3 == 0 && chdir("/w/a/b/c") == 0) {
      snprintf(path, sizeof path, "../../../../../../../..%s", outside);
      fd = open(path, O_RDONLY);
      if (fd >= 0) seen++, close(fd);
      struct stat file;
      if (stat(path, &file) == 0) seen++;
    }
  }
  stop = 1;
  pthread_join(thread, NULL);
  if (chdir("/") < 0) seen++;
  verdict("rename and link races out of the root", seen == 0, seen);
}

// More calls that wait for ever than there are threads to wait with.
static void fifos(void) {
  enum { kCount = 40 };
  pid_t children[kCount];
  struct timespec before, after;
  struct stat file;
  mkfifo("/w/fifo", 0600);
  for (int i = 0; i < kCount; i++) {
    children[i] = fork();
    if (children[i] == 0) _exit(open("/w/fifo", O_RDONLY) >= 0 ? 0 : errno == EAGAIN ? 1 : 2);
  }
  usleep(300000);
  // A call that waits for one of the fifos never comes back: the limit is for a machine that is busy.
  clock_gettime(CLOCK_MONOTONIC, &before);
  for (int i = 0; i < 100; i++) stat("/w/first", &file);
  clock_gettime(CLOCK_MONOTONIC, &after);
  long ms = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000;
  verdict("waiting fifos hold nobody up", ms < 20000, ms);
  int waiting = 0, odd = 0;
  for (int i = 0; i < kCount; i++) waiting += waitpid(children[i], NULL, WNOHANG) == 0;
  // Half of those that wait are killed, the others get their writer.
  int killed = 0;
  for (int i = 0; i < kCount; i++) {
    if (waitpid(children[i], NULL, WNOHANG) != 0) continue;
    if (killed++ < waiting / 2) {
      kill(children[i], SIGKILL);
      waitpid(children[i], NULL, 0);
      children[i] = 0;
    }
  }
  int writer = open("/w/fifo", O_WRONLY);
  for (int i = 0; i < kCount; i++) {
    int status;
    if (children[i] != 0 && waitpid(children[i], &status, 0) == children[i] && WIFEXITED(status) && WEXITSTATUS(status) > 1) odd++;
  }
  close(writer);
  verdict("fifos open when there is a writer", waiting > 0 && odd == 0, odd * 100 + waiting);
}

static void handler(int signal) { (void)signal; }
static void interrupted_fifo(void) {
  struct sigaction action = {.sa_handler = handler};
  sigaction(SIGALRM, &action, NULL);
  mkfifo("/w/quiet", 0600);
  // Again and again: on a busy machine the first may come before the call does.
  struct itimerval every = {{1, 0}, {1, 0}}, never = {{0, 0}, {0, 0}};
  setitimer(ITIMER_REAL, &every, NULL);
  int fd = open("/w/quiet", O_RDONLY);
  int error = errno;
  setitimer(ITIMER_REAL, &never, NULL);
  errno = error;
  verdict("a signal ends the wait for a fifo", fd < 0 && errno == EINTR, fd);
}

static long open_descriptors(void) {
  long count = 0;
  for (int fd = 0; fd < 256; fd++) count += fcntl(fd, F_GETFD) >= 0;
  return count;
}

static void* spin(void* unused) {
  (void)unused;
  while (!stop) {
  }
  return NULL;
}

// Signals all the time, and processors that are busy, so that a hand-over takes long and is done in two steps.
static void hand_overs(void) {
  pthread_t threads[4];
  struct sigaction action = {.sa_handler = handler};
  struct itimerval every = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
  long before = open_descriptors(), odd = 0;
  stop = 0;
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, spin, NULL);
  sigaction(SIGALRM, &action, NULL);
  setitimer(ITIMER_REAL, &every, NULL);
  for (int i = 0; i < 2000; i++) {
    char content[5];
    int fd = open("/w/first", O_RDONLY);
    if (fd < 0) odd += errno != EINTR;
    else odd += read(fd, content, 5) != 5 || memcmp(content, "first", 5) != 0 || close(fd) < 0;
  }
  setitimer(ITIMER_REAL, &never, NULL);
  stop = 1;
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  long after = open_descriptors();
  verdict("signals while descriptors are handed over lose none", odd == 0 && after == before, odd * 1000 + after - before);
}

static void storm(void) {
  struct stat file;
  for (int round = 0; round < 30; round++) {
    pid_t children[8];
    for (int i = 0; i < 8; i++) {
      children[i] = fork();
      if (children[i] == 0) {
        for (;;) {
          int fd = open("/w/first", O_RDONLY);
          stat("/w", &file);
          close(fd);
        }
      }
    }
    usleep(3000);
    for (int i = 0; i < 8; i++) kill(children[i], SIGKILL);
    for (int i = 0; i < 8; i++) waitpid(children[i], NULL, 0);
  }
  verdict("answers paths after a storm of kills", stat("/w/first", &file) == 0 && file.st_size == 5, 0);
}

static void rights(void) {
  make("/w/secret", "secret");
  chmod("/w/secret", 0600);
  pid_t child = fork();
  if (child == 0) {
    // The supervisor remembers who asked before.
    struct stat file;
    stat("/w/secret", &file);
    if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, 9, 9, 9) < 0 || syscall(SYS_setresuid, 9, 9, 9) < 0) _exit(1);
    if (open("/w/secret", O_RDONLY) >= 0) _exit(2);
    if (chmod("/w/secret", 0666) == 0) _exit(3);
    if (open("/w/new", O_CREAT | O_WRONLY, 0600) < 0 || stat("/w/new", &file) < 0 || file.st_uid != 9 || file.st_gid != 9) _exit(4);
    if (open("/proc/1/environ", O_RDONLY) >= 0) _exit(5);
    if (open("/proc/1/mem", O_RDONLY) >= 0) _exit(6);
    if (open("/proc/1/root/w/first", O_RDONLY) >= 0) _exit(7);
    _exit(0);
  }
  int status;
  waitpid(child, &status, 0);
  verdict("credentials that were given up are gone", status == 0, status);
  child = fork();
  if (child == 0) {
    // Only a capability is given up; the ids stay.
    unsigned header[2] = {0x20080522, 0}, data[6] = {0};
    struct stat file;
    stat("/w/secret", &file);
    chown("/w/secret", 5, 5);
    syscall(SYS_capset, header, data);
    _exit(open("/w/secret", O_RDONLY) >= 0 ? 1 : errno == EACCES ? 0 : 2);
  }
  waitpid(child, &status, 0);
  verdict("capabilities that were given up are gone", status == 0, status);
  mode_t odd = 0;
  for (int i = 0; i < 300; i++) {
    struct stat file;
    mode_t mask = (mode_t)(i * 7 % 0100);
    umask(mask);
    unlink("/w/masked");
    close(open("/w/masked", O_CREAT | O_EXCL | O_WRONLY, 0777));
    stat("/w/masked", &file);
    if ((file.st_mode & 0777) != (0777 & ~mask)) odd++;
  }
  verdict("umask", odd == 0, odd);
  umask(022);
}

static void set_user_id(void) {
  char part[65536];
  int from = open("/proc/self/exe", O_RDONLY);
  int to = open("/w/suid", O_CREAT | O_WRONLY, 0755);
  for (ssize_t got; (got = read(from, part, sizeof part)) > 0;) {
    if (write(to, part, got) != got) exit(3);
  }
  close(to);
  close(from);
  chmod("/w/suid", 06755);
  pid_t child = fork();
  if (child == 0) {
    if (setresgid(9, 9, 9) < 0 || setresuid(9, 9, 9) < 0) _exit(2);
    execl("/w/suid", "suid", "--who", NULL);
    _exit(4);
  }
  int status;
  waitpid(child, &status, 0);
  verdict("a set-user-id program gains nothing", status == 0, status);
}

static void chroots(void) {
  if (fork() == 0) {
    mkdir("/w/jail", 0755);
    mkdir("/w/jail/in", 0755);
    make("/w/jail/only", "jail");
    int bad = 0;
    if (chroot("/w/jail") < 0 || chdir("/") < 0) bad = 1;
    if (open("/w/first", O_RDONLY) >= 0) bad = 2;
    if (open("/only", O_RDONLY) < 0) bad = 3;
    if (open("../../only", O_RDONLY) < 0) bad = 4;
    if (symlink("/only", "/link") < 0 || open("/link", O_RDONLY) < 0) bad = 5;
    char here[100];
    if (syscall(SYS_getcwd, here, sizeof here) < 0 || strcmp(here, "/") != 0) bad = 6;
    verdict("chroot", bad == 0, bad);
    _exit(0);
  }
  wait(NULL);
  verdict("outside of another's chroot", access("/w/first", R_OK) == 0, 0);
}

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "--who") == 0) return geteuid() == 9 && getegid() == 9 && open("/w/secret", O_RDONLY) < 0 ? 0 : 1;
  outside = argc > 1 ? argv[1] : "/nothing";
  mkdir("/w", 0777);
  chmod("/w", 0777);
  pointer_races();
  root_races();
  storm();
  rights();
  set_user_id();
  interrupted_fifo();
  hand_overs();
  fifos();
  chroots();
  struct stat file;
  verdict("the host's file", stat(outside, &file) < 0 && errno == ENOENT, 0);
  return 0;
}
