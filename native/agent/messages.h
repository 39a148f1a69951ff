// What host and agent say on the channel's control stream (proto/agent.proto), as plain structures.
// What is decoded views the message that it came from; answers that the monitor knows already are
// encoded by its own codec.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/process.h"

namespace bulkhead::agent {

inline constexpr uint32_t kProtocol = 1;
inline constexpr size_t kMaxPaths = 256;
inline constexpr size_t kMaxFileRead = 1u << 20;
inline constexpr size_t kMaxFilesTogether = 4u << 20;
inline constexpr size_t kMaxEntropy = 512;
inline constexpr size_t kMaxFunctions = 64;
inline constexpr uint32_t kDefaultTimeoutMs = 10000;
inline constexpr uint32_t kMaxTimeoutMs = 600000;

// One ToAgent. Only the members of its kind are set.
struct ToAgent {
  enum class Kind {
    kNone,  // a message this version does not know: passed over
    kHello,
    kLaunch,
    kContinue,
    kSignal,
    kResize,
    kForget,
    kCall,
  };
  Kind kind = Kind::kNone;
  uint32_t protocol = 0;
  uint64_t request = 0;
  std::string_view key;
  std::span<const uint8_t> plan;
  uint32_t streams[3] = {0, 0, 0};
  bool terminal = false;
  std::string_view dies_with;
  uint32_t signal = 0;
  uint32_t width = 0;
  uint32_t height = 0;
  std::span<const uint8_t> call;
};
// False: malformed.
bool decode_to_agent(std::span<const uint8_t> bytes, ToAgent& message);

// ---- calls, by the names of agent.proto

struct Setup {
  std::string hostname;
  uint64_t clock_realtime_ns = 0;
  std::string entropy;
  std::string machine_id;
  std::vector<std::pair<std::string, std::string>> sysctls;
};
struct NetworkSetup {
  std::string encoded;  // for native/agent/network.h
};
struct ReadFiles {
  std::vector<std::string> paths;
};
struct FileWrite {
  std::string path;
  std::string data;
  bool create = false;
  uint32_t mode = 0;
  bool optional = false;
  bool directory = false;
};
struct WriteFiles {
  std::vector<FileWrite> files;
};
struct WatchOom {
  std::string cgroup;
};
struct DeviceMatch {
  enum class By {
    kNothing,
    kBlockSerial,
    kPmemAddress,
    kVirtiofsTag,
    kNetMac,
    kPciPath,
    kPath,
    kP9Tag
  };
  By by = By::kNothing;
  std::string text;
  uint64_t address = 0;
  std::string subsystem;
};
struct WaitDevice {
  DeviceMatch device;
  uint32_t timeout_ms = 0;
};
struct Mount {
  DeviceMatch device;
  std::string source;
  std::string target;
  std::string fstype;
  uint64_t flags = 0;
  std::string data;
  uint32_t timeout_ms = 0;
  bool file = false;
};
struct Unmount {
  std::string target;
  bool detach = false;
  uint32_t timeout_ms = 0;
};
struct AwaitFile {
  std::string path;
  std::string line;
  uint32_t timeout_ms = 0;
};
struct Remove {
  std::vector<std::string> paths;
};
struct OnlineCpus {
  uint32_t count = 0;
  uint32_t timeout_ms = 0;
};
struct OnlineMemory {
  uint64_t bytes = 0;
  uint32_t timeout_ms = 0;
};
struct CleanMemory {
  uint32_t timeout_ms = 0;
};
struct Sync {
  uint32_t timeout_ms = 0;
};
struct Poweroff {
  bool reboot = false;
};
struct BindVfio {
  std::vector<std::string> pci_paths;
  uint32_t timeout_ms = 0;
};
using Call = std::variant<std::monostate, Setup, NetworkSetup, ReadFiles, WriteFiles, WatchOom,
                          WaitDevice, Mount, Unmount, AwaitFile, Remove, OnlineCpus, OnlineMemory,
                          Sync, Poweroff, CleanMemory, BindVfio>;
// False: malformed, or more than the limits above. std::monostate: a call this version does not
// know.
bool decode_call(std::span<const uint8_t> bytes, Call& call);

struct FileContent {
  std::string path;
  std::string data;
  int err = 0;
};
struct Device {
  std::string name;
  std::string path;
  std::string sysfs;
  uint32_t major = 0;
  uint32_t minor = 0;
};
struct VfioFunction {
  std::string address;
  uint32_t group = 0;
  std::vector<Device> nodes;
};
struct CallReply {
  int err = 0;  // failure, when not 0
  std::string op;
  std::string path;
  std::vector<FileContent> files;
  bool has_device = false;
  Device device;
  uint64_t amount = 0;
  std::vector<VfioFunction> functions;

  static CallReply failed(std::string_view op, std::string_view path, int err) {
    CallReply reply;
    reply.err = err == 0 ? EIO : err;
    reply.op = op;
    reply.path = path;
    return reply;
  }
};
std::string encode_call_reply(const CallReply& reply);

// ---- FromAgent, ready for the control stream

// One process of Hello.
std::string encode_process(const ProcessState& process);
// `processes` are those of encode_process, one behind the other.
std::string encode_hello(std::string_view version, std::string_view kernel, uint64_t uptime_ms,
                         std::string_view processes);
std::string encode_answer(uint64_t request, int err, std::string_view reply);
std::string encode_oom_event(std::string_view cgroup, uint64_t oom_kill);
std::string encode_log_event(std::string_view level, std::string_view message);

}  // namespace bulkhead::agent
