// What makes one clone of a template different from the next.
#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "agent/files.h"
#include "agent/guest_calls.h"
#include "agent/text_file.h"

namespace bulkhead::agent {

namespace {

constexpr uint64_t kNsPerSecond = 1000000000;
constexpr size_t kMachineId = 32;

#ifndef RNDRESEEDCRNG
#define RNDRESEEDCRNG _IO('R', 0x07)
#endif

// Adding alone changes nothing that was handed out before the pool is next mixed in (up to
// minutes): the reseed is what makes the next random number differ from that of the other clones.
// random(4).
int add_entropy(std::string_view bytes) {
  UniqueFd random(::open("/dev/urandom", O_RDWR | O_CLOEXEC));
  if (!random) return errno;
  std::vector<int> request(2 + (bytes.size() + sizeof(int) - 1) / sizeof(int));
  request[0] = static_cast<int>(bytes.size() * 8);
  request[1] = static_cast<int>(bytes.size());
  std::memcpy(&request[2], bytes.data(), bytes.size());
  if (::ioctl(random.get(), RNDADDENTROPY, request.data()) < 0) return errno;
  return ::ioctl(random.get(), RNDRESEEDCRNG) < 0 ? errno : 0;
}

int set_clock(uint64_t realtime_ns) {
  timespec time{};
  time.tv_sec = static_cast<time_t>(realtime_ns / kNsPerSecond);
  time.tv_nsec = static_cast<long>(realtime_ns % kNsPerSecond);
  return ::clock_settime(CLOCK_REALTIME, &time) < 0 ? errno : 0;
}

bool is_machine_id(const std::string& id) {
  return id.size() == kMachineId && std::all_of(id.begin(), id.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

bool is_sysctl_key(const std::string& key) {
  return !key.empty() && key[0] != '/' && ("/" + key + "/").find("/../") == std::string::npos;
}

}  // namespace

CallReply set_up(const Setup& call) {
  if (!call.entropy.empty()) {
    if (int err = add_entropy(call.entropy))
      return CallReply::failed("entropy", "/dev/urandom", err);
  }
  if (call.clock_realtime_ns != 0) {
    if (int err = set_clock(call.clock_realtime_ns))
      return CallReply::failed("clock_settime", "", err);
  }
  if (!call.hostname.empty() && ::sethostname(call.hostname.data(), call.hostname.size()) < 0)
    return CallReply::failed("sethostname", call.hostname, errno);
  if (!call.machine_id.empty()) {
    if (!is_machine_id(call.machine_id))
      return CallReply::failed("machine id", call.machine_id, EINVAL);
    const CallReply written =
        write_files({{{"/etc/machine-id", call.machine_id + "\n", true, 0444}}});
    if (written.err != 0) return written;
  }
  for (const auto& [key, value] : call.sysctls) {
    if (!is_sysctl_key(key)) return CallReply::failed("sysctl", key, EINVAL);
    if (Status written = write_text("/proc/sys/" + key, value); !written)
      return CallReply::failed("sysctl", key, written.error().code);
  }
  return {};
}

}  // namespace bulkhead::agent
