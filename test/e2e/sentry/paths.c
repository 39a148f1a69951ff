// What every call with a path answers for every kind of path, as root, as nobody special and from a
// directory's descriptor: one line each. The supervisor's answers have to be the kernel's.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char* who = "";
static char long_name[300], long_path[5000];
static int directory = AT_FDCWD;

static void say(const char* call, const char* path, long result, const char* more) {
  int error = errno;
  if (strlen(path) > 60) path = path[1] == '/' ? "(long path)" : "(long name)";
  if (result < 0) printf("%s %s %s: errno %d\n", who, call, path, error);
  else printf("%s %s %s: %ld%s\n", who, call, path, result, more);
}
static void done(const char* call, const char* path, long result) { say(call, path, result, ""); }

static int take(const char* path, const struct stat* file, int kind, struct FTW* at) {
  (void)file;
  (void)kind;
  (void)at;
  return remove(path);
}
static void clear_tree(void) { nftw("/w/t", take, 8, FTW_DEPTH | FTW_PHYS); }

static void make_file(const char* name, mode_t mode) {
  int fd = open(name, O_CREAT | O_WRONLY | O_TRUNC, 0600);
  if (write(fd, "text", 4) != 4) exit(3);
  fchmod(fd, mode);
  close(fd);
}

// A tree of all kinds; everything is as it was before the last call.
static void fresh(void) {
  if (chdir("/w") < 0) exit(3);
  clear_tree();
  mkdir("/w/t", 0777);
  chmod("/w/t", 0777);
  if (chdir("/w/t") < 0) exit(3);
  umask(022);
  make_file("f", 0666);
  make_file("mine", 0600);
  make_file("suid", 06755);
  mkdir("d", 0777);
  chmod("d", 0777);
  make_file("d/g", 0644);
  mkdir("closed", 0700);
  make_file("closed/h", 0644);
  mkdir("empty", 0755);
  mkdir("sticky", 01777);
  chmod("sticky", 01777);
  if (symlink("../f", "sticky/trap") < 0) exit(3);
  if (symlink("f", "l") < 0 || symlink("d", "ld") < 0 || symlink("nowhere", "dangling") < 0) exit(3);
  if (symlink("loop", "loop") < 0 || symlink("/w/t/f", "la") < 0 || symlink("../../../w/t/d", "lu") < 0) exit(3);
  mkfifo("fifo", 0666);
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  struct sockaddr_un address = {AF_UNIX, "sock"};
  bind(fd, (struct sockaddr*)&address, sizeof address);
  close(fd);
}

static const char* paths[] = {
    "", "/", ".", "..", "../../../..", "f", "f/", "f/x", "./f", "d", "d/", "d/.", "d/..", "d/g", "d/../f", "ld", "ld/",
    "ld/g", "l", "l/", "la", "lu", "lu/g", "dangling", "dangling/", "loop", "loop/x", "missing", "missing/", "missing/x",
    "mine", "suid", "closed", "closed/h", "closed/none", "empty", "empty/", "sticky/trap", "fifo", "sock", "/w/t/f",
    "/w/../w/t/d", "//w//t///f", "/proc/self", "/proc/self/status", "/proc/self/cwd", "/proc/self/cwd/f", "/proc/self/root",
    "/proc/self/exe", "/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/99", "/proc/thread-self/stat", "/proc/1/status",
    "/proc/1/root", "/proc/1/environ", "/proc/mounts", "/proc/self/ns/net", "/proc/nothing", "/dev/null", "/dev/fd/0",
    "/dev/stdin", "/dev/tty", "/dev", long_name, long_path, NULL};

