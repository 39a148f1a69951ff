// Mounts that a container may make, and those that it may not. Prints "NAME ok" or "NAME BAD DETAIL", as escape.c does.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void verdict(const char* name, int ok, long detail) {
  if (ok) printf("%s ok\n", name);
  else printf("%s BAD %ld errno %d\n", name, detail, errno);
  fflush(stdout);
}
static void refused(const char* name, long result, int expected) { verdict(name, result == -1 && errno == expected, result); }
static void works(const char* name, long result) { verdict(name, result == 0, result); }

static void put(const char* path, const char* text) {
  int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0755);
  if (fd < 0 || write(fd, text, strlen(text)) < 0) exit(3);
  close(fd);
}
static int exists(const char* path) { return access(path, F_OK) == 0; }
static unsigned long flags_of(const char* path) {
  struct statvfs file;
  return statvfs(path, &file) < 0 ? 0 : file.f_flag;
}

static void in_memory(void) {
  struct statfs file;
  works("tmpfs", mount("tmpfs", "/m/tmp", "tmpfs", MS_NOEXEC, "size=1m,mode=711,nr_inodes=50"));
  verdict("tmpfs is one", statfs("/m/tmp", &file) == 0 && file.f_type == 0x01021994 && file.f_blocks == 256, (long)file.f_blocks);
  struct stat root;
  verdict("tmpfs has its options", stat("/m/tmp", &root) == 0 && (root.st_mode & 07777) == 0711 && root.st_uid == 0, root.st_mode);
  unsigned long flags = flags_of("/m/tmp");
  verdict("always nosuid and nodev", (flags & (ST_NOSUID | ST_NODEV | ST_NOEXEC)) == (ST_NOSUID | ST_NODEV | ST_NOEXEC), (long)flags);
  put("/m/tmp/file", "in memory");
  works("more restrictions", mount(NULL, "/m/tmp", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOEXEC, NULL));
  refused("read-only then", open("/m/tmp/file", O_WRONLY), EROFS);
  refused("fewer restrictions", mount(NULL, "/m/tmp", NULL, MS_REMOUNT | MS_BIND | MS_NOEXEC, NULL), EPERM);
  works("unmount", umount("/m/tmp"));
  verdict("gone", !exists("/m/tmp/file"), 0);
  refused("unmount of nothing", umount("/m/tmp"), EINVAL);
  refused("options that nobody knows", mount("tmpfs", "/m/tmp", "tmpfs", 0, "huge=always"), EINVAL);
  refused("options without a value", mount("tmpfs", "/m/tmp", "tmpfs", 0, "size"), EINVAL);
  refused("no target", mount("tmpfs", "/m/nothing", "tmpfs", 0, NULL), ENOENT);
  refused("a file as target", mount("tmpfs", "/m/file", "tmpfs", 0, NULL), ENOTDIR);
  refused("no type", mount("tmpfs", "/m/tmp", NULL, 0, NULL), EINVAL);
  refused("type behind a wild pointer", syscall(SYS_mount, "tmpfs", "/m/tmp", 8L, 0, NULL), EFAULT);
}

static void binds(void) {
  put("/m/from/file", "bound");
  works("bind", mount("/m/from", "/m/to", NULL, MS_BIND, NULL));
  verdict("bind shows the same", exists("/m/to/file"), 0);
  verdict("bind is nosuid and nodev", (flags_of("/m/to") & (ST_NOSUID | ST_NODEV)) == (ST_NOSUID | ST_NODEV), 0);
  works("bind of a file", mount("/m/from/file", "/m/file", NULL, MS_BIND | MS_RDONLY, NULL));
  refused("bind of a file is read-only", open("/m/file", O_WRONLY), EROFS);
  works("lazy unmount", umount2("/m/to", MNT_DETACH));
  works("unmount of a file", umount2("/m/file", UMOUNT_NOFOLLOW));
  // What a mask hides is hidden in a copy, too.
  works("bind of /proc", mount("/proc", "/m/proc", NULL, MS_BIND, NULL));
  char byte;
  int fd = open("/m/proc/kallsyms", O_RDONLY);
  verdict("masks come along", fd < 0 || read(fd, &byte, 1) == 0, fd);
  verdict("what is read-only stays so", open("/m/proc/sys/kernel/hostname", O_WRONLY) < 0, 0);
  refused("a mask in the copy is not unmounted", umount("/m/proc/kallsyms"), EPERM);
  works("unmount of the copy", umount("/m/proc"));
  works("proc", mount("proc", "/m/proc", "proc", 0, NULL));
  verdict("proc is this container's", exists("/m/proc/1/stat") && !exists("/m/proc/2147483"), 0);
  fd = open("/m/proc/kallsyms", O_RDONLY);
  verdict("proc has its masks", fd < 0 || read(fd, &byte, 1) == 0, fd);
  works("unmount of proc", umount("/m/proc"));
  works("bind of /dev", mount("/dev", "/m/to", NULL, MS_BIND | MS_REC, NULL));
  refused("devices are none there", open("/m/to/null", O_RDONLY), EACCES);
  works("unmount of /dev's copy", umount("/m/to"));
}

