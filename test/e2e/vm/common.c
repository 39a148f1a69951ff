/*
 * What connects two containers by a volume.
 *   common serve PATH      locks PATH.lock, listens at PATH and answers one connection with what it says
 *   common ask PATH TEXT   prints the answer
 *   common lock PATH       "free", or "taken" by who has locked PATH.lock
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int take(const char *path, int flags) {
  char name[256];
  snprintf(name, sizeof name, "%s.lock", path);
  int fd = open(name, flags, 0644);
  return fd < 0 ? fd : flock(fd, LOCK_EX | LOCK_NB);
}

static int serve(int fd, const struct sockaddr_un *address) {
  char text[256];
  if (take(address->sun_path, O_RDWR | O_CREAT) < 0) return perror("lock"), 1;
  if (bind(fd, (const void *)address, sizeof *address) < 0 || listen(fd, 1) < 0) return perror("serve"), 1;
  int peer = accept(fd, NULL, NULL);
  ssize_t length = read(peer, text, sizeof text);
  return length > 0 && write(peer, text, length) == length ? 0 : 1;
}

static int ask(int fd, const struct sockaddr_un *address, const char *question) {
  char text[256];
  if (connect(fd, (const void *)address, sizeof *address) < 0) return perror("ask"), 1;
  if (write(fd, question, strlen(question)) < 0) return 1;
  ssize_t length = read(fd, text, sizeof text);
  return length > 0 && write(1, text, length) == length ? 0 : 1;
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, argv[2], sizeof address.sun_path - 1);
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (strcmp(argv[1], "serve") == 0) return serve(fd, &address);
  if (argc > 3) return ask(fd, &address, argv[3]);
  return puts(take(argv[2], O_RDONLY) < 0 ? "taken" : "free") < 0;
}
