// BindVfio of agent.proto: PCI functions for a program of the guest that drives them itself.
#include <fcntl.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <set>

#include "agent/devices.h"
#include "agent/guest_calls.h"
#include "agent/text_file.h"

namespace bulkhead::agent {

namespace {

const std::string kBus = "/sys/bus/pci";
const std::string kDriver = "vfio-pci";
const std::string kContainer = "/dev/vfio/vfio";
const std::string kIommu = "/dev/iommu";

// The last component of what a link of sysfs leads to; empty: there is no such link.
std::string link_name(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t size = ::readlink(path.c_str(), target, sizeof target);
  if (size <= 0 || static_cast<size_t>(size) == sizeof target) return {};
  const std::string_view name(target, static_cast<size_t>(size));
  return std::string(name.substr(name.rfind('/') + 1));
}

std::string driver_of(const std::string& sysfs) {
  return link_name(sysfs + "/driver");
}

int node_at(const std::string& path, uint64_t deadline, Device& node) {
  const uint64_t now = now_ms();
  DeviceMatch match;
  match.by = DeviceMatch::By::kPath;
  match.text = path;
  const uint64_t left = now < deadline ? deadline - now : 1;
  return wait_device(match, static_cast<uint32_t>(std::min<uint64_t>(left, kMaxTimeoutMs)), node);
}

// Leaves the function with vfio-pci, or says why not. The kernel takes an override and a probe that
// come to nothing without an error, so the link is what counts.
CallReply bind(const Device& device) {
  if (driver_of(device.sysfs) == kDriver) return {};
  if (Status done = write_text(device.sysfs + "/driver_override", kDriver); !done)
    return CallReply::failed("bind", device.name, done.error().code);
  if (!driver_of(device.sysfs).empty()) {
    if (Status done = write_text(device.sysfs + "/driver/unbind", device.name); !done)
      return CallReply::failed("bind", device.name, done.error().code);
  }
  Status probed = write_text(kBus + "/drivers_probe", device.name);
  if (driver_of(device.sysfs) == kDriver) return {};
  return CallReply::failed("bind", device.name, probed ? ENODEV : probed.error().code);
}

// Bridges are part of a group and no obstacle: nobody drives them from user space.
bool is_bridge(const std::string& sysfs) {
  return read_line(sysfs + "/class").starts_with("0x0604");
}

// The name of a function of the same group that a driver of the kernel has; empty: there is none.
std::string obstacle(const std::string& sysfs) {
  const std::string members = sysfs + "/iommu_group/devices";
  std::string found;
  any_entry(members, [&](const std::string& name) {
    const std::string member = members + "/" + name;
    const std::string driver = driver_of(member);
    if (driver.empty() || driver == kDriver || is_bridge(member)) return false;
    found = name;
    return true;
  });
  return found;
}

// As a driver in user space begins: what it would be refused is refused here, before it runs.
CallReply try_group(const std::string& path) {
  UniqueFd container(::open(kContainer.c_str(), O_RDWR | O_CLOEXEC));
  if (!container) return CallReply::failed("open", kContainer, errno);
  UniqueFd group(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!group) return CallReply::failed("open", path, errno);
  vfio_group_status status{};
  status.argsz = sizeof status;
  if (::ioctl(group.get(), VFIO_GROUP_GET_STATUS, &status) < 0)
    return CallReply::failed("open", path, errno);
  if ((status.flags & VFIO_GROUP_FLAGS_VIABLE) == 0)
    return CallReply::failed("viable", path, EBUSY);
  int number = container.get();
  if (::ioctl(group.get(), VFIO_GROUP_SET_CONTAINER, &number) < 0)
    return CallReply::failed("open", path, errno);
  if (::ioctl(container.get(), VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) < 0)
    return CallReply::failed("iommu", path, errno);
  return {};
}

// /dev/vfio/vfio and the group's node; where the kernel has them, /dev/iommu and the function's.
CallReply find_nodes(const Device& device, uint64_t deadline, VfioFunction& function) {
  const std::string group = "/dev/vfio/" + std::to_string(function.group);
  std::vector<std::string> paths = {kContainer, group};
  std::string own;
  any_entry(device.sysfs + "/vfio-dev", [&](const std::string& name) {
    own = "/dev/vfio/devices/" + name;
    return true;
  });
  // The directory is in sysfs of kernels without iommufd too: the node tells.
  if (!own.empty() && ::access(kIommu.c_str(), F_OK) == 0) {
    paths.push_back(kIommu);
    paths.push_back(own);
  }
  for (const std::string& path : paths) {
    Device& node = function.nodes.emplace_back();
    if (int err = node_at(path, deadline, node)) return CallReply::failed("open", path, err);
    node.name.clear();
  }
  return {};
}

CallReply take(const std::string& pci_path, uint64_t deadline, Device& device,
               VfioFunction& function) {
  DeviceMatch match;
  match.by = DeviceMatch::By::kPciPath;
  match.text = pci_path;
  const uint64_t now = now_ms();
  const uint64_t left = now < deadline ? deadline - now : 1;
  if (int err = wait_device(match, static_cast<uint32_t>(left), device))
    return CallReply::failed("wait", device_name(match), err);
  const std::string group = link_name(device.sysfs + "/iommu_group");
  if (group.empty()) return CallReply::failed("group", device.name, ENODEV);
  function.address = device.name;
  function.group = static_cast<uint32_t>(std::strtoul(group.c_str(), nullptr, 10));
  return bind(device);
}

}  // namespace

CallReply bind_vfio(const BindVfio& call) {
  if (::access((kBus + "/drivers/" + kDriver).c_str(), F_OK) < 0)
    return CallReply::failed("driver", kDriver, ENODEV);
  const uint32_t timeout = call.timeout_ms == 0 ? kDefaultTimeoutMs : call.timeout_ms;
  const uint64_t deadline = now_ms() + std::min(timeout, kMaxTimeoutMs);
  CallReply reply;
  std::vector<Device> devices(call.pci_paths.size());
  for (size_t i = 0; i < devices.size(); i++) {
    CallReply taken = take(call.pci_paths[i], deadline, devices[i], reply.functions.emplace_back());
    if (taken.err != 0) return taken;
  }
  // Only now: functions that share a group are all asked for at once.
  std::set<std::string> tried;
  for (size_t i = 0; i < devices.size(); i++) {
    VfioFunction& function = reply.functions[i];
    const std::string other = obstacle(devices[i].sysfs);
    if (!other.empty()) return CallReply::failed("viable", other, EBUSY);
    CallReply found = find_nodes(devices[i], deadline, function);
    if (found.err != 0) return found;
    const std::string& group = function.nodes[1].path;
    if (!tried.insert(group).second) continue;
    CallReply usable = try_group(group);
    if (usable.err != 0) return usable;
  }
  return reply;
}

}  // namespace bulkhead::agent
