#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "agent/devices.h"
#include "agent/files.h"
#include "agent/guest_calls.h"
#include "agent/text_file.h"

namespace bulkhead::agent {

namespace {

int make_target(const Mount& call) {
  if (call.target.empty() || call.target[0] != '/') return EINVAL;
  if (!call.file) return make_directories(call.target);
  if (int err =
          make_directories(call.target.substr(0, std::max<size_t>(call.target.rfind('/'), 1))))
    return err;
  UniqueFd file(::open(call.target.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  return file ? 0 : errno;
}

int mount_once(const Mount& call, const std::string& source) {
  const int done = ::mount(source.empty() ? "none" : source.c_str(), call.target.c_str(),
                           call.fstype.empty() ? nullptr : call.fstype.c_str(), call.flags,
                           call.data.empty() ? nullptr : call.data.c_str());
  return done == 0 ? 0 : errno;
}

// Tries again after every event of a device while the error is one of two that pass.
int mount_until(const Mount& call, const std::string& source, uint64_t deadline, int passing,
                int also_passing) {
  Uevents uevents;
  if (Status opened = uevents.open(); !opened) return opened.error().code;
  for (;;) {
    const int err = mount_once(call, source);
    if (err != passing && err != also_passing) return err;
    if (!uevents.wait(deadline)) return err;
  }
}

// Before Linux 6.9 a tag cannot be looked up, and one that is not there yet is EINVAL (ENOENT for
// 9p).
int mount_by_tag(const Mount& call, const std::string& tag, uint64_t deadline) {
  return mount_until(call, tag, deadline, EINVAL, ENOENT);
}

// A disk is in sysfs before its node is there (ENOENT) and before it can be opened (ENXIO:
// device_add_disk() in block/genhd.c); its event comes last.
int mount_disk(const Mount& call, const std::string& node, uint64_t deadline) {
  return mount_until(call, node, deadline, ENXIO, ENOENT);
}

}  // namespace

CallReply mount_one(const Mount& call) {
  using By = DeviceMatch::By;
  CallReply reply;
  const uint32_t timeout = call.timeout_ms == 0 ? kDefaultTimeoutMs : call.timeout_ms;
  std::string source = call.source;
  if (call.device.by != By::kNothing) {
    if (int err = wait_device(call.device, timeout, reply.device))
      return CallReply::failed("wait", device_name(call.device), err);
    reply.has_device = true;
    source = reply.device.path.empty() ? reply.device.name : reply.device.path;
  }
  if (int err = make_target(call)) return CallReply::failed("mkdir", call.target, err);
  const bool tagged = call.device.by == By::kVirtiofsTag || call.device.by == By::kP9Tag;
  const uint64_t deadline = now_ms() + timeout;
  const int err = tagged             ? mount_by_tag(call, source, deadline)
                  : reply.has_device ? mount_disk(call, source, deadline)
                                     : mount_once(call, source);
  return err == 0 ? reply : CallReply::failed("mount", call.target, err);
}

CallReply unmount_one(const Unmount& call) {
  const int flags = UMOUNT_NOFOLLOW | (call.detach ? MNT_DETACH : 0);
  if (::umount2(call.target.c_str(), flags) == 0) return {};
  return CallReply::failed("unmount", call.target, errno);
}

CallReply sync_all(const Sync&) {
  ::sync();
  return {};
}

}  // namespace bulkhead::agent
