// What monitor, launcher and engine say to each other (proto/executor.proto), as plain structures.
// Everything that is decoded is a view into the frame it came from; what is encoded comes out as a
// framed message, ready to be sent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/launch.h"
#include "core/process.h"

namespace bulkhead::shim {

inline constexpr uint32_t kProtocol = 1;

// Stdio of executor.proto.
struct StdioSpec {
  std::string_view in;
  std::string_view out;
  std::string_view err;
  bool terminal = false;
  bool stdin_at_gate = false;
  bool append = false;
};

// One ToMonitor. Only the members of its kind are set.
struct ToMonitor {
  enum class Kind {
    kNone,  // a message this version does not know: passed over
    kWelcome,
    kStreamData,
    kStreamClose,
    kLaunch,
    kContinue,
    kSignal,
    kResize,
    kCloseStdin,
    kForget,
    kShutdown,
    kGuestConnect,
    kGuestCall,
    kLeftAnswer,
    kShimReply,
  };
  Kind kind = Kind::kNone;
  uint32_t protocol = 0;
  uint32_t conn = 0;
  std::span<const uint8_t> data;  // also a GuestCall's call
  uint64_t request = 0;
  std::string_view key;
  std::span<const uint8_t> plan;
  StdioSpec stdio;
  std::string_view dies_with;
  bool hold_mounts = false;
  std::string_view guest;
  std::string_view socket_path;
  uint32_t deadline_ms = 0;
  uint32_t signal = 0;
  uint32_t width = 0;
  uint32_t height = 0;
  // LeftAnswer
  std::string_view method;
  std::span<const uint8_t> left_request;
  std::span<const uint8_t> left_response;
  // ShimReply
  std::string_view error;
  std::string_view output;
  std::string_view group;
  std::string_view bootstrap;
  std::string_view shim_cgroup;
};

// False: malformed; the connection is of no use any more.
bool decode_to_monitor(std::span<const uint8_t> bytes, ToMonitor& message);

struct ShimRequest {
  std::string_view action;
  std::string_view wall;
  std::string_view name_space;
  std::string_view id;
  std::string_view bundle;
  std::string_view containerd_address;
  std::string_view ttrpc_address;
  std::string_view publish_binary;
  bool debug = false;
  std::string_view input;
  uint32_t max_shim_version = 0;
};

struct Hello {
  uint32_t monitor_pid = 0;
  std::string_view wall;
  std::string_view name_space;
  std::string_view group;
  std::string_view containerd_address;
  std::string_view ttrpc_address;
  std::string_view publish_binary;
  std::string_view socket_path;
  bool debug = false;
  std::string_view bundle;
};

// Framed messages. Hello and its processes are built by HelloBuilder.
std::string encode_shim_request(const ShimRequest& request);
std::string encode_stream_open(uint32_t conn, bool grpc);
std::string encode_stream_close(uint32_t conn);
std::string encode_launched(uint64_t request, std::string_view key, uint32_t pid,
                            std::string_view paused_at);
std::string encode_launch_failed(const LaunchFailure& failure);
std::string encode_launch_warning(std::string_view key, const StepFailure& warning);
std::string encode_started(uint64_t request, std::string_view key, uint32_t pid);
std::string encode_exited(std::string_view key, uint32_t pid, uint32_t wait_status,
                          uint64_t exited_at_ns, bool output_waits = false, bool executed = false);
std::string encode_reply(uint64_t request, int err);
std::string encode_guest_reply(uint64_t request, int err, std::span<const uint8_t> bytes,
                               std::string_view what);
std::string encode_guest_event(std::string_view guest, std::span<const uint8_t> event);
std::string encode_guest_closed(std::string_view guest, std::string_view reason);

// Hello with any number of processes and guests: call add() for each, then finish() once.
class HelloBuilder {
 public:
  explicit HelloBuilder(const Hello& hello);
  // `guest`: that it runs in; empty: the host.
  void add(const ProcessState& process, std::string_view guest = {});
  void add_guest(std::string_view guest);
  std::string finish();

 private:
  std::string body_;
};

// The frame header, tags and lengths that stand before `size` bytes of StreamData. Nothing is
// allocated: this is the relay's hot path.
struct StreamDataPrefix {
  uint8_t bytes[32];
  size_t length = 0;
};
StreamDataPrefix stream_data_prefix(uint32_t conn, size_t size);

}  // namespace bulkhead::shim