static void describe(const char* call, const char* path, int fd) {
  struct stat file;
  char more[100] = "";
  if (fd >= 0) {
    fstat(fd, &file);
    snprintf(more, sizeof more, " mode %o flags %o fd %o", file.st_mode, fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
  }
  say(call, path, fd >= 0 ? 0 : -1, more);
  if (fd >= 0) close(fd);
}

static void look(const char* path) {
  struct stat file;
  struct statfs system;
  char text[200], more[300];
  memset(&file, 0, sizeof file);
  long result = syscall(SYS_stat, path, &file);
  snprintf(more, sizeof more, " %o %d:%d %s", file.st_mode, file.st_uid, file.st_gid, S_ISREG(file.st_mode) && file.st_size == 4 ? "4" : "");
  say("stat", path, result, more);
  result = syscall(SYS_newfstatat, directory, path, &file, AT_SYMLINK_NOFOLLOW);
  snprintf(more, sizeof more, " %o", file.st_mode);
  say("lstat", path, result, more);
  done("fstatat empty", path, syscall(SYS_newfstatat, directory, path, &file, AT_EMPTY_PATH));
  done("fstatat bad flags", path, syscall(SYS_newfstatat, directory, path, &file, 0x4));
  for (int mode = 0; mode < 8; mode++) {
    snprintf(more, sizeof more, "access %d", mode);
    done(more, path, syscall(SYS_access, path, mode));
  }
  done("faccessat", path, syscall(SYS_faccessat, directory, path, R_OK));
  memset(text, 0, sizeof text);
  result = syscall(SYS_readlinkat, directory, path, text, 190);
  for (char* at = text; *at; at++) if (*at >= '0' && *at <= '9') *at = 'N';
  say("readlink", path, result < 0 ? result : 0, text);
  done("statfs", path, syscall(SYS_statfs, path, &system));
  int inotify = inotify_init1(0);
  done("inotify_add_watch", path, inotify_add_watch(inotify, path, IN_MODIFY));
  close(inotify);
}

static void opens(const char* path) {
  static const int flags[] = {
      O_RDONLY | O_NONBLOCK, O_WRONLY | O_NONBLOCK, O_RDWR | O_NONBLOCK | O_CLOEXEC, O_RDONLY | O_NONBLOCK | O_DIRECTORY,
      O_RDONLY | O_NONBLOCK | O_NOFOLLOW, O_WRONLY | O_CREAT | O_NONBLOCK, O_WRONLY | O_CREAT | O_EXCL, O_RDWR | O_TRUNC | O_NONBLOCK,
      O_TMPFILE | O_RDWR, O_PATH, O_PATH | O_NOFOLLOW, O_RDONLY | O_NONBLOCK | O_NOATIME, O_WRONLY | O_APPEND | O_NONBLOCK,
      O_CREAT | O_DIRECTORY | O_NONBLOCK, 3 | O_NONBLOCK, 0x40000000 | O_NONBLOCK};
  char name[50];
  for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++) {
    fresh();
    snprintf(name, sizeof name, "open %x", flags[i]);
    describe(name, path, (int)syscall(SYS_openat, directory, path, flags[i], 0666));
  }
  fresh();
  if (strcmp(path, "fifo") != 0) describe("creat", path, (int)syscall(SYS_creat, path, 0640));
}

static void mode_after(const char* call, const char* path, long result) {
  struct stat file;
  char more[100] = "";
  int error = errno;
  if (result == 0 && lstat(path, &file) == 0)
    snprintf(more, sizeof more, " %o %d:%d %ld %ld", file.st_mode, file.st_uid, file.st_gid, (long)file.st_nlink * !S_ISDIR(file.st_mode),
             file.st_mtime < 1000000 ? (long)file.st_mtime : 0);
  errno = error;
  say(call, path, result, more);
}

static void changes(const char* path) {
  struct timespec times[2] = {{1000, 0}, {2000, 0}};
  struct timeval values[2] = {{1000, 0}, {3000, 0}};
  struct timeval nonsense[2] = {{0, -1}, {0, 0}};
  int special = strncmp(path, "/proc", 5) == 0 || strncmp(path, "/dev", 4) == 0;
#define TRY(name, call) fresh(); mode_after(name, path, call)
  TRY("mkdir", syscall(SYS_mkdirat, directory, path, 0777));
  umask(0);
  fresh(); umask(027); mode_after("mkdir umask", path, syscall(SYS_mkdir, path, 0777));
  TRY("mknod", syscall(SYS_mknodat, directory, path, S_IFREG | 0666, 0));
  TRY("mkfifo", syscall(SYS_mknodat, directory, path, S_IFIFO | 0666, 0));
  TRY("symlink", syscall(SYS_symlinkat, "f", directory, path));
  TRY("symlink to nothing", syscall(SYS_symlink, "", path));
  if (strcmp(path, "/") != 0 && !special) {
    TRY("rmdir", syscall(SYS_rmdir, path));
    TRY("unlink", syscall(SYS_unlinkat, directory, path, 0));
    TRY("unlinkat dir", syscall(SYS_unlinkat, directory, path, AT_REMOVEDIR));
    TRY("unlinkat bad", syscall(SYS_unlinkat, directory, path, 1));
    TRY("rename", syscall(SYS_renameat2, directory, path, AT_FDCWD, "new", 0));
    TRY("rename onto file", syscall(SYS_rename, path, "f"));
    TRY("rename onto dir", syscall(SYS_rename, path, "empty"));
    TRY("rename noreplace", syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, "f", 1));
    TRY("rename exchange", syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, "d", 2));
    TRY("rename here", syscall(SYS_rename, "f", path));
    TRY("link", syscall(SYS_linkat, directory, path, AT_FDCWD, "new", 0));
    TRY("link follow", syscall(SYS_linkat, directory, path, AT_FDCWD, "new", AT_SYMLINK_FOLLOW));
    TRY("link here", syscall(SYS_link, "f", path));
    TRY("chmod", syscall(SYS_fchmodat, directory, path, 04751));
    TRY("chown", syscall(SYS_fchownat, directory, path, 1000, 7, 0));
    TRY("lchown", syscall(SYS_lchown, path, 1000, 1000));
    TRY("chown to self", syscall(SYS_chown, path, -1, -1));
    TRY("utimensat", syscall(SYS_utimensat, directory, path, times, 0));
    TRY("utimensat nofollow", syscall(SYS_utimensat, directory, path, times, AT_SYMLINK_NOFOLLOW));
    TRY("utimensat now", syscall(SYS_utimensat, directory, path, NULL, 0));
  }
  (void)values;
  (void)nonsense;
}

