/*
 * Takes PCI functions over by VFIO as a driver in user space does (DPDK, SPDK), and says what it reads from each:
 *
 *   vfio_probe [hold] GROUP=ADDRESS…     "10=0000:01:10.0"
 *
 * Prints a line "ADDRESS VENDOR DEVICE" for each function, from its configuration space. The IOMMU lets the functions
 * reach two mebibytes of memory, which has to be locked for that. With "hold" it keeps them open until it is killed. Exit status: 0, or 1 with the step that failed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEMORY (2UL << 20)
#define IOVA (1UL << 20)

static int fail(const char *step) {
  fprintf(stderr, "%s: %s\n", step, strerrorname_np(errno));
  return 1;
}

static int map_memory(int container) {
  void *memory =
      mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  struct vfio_iommu_type1_dma_map map = {.argsz = sizeof(map),
                                         .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                                         .vaddr = (uintptr_t)memory,
                                         .iova = IOVA,
                                         .size = MEMORY};
  return ioctl(container, VFIO_IOMMU_MAP_DMA, &map);
}

static int open_group(int container, const char *number) {
  char path[64];
  snprintf(path, sizeof(path), "/dev/vfio/%s", number);
  int group = open(path, O_RDWR | O_CLOEXEC);
  if (group < 0) return -1;
  struct vfio_group_status status = {.argsz = sizeof(status)};
  if (ioctl(group, VFIO_GROUP_GET_STATUS, &status) != 0) return -1;
  if ((status.flags & VFIO_GROUP_FLAGS_VIABLE) == 0) {
    errno = EBUSY;
    return -1;
  }
  return ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) == 0 ? group : -1;
}

static int show(int group, const char *address) {
  int device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
  if (device < 0) return fail("device");
  struct vfio_region_info region = {.argsz = sizeof(region), .index = VFIO_PCI_CONFIG_REGION_INDEX};
  if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region) != 0) return fail("region");
  uint16_t ids[2];
  if (pread(device, ids, sizeof(ids), (off_t)region.offset) != sizeof(ids)) return fail("read");
  printf("%s 0x%04x 0x%04x\n", address, ids[0], ids[1]);
  return 0;
}

int main(int argc, char **argv) {
  int hold = argc > 1 && strcmp(argv[1], "hold") == 0;
  argc -= hold;
  argv += hold;
  int container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
  if (container < 0) return fail("container");
  if (ioctl(container, VFIO_GET_API_VERSION) != VFIO_API_VERSION) return fail("version");
  int groups[16];
  for (int i = 1; i < argc && i < 16; i++) {
    char *address = strchr(argv[i], '=');
    if (address == NULL) return 2;
    *address = '\0';
    groups[i] = open_group(container, argv[i]);
    if (groups[i] < 0) return fail("group");
    *address = '=';
  }
  // The IOMMU is chosen once there is a group; then memory can be mapped.
  if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU) != 0) return fail("iommu");
  if (map_memory(container) != 0) return fail("map");
  for (int i = 1; i < argc && i < 16; i++) {
    int status = show(groups[i], strchr(argv[i], '=') + 1);
    if (status != 0) return status;
  }
  fflush(stdout);
  if (hold) pause();
  return 0;
}
