/*
 * Maps a file or a device-DAX node with MAP_SYNC, which the kernel grants only where a store that has left the
 * processor's caches is durable (mmap(2), Linux 4.15).
 *
 *   dax_probe write PATH LENGTH TEXT   maps, stores TEXT at the beginning, flushes
 *   dax_probe read PATH LENGTH [AT]    maps from AT (a multiple of 2 MiB), prints the text there
 *   dax_probe plain PATH LENGTH TEXT   stores through a plain shared mapping and calls fsync(2)
 *
 * Prints "MAP_SYNC" or the error's name before anything else. Exit status: 0, 1 when MAP_SYNC is refused, 2 otherwise.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, strerrorname_np(errno));
  return 2;
}

static void flush(const char *address, size_t length) {
  for (size_t at = 0; at < length; at += 64) _mm_clflush(address + at);
  _mm_sfence();
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  const char *mode = argv[1];
  size_t length = strtoul(argv[3], NULL, 0);
  const char *text = argc > 4 ? argv[4] : "";
  int fd = open(argv[2], O_RDWR | O_CLOEXEC);
  if (fd < 0) return fail("open");
  int flags = strcmp(mode, "plain") == 0 ? MAP_SHARED : MAP_SHARED_VALIDATE | MAP_SYNC;
  off_t at = strcmp(mode, "read") == 0 ? strtoll(text, NULL, 0) : 0;
  char *map = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, fd, at);
  if (map == MAP_FAILED) {
    printf("%s\n", strerrorname_np(errno));
    return 1;
  }
  if (strcmp(mode, "read") == 0) {
    printf("MAP_SYNC\n%.64s\n", map);
    return 0;
  }
  strcpy(map, text);
  if (strcmp(mode, "plain") == 0) {
    if (fsync(fd) != 0) return fail("fsync");
    printf("fsync\n");
    return 0;
  }
  flush(map, strlen(text) + 1);
  printf("MAP_SYNC\n");
  return 0;
}