static void refusals(void) {
  const char* guarded[] = {"/", "/proc", "/proc/self", "/proc/sys", "/sys", "/dev", "/dev/pts"};
  for (unsigned i = 0; i < sizeof guarded / sizeof *guarded; i++) {
    char name[64];
    snprintf(name, sizeof name, "over %s", guarded[i]);
    refused(name, mount("tmpfs", guarded[i], "tmpfs", 0, NULL), EPERM);
  }
  symlink("/proc", "/m/link");
  refused("over a link to /proc", mount("/m/from", "/m/link", NULL, MS_BIND, NULL), EPERM);
  refused("over /proc by ..", mount("/m/from", "/m/../../proc/.", NULL, MS_BIND, NULL), EPERM);
  const char* types[] = {"ext4", "sysfs", "overlay", "cgroup2", "fuse", "devpts", "bpf", "nfs", ""};
  for (unsigned i = 0; i < sizeof types / sizeof *types; i++) {
    char name[64];
    snprintf(name, sizeof name, "type '%s'", types[i]);
    refused(name, mount("none", "/m/tmp", types[i], 0, NULL), EPERM);
  }
  refused("move", mount("/m/from", "/m/to", NULL, MS_MOVE, NULL), EPERM);
  refused("shared", mount(NULL, "/", NULL, MS_SHARED | MS_REC, NULL), EPERM);
  refused("remount of the root", mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL), EPERM);
  refused("remount of a file system", mount(NULL, "/", NULL, MS_REMOUNT, NULL), EPERM);
  refused("unmount of the root", umount("/"), EPERM);
  refused("unmount of /proc", umount2("/proc", MNT_DETACH), EPERM);
  refused("unmount of a mask", umount2("/proc/kallsyms", MNT_DETACH), EPERM);
  refused("unmount by force", umount2("/m/tmp", MNT_FORCE), EPERM);
  refused("fsopen", syscall(SYS_fsopen, "tmpfs", 0), EPERM);
  refused("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1), EPERM);
  pid_t child = fork();
  if (child == 0) {
    if (setresgid(9, 9, 9) < 0 || setresuid(9, 9, 9) < 0) _exit(1);
    if (mount("tmpfs", "/m/tmp", "tmpfs", 0, NULL) == 0 || errno != EPERM) _exit(2);
    if (umount("/m/tmp") == 0 || errno != EPERM) _exit(3);
    _exit(0);
  }
  int status;
  waitpid(child, &status, 0);
  verdict("nobody but root", status == 0, status);
  child = fork();
  if (child == 0) {
    unsigned header[2] = {0x20080522, 0}, data[6] = {0};
    if (syscall(SYS_capset, header, data) < 0) _exit(1);
    _exit(mount("tmpfs", "/m/tmp", "tmpfs", 0, NULL) == 0 ? 2 : errno == EPERM ? 0 : 3);
  }
  waitpid(child, &status, 0);
  verdict("no root without capabilities", status == 0, status);
  child = fork();
  if (child == 0) {
    if (chroot("/m") < 0 || chdir("/") < 0) _exit(1);
    if (mount("tmpfs", "/tmp", "tmpfs", 0, NULL) < 0) _exit(2);
    put("/tmp/seen", "x");
    _exit(0);
  }
  waitpid(child, &status, 0);
  verdict("paths are the caller's own root's", status == 0 && exists("/m/tmp/seen"), status);
  works("unmount from outside of the chroot", umount("/m/tmp"));
  works("a mount that a chroot does not see", mount("/m/from", "/tmp", NULL, MS_BIND, NULL));
  child = fork();
  if (child == 0) {
    _exit(chroot("/m") < 0 || mount("tmpfs", "/tmp", "tmpfs", 0, NULL) < 0 || umount("/tmp") < 0);
  }
  waitpid(child, &status, 0);
  verdict("is not forgotten for it", status == 0 && umount("/tmp") == 0 && exists("/proc/self/stat"), status);
}

// Binds of everything into itself end before the kernel's patience does.
static void bomb(void) {
  int made = 0, error = 0;
  while (made < 300) {
    if (mount("/m", "/m/to", NULL, MS_BIND, NULL) < 0) {
      error = errno;
      break;
    }
    made++;
  }
  verdict("there is an end to binds", made > 0 && made < 300 && error == ENOSPC, made * 1000L + error);
  while (umount("/m/to") == 0) made--;
  verdict("and back", made == 0, made);
}

static volatile int stop;
static char target[16] = "/m/tmp";
static void* flip(void* unused) {
  (void)unused;
  while (!stop) {
    strcpy(target, "/proc");
    strcpy(target, "/m/tmp");
    strcpy(target, "/");
  }
  return NULL;
}
static void races(void) {
  pthread_t thread;
  pthread_create(&thread, NULL, flip, NULL);
  for (int i = 0; i < 500; i++) {
    syscall(SYS_mount, "/m/from", target, NULL, MS_BIND, NULL);
    syscall(SYS_umount2, target, 0);
  }
  stop = 1;
  pthread_join(thread, NULL);
  while (umount("/m/tmp") == 0) {
  }
  verdict("races over the target", exists("/proc/self/stat") && exists("/m/from/file") && !exists("/file"), 0);
}

int main(void) {
  const char* directories[] = {"/m", "/m/tmp", "/m/from", "/m/to", "/m/proc"};
  for (unsigned i = 0; i < sizeof directories / sizeof *directories; i++) mkdir(directories[i], 0755);
  put("/m/file", "covered");
  in_memory();
  binds();
  refusals();
  bomb();
  races();
  return 0;
}
