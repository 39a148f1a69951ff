#include "agent/devices.h"

#include <linux/netlink.h>
#include <poll.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <climits>
#include <cstdio>

#include "agent/text_file.h"

namespace bulkhead::agent {

namespace {

constexpr int kDeepest = 8;

std::string real_path(const std::string& path) {
  char resolved[PATH_MAX];
  return ::realpath(path.c_str(), resolved) == nullptr ? std::string() : std::string(resolved);
}

bool is_directory(const std::string& path) {
  struct stat info;
  return ::lstat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

// What sysfs says of a device at `sysfs`.
Device describe_device(const std::string& sysfs) {
  Device device;
  device.sysfs = real_path(sysfs);
  device.name = device.sysfs.substr(device.sysfs.rfind('/') + 1);
  const std::string number = read_line(device.sysfs + "/dev");
  if (std::sscanf(number.c_str(), "%u:%u", &device.major, &device.minor) != 2) return device;
  auto uevent = read_text(device.sysfs + "/uevent");
  std::string node = device.name;
  if (uevent) {
    const size_t at = ("\n" + uevent.value()).find("\nDEVNAME=");
    if (at != std::string::npos) {
      const size_t from = at + 8;
      node = uevent->substr(from, uevent->find('\n', from) - from);
    }
  }
  device.path = "/dev/" + node;
  return device;
}

// SCSI: page 0x80, whose serial number follows a header of four bytes.
std::string scsi_serial(const std::string& block) {
  const std::string page = read_line(block + "/device/vpd_pg80");
  return page.size() > 4 ? page.substr(4) : std::string();
}

bool find_block(const std::string& serial, Device& device) {
  return any_entry("/sys/class/block", [&](const std::string& name) {
    const std::string block = "/sys/class/block/" + name;
    if (read_line(block + "/serial") != serial && read_line(block + "/device/serial") != serial &&
        scsi_serial(block) != serial) {
      return false;
    }
    device = describe_device(block);
    return true;
  });
}

// A device of a subsystem somewhere below another one: …/SUBSYSTEM/NAME.
bool find_below(const std::string& directory, const std::string& subsystem, int depth,
                Device& device) {
  if (depth > kDeepest) return false;
  const std::string here = directory + "/" + subsystem;
  if (is_directory(here) && any_entry(here, [&](const std::string& name) {
        if (!is_directory(here + "/" + name)) return false;
        device = describe_device(here + "/" + name);
        return true;
      })) {
    return true;
  }
  return any_entry(directory, [&](const std::string& name) {
    const std::string child = directory + "/" + name;
    return is_directory(child) && find_below(child, subsystem, depth + 1, device);
  });
}

// Device-DAX: the bus has all of them, …/region0/dax0.1/dax0.0.
bool find_dax(const std::string& region, Device& device) {
  const std::string all = "/sys/bus/dax/devices";
  return any_entry(all, [&](const std::string& name) {
    if (!real_path(all + "/" + name).starts_with(region + "/")) return false;
    device = describe_device(all + "/" + name);
    return true;
  });
}

// The region that begins at this guest physical address, and the block device in it (of a
// namespace, or of the pfn device that lies over it), or its device-DAX ("dax").
bool find_pmem(uint64_t address, const std::string& subsystem, Device& device) {
  const std::string regions = "/sys/bus/nd/devices";
  return any_entry(regions, [&](const std::string& name) {
    if (!name.starts_with("region")) return false;
    const std::string begin = read_line(regions + "/" + name + "/resource");
    if (begin.empty() || ::strtoull(begin.c_str(), nullptr, 0) != address) return false;
    const std::string region = real_path(regions + "/" + name);
    return subsystem == "dax" ? find_dax(region, device) : find_below(region, "block", 0, device);
  });
}

// The tag stands in sysfs since Linux 6.9; before that only a mount tells.
bool find_virtiofs(const std::string& tag, Device& device) {
  const std::string instances = "/sys/fs/virtiofs";
  if (is_directory(instances)) {
    return any_entry(instances, [&](const std::string& name) {
      if (read_line(instances + "/" + name + "/tag") != tag) return false;
      device.name = tag;
      device.sysfs = real_path(instances + "/" + name + "/device");
      return true;
    });
  }
  const std::string driver = "/sys/bus/virtio/drivers/virtiofs";
  return any_entry(driver, [&](const std::string& name) {
    if (!name.starts_with("virtio")) return false;
    device.name = tag;
    device.sysfs = real_path(driver + "/" + name);
    return true;
  });
}

bool find_9p(const std::string& tag, Device& device) {
  const std::string driver = "/sys/bus/virtio/drivers/9pnet_virtio";
  return any_entry(driver, [&](const std::string& name) {
    // The kernel ends it with a zero.
    if (tag != read_line(driver + "/" + name + "/mount_tag").c_str()) return false;
    device.name = tag;
    device.sysfs = real_path(driver + "/" + name);
    return true;
  });
}

bool find_net(const std::string& mac, Device& device) {
  return any_entry("/sys/class/net", [&](const std::string& name) {
    const std::string link = "/sys/class/net/" + name;
    if (::strcasecmp(read_line(link + "/address").c_str(), mac.c_str()) != 0) return false;
    device = describe_device(link);
    return true;
  });
}

// "04.0/00.0": one component a bus. Kernel names are DOMAIN:BUS:DEVICE.FUNCTION.
bool find_pci(const std::string& path, const std::string& subsystem, Device& device) {
  std::string directory = "/sys/devices/pci0000:00";
  for (size_t at = 0; at <= path.size();) {
    const size_t end = path.find('/', at);
    const std::string part = ":" + path.substr(at, end - at);
    at = end == std::string::npos ? path.size() + 1 : end + 1;
    const std::string parent = directory;
    if (part.size() < 2 || !any_entry(parent, [&](const std::string& name) {
          if (!name.ends_with(part) || name.size() < part.size() + 6) return false;
          directory = parent + "/" + name;
          return true;
        })) {
      return false;
    }
  }
  if (!subsystem.empty()) return find_below(directory, subsystem, 0, device);
  device = describe_device(directory);
  return true;
}

bool find_path(const std::string& path, Device& device) {
  struct stat info;
  if (path.empty() || path[0] != '/' || ::stat(path.c_str(), &info) < 0) return false;
  device.name = path.substr(path.rfind('/') + 1);
  device.path = path;
  if (S_ISBLK(info.st_mode) || S_ISCHR(info.st_mode)) {
    device.major = major(info.st_rdev);
    device.minor = minor(info.st_rdev);
  }
  return true;
}

}  // namespace

bool find_device(const DeviceMatch& match, Device& device) {
  using By = DeviceMatch::By;
  switch (match.by) {
    case By::kNothing:
      return false;
    case By::kBlockSerial:
      return find_block(match.text, device);
    case By::kPmemAddress:
      return find_pmem(match.address, match.subsystem, device);
    case By::kVirtiofsTag:
      return find_virtiofs(match.text, device);
    case By::kNetMac:
      return find_net(match.text, device);
    case By::kPciPath:
      return find_pci(match.text, match.subsystem, device);
    case By::kPath:
      return find_path(match.text, device);
    case By::kP9Tag:
      return find_9p(match.text, device);
  }
  return false;
}

std::string device_name(const DeviceMatch& match) {
  static constexpr const char* kNames[] = {"device", "serial", "pmem at", "virtiofs",
                                           "mac",    "pci",    "",        "9p"};
  if (match.by == DeviceMatch::By::kPath) return match.text;
  std::string name = kNames[static_cast<int>(match.by)];
  if (match.by != DeviceMatch::By::kPmemAddress) return name + " " + match.text;
  char address[24];
  std::snprintf(address, sizeof address, " 0x%llx", static_cast<unsigned long long>(match.address));
  return name + address;
}

Status Uevents::open() {
  fd_.reset(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT));
  if (!fd_) return last_error("socket");
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = 1;  // the kernel's own; udev's are 2
  if (::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
    return last_error("bind");
  return success();
}

bool Uevents::wait(uint64_t deadline_ms) {
  const uint64_t now = now_ms();
  if (now >= deadline_ms) return false;
  const uint64_t left = deadline_ms - now;
  pollfd state{fd_.get(), POLLIN, 0};
  if (::poll(&state, 1,
             left > kMaxTimeoutMs ? static_cast<int>(kMaxTimeoutMs) : static_cast<int>(left)) <= 0)
    return now_ms() < deadline_ms;
  // What it was does not matter: whoever waits looks for itself. ENOBUFS, some were lost, is one
  // more reason to.
  char message[8192];
  while (::recv(fd_.get(), message, sizeof message, 0) > 0) {
  }
  return true;
}

int wait_device(const DeviceMatch& match, uint32_t timeout_ms, Device& device) {
  if (match.by == DeviceMatch::By::kNothing) return EINVAL;
  if (find_device(match, device)) return 0;
  Uevents uevents;
  if (Status opened = uevents.open(); !opened) return opened.error().code;
  const uint64_t deadline = now_ms() + (timeout_ms == 0 ? kDefaultTimeoutMs : timeout_ms);
  for (;;) {
    if (find_device(match, device)) return 0;
    if (!uevents.wait(deadline)) return ETIMEDOUT;
  }
}

CallReply wait_device(const WaitDevice& call) {
  CallReply reply;
  if (int err = wait_device(call.device, call.timeout_ms, reply.device))
    return CallReply::failed("wait", device_name(call.device), err);
  reply.has_device = true;
  return reply;
}

}  // namespace bulkhead::agent
