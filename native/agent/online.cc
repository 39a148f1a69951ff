// Memory and processors that were plugged in.
#include <stdlib.h>

#include "agent/devices.h"
#include "agent/guest_calls.h"
#include "agent/text_file.h"

namespace bulkhead::agent {

namespace {

constexpr const char* kCpus = "/sys/devices/system/cpu";
constexpr const char* kMemory = "/sys/devices/system/memory";

bool numbered(const std::string& name, std::string_view prefix) {
  return name.size() > prefix.size() && name.starts_with(prefix) && name[prefix.size()] >= '0' &&
         name[prefix.size()] <= '9';
}

// A processor without `online` cannot be switched off: it counts.
uint64_t bring_cpus() {
  uint64_t online = 0;
  any_entry(kCpus, [&online](const std::string& name) {
    if (!numbered(name, "cpu")) return false;
    const std::string file = std::string(kCpus) + "/" + name + "/online";
    if (read_line(file) == "0") (void)write_text(file, "1").ok();  // counted by what it says then
    if (read_line(file) != "0") online++;
    return false;
  });
  return online;
}

uint64_t bring_memory() {
  const uint64_t block =
      ::strtoull(read_line(std::string(kMemory) + "/block_size_bytes").c_str(), nullptr, 16);
  uint64_t online = 0;
  any_entry(kMemory, [&online, block](const std::string& name) {
    if (!numbered(name, "memory")) return false;
    const std::string file = std::string(kMemory) + "/" + name + "/state";
    if (read_line(file) == "offline")
      (void)write_text(file, "online").ok();  // counted by what it says then
    if (read_line(file) == "online") online += block;
    return false;
  });
  return online;
}

CallReply bring(uint64_t (*count)(), uint64_t wanted, uint32_t timeout_ms, const char* what) {
  CallReply reply;
  Uevents uevents;
  if (Status opened = uevents.open(); !opened)
    return CallReply::failed("wait", what, opened.error().code);
  const uint64_t deadline = now_ms() + (timeout_ms == 0 ? kDefaultTimeoutMs : timeout_ms);
  for (;;) {
    reply.amount = count();
    if (reply.amount >= wanted) return reply;
    if (!uevents.wait(deadline)) {
      CallReply late = CallReply::failed("online", what, ETIMEDOUT);
      late.amount = reply.amount;
      return late;
    }
  }
}

}  // namespace

CallReply online_cpus(const OnlineCpus& call) {
  return bring(bring_cpus, call.count, call.timeout_ms, "cpus");
}

CallReply online_memory(const OnlineMemory& call) {
  return bring(bring_memory, call.bytes, call.timeout_ms, "memory");
}

}  // namespace bulkhead::agent
