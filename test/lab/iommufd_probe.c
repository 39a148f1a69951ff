/*
 * Takes PCI functions over by iommufd as a driver in user space does, and says what it reads from each:
 *
 *   PCIDEVICE_BULKHEAD_IO_VFIO=0000:01:00.0,0000:02:00.0 iommufd_probe
 *
 * Prints a line "ADDRESS VENDOR DEVICE" for each function, from its configuration space. All of them get the one address
 * space in which two mebibytes of locked memory are mapped. Exit status: 0, or 1 with the step that failed.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEMORY (2UL << 20)
#define IOVA (1UL << 20)

/* The kernel's interface, which Debian 12's headers (6.1) do not have: linux/iommufd.h of 6.2, linux/vfio.h of 6.6. */
struct ioas_alloc {
  uint32_t size, flags, ioas;
};
struct ioas_map {
  uint32_t size, flags, ioas, reserved;
  uint64_t address, length, iova;
};
struct bind_iommufd {
  uint32_t argsz, flags;
  int32_t iommufd;
  uint32_t id;
};
struct attach_iommufd {
  uint32_t argsz, flags, target;
};
#define IOAS_ALLOC _IO(';', 0x81)
#define IOAS_MAP _IO(';', 0x85)
#define MAP_FIXED_IOVA (1 << 0)
#define MAP_WRITEABLE (1 << 1)
#define MAP_READABLE (1 << 2)
#define BIND_IOMMUFD _IO(VFIO_TYPE, VFIO_BASE + 18)
#define ATTACH_IOMMUFD _IO(VFIO_TYPE, VFIO_BASE + 19)

static int fail(const char *step) {
  fprintf(stderr, "%s: %s\n", step, strerrorname_np(errno));
  return 1;
}

/* The function's own node, whose number sysfs knows: "/dev/vfio/devices/vfio3". */
static int open_function(const char *address) {
  char path[300];
  snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", address);
  DIR *dir = opendir(path);
  if (dir == NULL) return -1;
  struct dirent *entry = NULL;
  while ((entry = readdir(dir)) != NULL && strncmp(entry->d_name, "vfio", 4) != 0) continue;
  if (entry == NULL) {
    closedir(dir);
    errno = ENODEV;
    return -1;
  }
  snprintf(path, sizeof(path), "/dev/vfio/devices/%s", entry->d_name);
  closedir(dir);
  return open(path, O_RDWR | O_CLOEXEC);
}

static int map_memory(int iommu, uint32_t ioas) {
  void *memory =
      mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  struct ioas_map map = {.size = sizeof(map),
                         .flags = MAP_FIXED_IOVA | MAP_WRITEABLE | MAP_READABLE,
                         .ioas = ioas,
                         .address = (uintptr_t)memory,
                         .length = MEMORY,
                         .iova = IOVA};
  return ioctl(iommu, IOAS_MAP, &map);
}

static int show(int iommu, uint32_t ioas, const char *address) {
  int device = open_function(address);
  if (device < 0) return fail("open");
  struct bind_iommufd bind = {.argsz = sizeof(bind), .iommufd = iommu};
  if (ioctl(device, BIND_IOMMUFD, &bind) != 0) return fail("bind");
  struct attach_iommufd attach = {.argsz = sizeof(attach), .target = ioas};
  if (ioctl(device, ATTACH_IOMMUFD, &attach) != 0) return fail("attach");
  struct vfio_region_info region = {.argsz = sizeof(region), .index = VFIO_PCI_CONFIG_REGION_INDEX};
  if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region) != 0) return fail("region");
  uint16_t ids[2];
  if (pread(device, ids, sizeof(ids), (off_t)region.offset) != sizeof(ids)) return fail("read");
  printf("%s 0x%04x 0x%04x\n", address, ids[0], ids[1]);
  return 0;
}

int main(void) {
  char *addresses = getenv("PCIDEVICE_BULKHEAD_IO_VFIO");
  if (addresses == NULL) return fail("PCIDEVICE_BULKHEAD_IO_VFIO");
  int iommu = open("/dev/iommu", O_RDWR | O_CLOEXEC);
  if (iommu < 0) return fail("iommu");
  struct ioas_alloc alloc = {.size = sizeof(alloc)};
  if (ioctl(iommu, IOAS_ALLOC, &alloc) != 0) return fail("alloc");
  // Mapped first: the functions that come after it are given what there is.
  if (map_memory(iommu, alloc.ioas) != 0) return fail("map");
  char *rest = NULL;
  for (char *address = strtok_r(addresses, ",", &rest); address != NULL;
       address = strtok_r(NULL, ",", &rest)) {
    if (show(iommu, alloc.ioas, address) != 0) return 1;
  }
  return 0;
}