static void bad_pointers(void) {
  char* bad[] = {NULL, (char*)8, (char*)-1, (char*)0x8000000000000000};
  for (int i = 0; i < 4; i++) {
    char name[20];
    snprintf(name, sizeof name, "pointer %d", i);
    struct stat file;
    done("open", name, syscall(SYS_openat, AT_FDCWD, bad[i], 0, 0));
    done("stat", name, syscall(SYS_stat, bad[i], &file));
    done("stat into", name, syscall(SYS_stat, "/", bad[i]));
    done("mkdir", name, syscall(SYS_mkdir, bad[i], 0));
    done("rename", name, syscall(SYS_rename, "/w/t/f", bad[i]));
    done("symlink", name, syscall(SYS_symlink, bad[i], "x"));
    done("readlink into", name, syscall(SYS_readlink, "/w/t/l", bad[i], 10));
    done("access", name, syscall(SYS_access, bad[i], 0));
  }
  done("open at a closed descriptor", "f", syscall(SYS_openat, 77, "f", 0, 0));
  done("open at a file", "f", syscall(SYS_openat, 0, "f", 0, 0));
  done("open absolute at a closed descriptor", "/", syscall(SYS_openat, 77, "/", 0, 0) < 0 ? -1 : 0);
  done("getcwd too small", "", syscall(SYS_getcwd, long_name, 2));
}

static void round_of(const char* name) {
  who = name;
  for (int i = 0; paths[i]; i++) {
    fresh();
    look(paths[i]);
    opens(paths[i]);
    changes(paths[i]);
  }
  fresh();
  bad_pointers();
  fflush(stdout);
}

int main(void) {
  memset(long_name, 'n', sizeof long_name - 1);
  memset(long_path, '/', sizeof long_path - 1);
  mkdir("/w", 0777);
  chmod("/w", 0777);
  // The descriptor that /dev/stdin is.
  int null = open("/dev/null", O_RDONLY);
  dup2(null, 0);
  round_of("root");
  if (fork() == 0) {
    gid_t groups[] = {7, 8};
    clear_tree();
    if (setgroups(2, groups) < 0 || setgid(1000) < 0 || setuid(1000) < 0) return 3;
    round_of("user");
    fflush(stdout);
    _exit(0);
  }
  int status;
  wait(&status);
  // What the owner of a tree may, another may not.
  if (fork() == 0) {
    clear_tree();
    fresh();
    if (setgid(1000) < 0 || setuid(1000) < 0) return 3;
    who = "stranger";
    for (int i = 0; paths[i]; i++) look(paths[i]);
    fflush(stdout);
    _exit(0);
  }
  wait(&status);
  int here = open("/w", O_RDONLY | O_DIRECTORY);
  fresh();
  directory = here;
  who = "at";
  done("mkdirat", "t/made", mkdirat(here, "t/made", 0711));
  done("openat", "t/../t/f", openat(here, "t/../t/f", O_RDONLY) < 0 ? -1 : 0);
  return 0;
}
