// What the monitor and a guest's agent say to each other on stream 0 (proto/agent.proto).
// Everything decoded is a view into the message it came from. The agent is not trusted: texts that
// are passed on are cut, and who sends anything else than an agent would is hung up on.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/launch.h"

namespace bulkhead::shim {

inline constexpr uint32_t kAgentProtocol = 1;

// One FromAgent. Only the members of its kind are set.
struct FromAgent {
  enum class Kind {
    kNone,  // a message this version does not know: passed over
    kHello,
    kLaunched,
    kLaunchFailed,
    kStarted,
    kExited,
    kReply,
    kLaunchWarning,
    kCall,
    kEvent,
  };
  Kind kind = Kind::kNone;
  uint32_t protocol = 0;           // Hello
  std::span<const uint8_t> bytes;  // Hello itself, the call's reply, the event
  uint64_t request = 0;
  std::string_view key;
  uint32_t pid = 0;
  std::string_view paused_at;
  bool has_step = false;  // LaunchFailed, LaunchWarning
  StepFailure step;
  int32_t err = 0;
  std::string_view op;
  std::string_view path;
  uint32_t wait_status = 0;
};

// False: malformed.
bool decode_from_agent(std::span<const uint8_t> bytes, FromAgent& message);

struct GuestLaunch {
  uint64_t request = 0;
  std::string_view key;
  std::span<const uint8_t> plan;
  uint32_t stdio[3] = {0, 0, 0};  // streams; 0: /dev/null
  bool terminal = false;
  std::string_view dies_with;
};

// Encoded ToAgent messages, without a frame.
std::string encode_host_hello();
std::string encode_guest_launch(const GuestLaunch& launch);
std::string encode_agent_continue(uint64_t request, std::string_view key);
std::string encode_agent_signal(uint64_t request, std::string_view key, uint32_t signal);
std::string encode_agent_resize(uint64_t request, std::string_view key, uint32_t width,
                                uint32_t height);
std::string encode_agent_forget(uint64_t request, std::string_view key);
std::string encode_agent_call(uint64_t request, std::span<const uint8_t> call);

}  // namespace bulkhead::shim
