/*
 * A libnvidia-ml.so.1 that says what a test wants: two GPUs, the first partitioned. Built with -DFAULT_CRASH,
 * -DFAULT_HANG, -DFAULT_MISMATCH, -DFAULT_GARBAGE or -DFAULT_SYMBOL it does what such libraries do on a bad day.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, MISMATCH = 18 };

typedef struct { int gpu; int mig; } Device;
static Device gpus[2] = {{0, -1}, {1, -1}};
/* Slots of the first GPU; the second is empty. */
static Device migs[3] = {{0, 0}, {0, 1}, {0, 2}};
static int initialised;

typedef struct {
  char legacy[16];
  unsigned domain, bus, device, id, subsystem;
  char bus_id[32];
} Pci;

int nvmlInit_v2(void) {
#if defined(FAULT_CRASH)
  *(volatile int *)0 = 1;
#elif defined(FAULT_HANG)
  for (;;) pause();
#elif defined(FAULT_MISMATCH)
  return MISMATCH;
#endif
  initialised = 1;
  return SUCCESS;
}

int nvmlShutdown(void) {
  initialised = 0;
  return SUCCESS;
}

const char *nvmlErrorString(int code) {
  return code == MISMATCH ? "Driver/library version mismatch" : "Unknown Error";
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
  snprintf(text, size, "570.86.15");
  return SUCCESS;
}

#ifndef FAULT_SYMBOL
int nvmlDeviceGetCount_v2(unsigned *count) {
  *count = 2;
  return initialised ? SUCCESS : 1;
}
#endif

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
  *device = &gpus[index];
  return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(Device *device, Pci *pci) {
  memset(pci, 0, sizeof *pci);
  snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", 0x41 + device->gpu);
  return SUCCESS;
}

int nvmlDeviceGetUUID(Device *device, char *text, unsigned size) {
#if defined(FAULT_GARBAGE)
  memset(text, '"', size);
  return SUCCESS;
#endif
  if (device->mig < 0) snprintf(text, size, "GPU-0000000%d-aaaa-bbbb-cccc-dddddddddddd", device->gpu);
  else snprintf(text, size, "MIG-1111111%d-aaaa-bbbb-cccc-dddddddddddd", device->mig);
  return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *count) {
  *count = device->gpu == 0 ? 3 : 0;
  return device->gpu == 0 ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **mig) {
  (void)device;
  *mig = &migs[index];
  return index == 1 ? NOT_FOUND : SUCCESS;
}

/* The numbers are not in the order of the instances. */
int nvmlDeviceGetGpuInstanceId(Device *device, unsigned *id) {
  *id = device->mig == 0 ? 2 : 1;
  return SUCCESS;
}

int nvmlDeviceGetComputeInstanceId(Device *device, unsigned *id) {
  (void)device;
  *id = 0;
  return SUCCESS;
}

int nvmlDeviceGetTopologyCommonAncestor(Device *one, Device *other, int *level) {
  *level = one->gpu + other->gpu == 1 ? 30 : 0;
  return SUCCESS;
}
