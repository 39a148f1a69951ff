// Finding what the host has plugged in, by what both sides know of it.
#pragma once

#include <string>

#include "agent/messages.h"
#include "core/result.h"

namespace bulkhead::agent {

// False: not there (yet).
bool find_device(const DeviceMatch& match, Device& device);
// "serial root-1", for a sentence.
std::string device_name(const DeviceMatch& match);

// The kernel's announcements of devices (netlink(7), NETLINK_KOBJECT_UEVENT).
class Uevents {
 public:
  Status open();
  // Until something was announced, or `deadline_ms` of now_ms() has come. False: that.
  bool wait(uint64_t deadline_ms);

 private:
  UniqueFd fd_;
};

// Blocks (for a worker). 0, ETIMEDOUT, or an errno of the socket.
int wait_device(const DeviceMatch& match, uint32_t timeout_ms, Device& device);
CallReply wait_device(const WaitDevice& call);

}  // namespace bulkhead::agent
