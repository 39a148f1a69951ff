#include <protozero/pbf_writer.hpp>
#include <protozero/varint.hpp>

#include "core/frame.h"
#include "shim/messages.h"

namespace bulkhead::shim {

namespace {

using protozero::pbf_tag_type;
using protozero::pbf_writer;

// Field numbers of ToEngine.
enum : pbf_tag_type {
  kHello = 1,
  kStreamOpen = 2,
  kStreamData = 3,
  kStreamClose = 4,
  kLaunched = 5,
  kLaunchFailed = 6,
  kStarted = 7,
  kExited = 8,
  kReply = 9,
  kLaunchWarning = 10,
  kGuestReply = 11,
  kGuestEvent = 12,
  kGuestClosed = 13,
  kShimRequest = 20,
};

// Fields of proto3 that have their default are left out.
void put(pbf_writer& writer, pbf_tag_type tag, std::string_view value) {
  if (!value.empty()) writer.add_bytes(tag, value.data(), value.size());
}
void put(pbf_writer& writer, pbf_tag_type tag, uint32_t value) {
  if (value != 0) writer.add_uint32(tag, value);
}
void put(pbf_writer& writer, pbf_tag_type tag, uint64_t value) {
  if (value != 0) writer.add_uint64(tag, value);
}
void put(pbf_writer& writer, pbf_tag_type tag, int32_t value) {
  if (value != 0) writer.add_int32(tag, value);
}
void put(pbf_writer& writer, pbf_tag_type tag, bool value) {
  if (value) writer.add_bool(tag, value);
}

void put_length(uint8_t* at_bytes, size_t length) {
  for (int i = 0; i < 4; i++) at_bytes[i] = static_cast<uint8_t>(length >> (24 - 8 * i));
}

// Frame of a ToEngine whose field `tag` is `body`.
std::string framed(pbf_tag_type tag, const std::string& body) {
  std::string frame(kFrameHeader, '\0');
  pbf_writer writer(frame);
  writer.add_message(tag, body);
  put_length(reinterpret_cast<uint8_t*>(frame.data()), frame.size() - kFrameHeader);
  return frame;
}

void add_step(pbf_writer& outer, pbf_tag_type tag, const StepFailure& failure, bool warning) {
  std::string bytes;
  pbf_writer step(bytes);
  put(step, 1, failure.index);
  put(step, 2, failure.action);
  put(step, 3, failure.path);
  put(step, 4, failure.err);
  if (!warning) {
    put(step, 5, failure.detail);
    put(step, 6, failure.status);
  }
  outer.add_message(tag, bytes);
}

}  // namespace

std::string encode_shim_request(const ShimRequest& request) {
  std::string body;
  pbf_writer writer(body);
  put(writer, 1, request.action);
  put(writer, 2, request.wall);
  put(writer, 3, request.name_space);
  put(writer, 4, request.id);
  put(writer, 5, request.bundle);
  put(writer, 6, request.containerd_address);
  put(writer, 7, request.ttrpc_address);
  put(writer, 8, request.publish_binary);
  put(writer, 9, request.debug);
  put(writer, 10, request.input);
  put(writer, 11, request.max_shim_version);
  return framed(kShimRequest, body);
}

std::string encode_stream_open(uint32_t conn, bool grpc) {
  std::string body;
  pbf_writer writer(body);
  put(writer, 1, conn);
  put(writer, 2, grpc ? 1u : 0u);
  return framed(kStreamOpen, body);
}

std::string encode_stream_close(uint32_t conn) {
  std::string body;
  pbf_writer writer(body);
  put(writer, 1, conn);
  return framed(kStreamClose, body);
}

std::string encode_launched(uint64_t request, std::string_view key, uint32_t pid,
                            std::string_view paused_at) {
  std::string body;
  pbf_writer writer(body);
  put(writer, 1, request);
  put(writer, 2, key);
  put(writer, 3, pid);
  put(writer, 4, paused_at);
  return framed(kLaunched, body);
}

std::string encode_launch_failed(const LaunchFailure& failure) {
  std::string body;
  pbf_writer writer(body);
  put(writer, 1, failure.request);
  put(writer, 2, failure.key);
  if (failure.step != nullptr) add_step(writer, 3, *failure.step, false);
  put(writer, 4, failure.err);
  put(writer, 5, failure.op);
  put(writer, 6, failure.path);
  put(writer, 7, failure.wait_status);
  return framed(kLaunchFailed, body);
}

std::string encode_launch_warning(std::string_view key, const StepFailure& warning) {
  std::string body;
  pbf_writer writer(body);
  put(writer, 1, key);
  add_step(writer, 2, warning, true);
  return framed(kLaunchWarning, body);
}

std::string encode_started(uint64_t request, std::string_view key, uint32_t pid) {
  std::string body;
  pbf_writer writer(body);
  put(writer, 1, request);
  put(writer, 2, key);
  put(writer, 3, pid);
  return framed(kStarted, body);
}

std::string encode_exited(std::string_view key, uint32_t pid, uint32_t wait_status,
                          uint64_t exited_at_ns, bool output_waits, bool executed) {
  std::string body;
  pbf_writer writer(body);
  put(writer, 1, key);
  put(writer, 2, pid);
  put(writer, 3, wait_status);
  put(writer, 4, exited_at_ns);
  put(writer, 5, output_waits);
  put(writer, 6, executed);
  return framed(kExited, body);
}

std::string encode_reply(uint64_t request, int err) {
  std::string body;
  pbf_writer writer(body);
  put(writer, 1, request);
  put(writer, 2, static_cast<int32_t>(err));
  return framed(kReply, body);
}

std::string encode_guest_reply(uint64_t request, int err, std::span<const uint8_t> bytes,
                               std::string_view what) {
  std::string body;
  body.reserve(bytes.size() + 32);
  pbf_writer writer(body);
  put(writer, 1, request);
  put(writer, 2, static_cast<int32_t>(err));
  put(writer, 3, std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  put(writer, 4, what);
  return framed(kGuestReply, body);
}

std::string encode_guest_event(std::string_view guest, std::span<const uint8_t> event) {
  std::string body;
  pbf_writer writer(body);
  put(writer, 1, guest);
  put(writer, 2, std::string_view(reinterpret_cast<const char*>(event.data()), event.size()));
  return framed(kGuestEvent, body);
}

std::string encode_guest_closed(std::string_view guest, std::string_view reason) {
  std::string body;
  pbf_writer writer(body);
  put(writer, 1, guest);
  put(writer, 2, reason);
  return framed(kGuestClosed, body);
}

HelloBuilder::HelloBuilder(const Hello& hello) {
  pbf_writer writer(body_);
  put(writer, 1, kProtocol);
  put(writer, 2, kProtocol);
  put(writer, 3, hello.monitor_pid);
  put(writer, 4, hello.wall);
  put(writer, 5, hello.name_space);
  put(writer, 6, hello.group);
  put(writer, 7, hello.containerd_address);
  put(writer, 8, hello.ttrpc_address);
  put(writer, 9, hello.publish_binary);
  put(writer, 10, hello.socket_path);
  put(writer, 11, hello.debug);
  put(writer, 12, hello.bundle);
}

void HelloBuilder::add(const ProcessState& process, std::string_view guest) {
  std::string bytes;
  pbf_writer writer(bytes);
  put(writer, 1, process.key);
  put(writer, 2, process.pid);
  put(writer, 3, process.paused_at);
  put(writer, 4, process.exited);
  put(writer, 5, process.wait_status);
  put(writer, 6, process.exited_at_ns);
  put(writer, 7, process.running);
  put(writer, 8, guest);
  pbf_writer(body_).add_message(13, bytes);
}

void HelloBuilder::add_guest(std::string_view guest) {
  pbf_writer(body_).add_bytes(14, guest.data(), guest.size());
}

std::string HelloBuilder::finish() {
  return framed(kHello, body_);
}

StreamDataPrefix stream_data_prefix(uint32_t conn, size_t size) {
  uint8_t inner[16];
  uint8_t* end = inner;
  *end++ = 1 << 3;  // conn, varint
  end += protozero::write_varint(reinterpret_cast<char*>(end), conn);
  *end++ = 2 << 3 | 2;  // data, length-delimited
  end += protozero::write_varint(reinterpret_cast<char*>(end), size);
  size_t inner_length = static_cast<size_t>(end - inner);

  StreamDataPrefix prefix;
  uint8_t* out = prefix.bytes + kFrameHeader;
  *out++ = kStreamData << 3 | 2;
  out += protozero::write_varint(reinterpret_cast<char*>(out), inner_length + size);
  for (size_t i = 0; i < inner_length; i++) *out++ = inner[i];
  prefix.length = static_cast<size_t>(out - prefix.bytes);
  put_length(prefix.bytes, prefix.length - kFrameHeader + size);
  return prefix;
}

}  // namespace bulkhead::shim
