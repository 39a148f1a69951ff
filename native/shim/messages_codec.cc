#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>
#include <protozero/varint.hpp>

#include "core/frame.h"
#include "shim/messages.h"

namespace bulkhead::shim {

namespace {

using protozero::pbf_reader;
using protozero::pbf_tag_type;
using protozero::pbf_wire_type;
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
  kShimRequest = 20,
};

std::string_view text(pbf_reader& reader) {
  protozero::data_view view = reader.get_view();
  return {view.data(), view.size()};
}

std::span<const uint8_t> bytes_of(pbf_reader& reader) {
  protozero::data_view view = reader.get_view();
  return {reinterpret_cast<const uint8_t*>(view.data()), view.size()};
}

// Not get_bool(): protozero 1.7.1 reads its first byte without looking for the end of the message.
bool flag(pbf_reader& reader) {
  return reader.get_uint64() != 0;
}

// One field of a message as a table row would have it: `number` and `type` must both fit, otherwise
// it is skipped.
constexpr uint32_t at(pbf_tag_type number, pbf_wire_type type) {
  return protozero::tag_and_type(number, type);
}
constexpr pbf_wire_type kVarint = pbf_wire_type::varint;
constexpr pbf_wire_type kBytes = pbf_wire_type::length_delimited;

void decode_stream(pbf_reader body, ToMonitor& message) {
  while (body.next()) {
    switch (body.tag_and_type()) {
      case at(1, kVarint):
        message.conn = body.get_uint32();
        break;
      case at(2, kBytes):
        message.data = bytes_of(body);
        break;
      default:
        body.skip();
    }
  }
}

void decode_stdio(pbf_reader body, StdioSpec& stdio) {
  while (body.next()) {
    switch (body.tag_and_type()) {
      case at(1, kBytes):
        stdio.in = text(body);
        break;
      case at(2, kBytes):
        stdio.out = text(body);
        break;
      case at(3, kBytes):
        stdio.err = text(body);
        break;
      case at(4, kVarint):
        stdio.terminal = flag(body);
        break;
      case at(5, kVarint):
        stdio.append = flag(body);
        break;
      case at(6, kVarint):
        stdio.stdin_at_gate = flag(body);
        break;
      default:
        body.skip();
    }
  }
}

void decode_launch(pbf_reader body, ToMonitor& message) {
  while (body.next()) {
    switch (body.tag_and_type()) {
      case at(1, kVarint):
        message.request = body.get_uint64();
        break;
      case at(2, kBytes):
        message.key = text(body);
        break;
      case at(3, kBytes):
        message.plan = bytes_of(body);
        break;
      case at(4, kBytes):
        decode_stdio(body.get_message(), message.stdio);
        break;
      case at(5, kBytes):
        message.dies_with = text(body);
        break;
      default:
        body.skip();
    }
  }
}

// Continue, Signal, Resize, CloseStdin and Forget: request, key and up to two numbers.
void decode_command(pbf_reader body, ToMonitor& message, uint32_t& third, uint32_t& fourth) {
  while (body.next()) {
    switch (body.tag_and_type()) {
      case at(1, kVarint):
        message.request = body.get_uint64();
        break;
      case at(2, kBytes):
        message.key = text(body);
        break;
      case at(3, kVarint):
        third = body.get_uint32();
        break;
      case at(4, kVarint):
        fourth = body.get_uint32();
        break;
      default:
        body.skip();
    }
  }
}

void decode_state_answer(pbf_reader body, ToMonitor& message) {
  while (body.next()) {
    switch (body.tag_and_type()) {
      case at(1, kBytes):
        message.state_request = bytes_of(body);
        break;
      case at(2, kBytes):
        message.state_response = bytes_of(body);
        break;
      default:
        body.skip();
    }
  }
}

void decode_shim_reply(pbf_reader body, ToMonitor& message) {
  std::string_view* const members[] = {&message.error, &message.output, &message.group,
                                       &message.bootstrap, &message.shim_cgroup};
  while (body.next()) {
    // The right side of an assignment is evaluated first, and reading the value ends the validity
    // of tag().
    pbf_tag_type tag = body.tag();
    if (tag >= 1 && tag <= 5 && body.wire_type() == kBytes) {
      *members[tag - 1] = text(body);
    } else {
      body.skip();
    }
  }
}

void decode_body(pbf_reader outer, ToMonitor& message) {
  using Kind = ToMonitor::Kind;
  while (outer.next()) {
    if (outer.wire_type() != kBytes) {
      outer.skip();
      continue;
    }
    pbf_tag_type tag = outer.tag();
    pbf_reader body = outer.get_message();
    uint32_t unused = 0;
    switch (tag) {
      case 1:
        message.kind = Kind::kWelcome;
        while (body.next(1, kVarint)) message.protocol = body.get_uint32();
        break;
      case 2:
        message.kind = Kind::kStreamData;
        decode_stream(body, message);
        break;
      case 3:
        message.kind = Kind::kStreamClose;
        decode_stream(body, message);
        break;
      case 4:
        message.kind = Kind::kLaunch;
        decode_launch(body, message);
        break;
      case 5:
        message.kind = Kind::kContinue;
        decode_command(body, message, unused, unused);
        break;
      case 6:
        message.kind = Kind::kSignal;
        decode_command(body, message, message.signal, unused);
        break;
      case 7:
        message.kind = Kind::kResize;
        decode_command(body, message, message.width, message.height);
        break;
      case 8:
        message.kind = Kind::kCloseStdin;
        decode_command(body, message, unused, unused);
        break;
      case 9:
        message.kind = Kind::kForget;
        decode_command(body, message, unused, unused);
        break;
      case 10:
        message.kind = Kind::kShutdown;
        break;
      case 30:
        message.kind = Kind::kStateAnswer;
        decode_state_answer(body, message);
        break;
      case 20:
        message.kind = Kind::kShimReply;
        decode_shim_reply(body, message);
        break;
      default:
        break;
    }
  }
}

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

bool decode_to_monitor(std::span<const uint8_t> bytes, ToMonitor& message) {
  message = ToMonitor{};
  try {
    decode_body(pbf_reader(reinterpret_cast<const char*>(bytes.data()), bytes.size()), message);
  } catch (...) {
    message = ToMonitor{};
    return false;
  }
  return true;
}

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
                          uint64_t exited_at_ns) {
  std::string body;
  pbf_writer writer(body);
  put(writer, 1, key);
  put(writer, 2, pid);
  put(writer, 3, wait_status);
  put(writer, 4, exited_at_ns);
  return framed(kExited, body);
}

std::string encode_reply(uint64_t request, int err) {
  std::string body;
  pbf_writer writer(body);
  put(writer, 1, request);
  put(writer, 2, static_cast<int32_t>(err));
  return framed(kReply, body);
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

void HelloBuilder::add(const ProcessState& process) {
  std::string bytes;
  pbf_writer writer(bytes);
  put(writer, 1, process.key);
  put(writer, 2, process.pid);
  put(writer, 3, process.paused_at);
  put(writer, 4, process.exited);
  put(writer, 5, process.wait_status);
  put(writer, 6, process.exited_at_ns);
  put(writer, 7, process.running);
  pbf_writer(body_).add_message(13, bytes);
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
