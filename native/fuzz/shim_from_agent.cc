// What a guest's agent may send to the monitor: any bytes are decoded or refused, every view lies
// within them, and what the monitor passes on of it is one whole message of the engine's protocol.
#include <cstdlib>
#include <protozero/pbf_reader.hpp>

#include "core/frame.h"
#include "shim/guest_messages.h"
#include "shim/messages.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::shim;

const uint8_t* low;
const uint8_t* high;

void within(const void* data, size_t size) {
  if (size == 0) return;
  auto* at = static_cast<const uint8_t*>(data);
  if (at < low || at + size > high) std::abort();
}

void check_message(std::span<const uint8_t> bytes) {
  protozero::pbf_reader outer(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  while (outer.next()) {
    protozero::pbf_reader body = outer.get_message();
    while (body.next()) body.skip();
  }
}

void check_frame(const std::string& frame) {
  FrameReader reader;
  if (!reader.feed({reinterpret_cast<const uint8_t*>(frame.data()), frame.size()})) std::abort();
  auto message = reader.next();
  if (!message || reader.partial()) std::abort();
  check_message(*message);
}

void check_to_agent(const std::string& message) {
  check_message({reinterpret_cast<const uint8_t*>(message.data()), message.size()});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  low = data;
  high = data + size;
  FromAgent message;
  if (!decode_from_agent({data, size}, message)) {
    if (message.kind != FromAgent::Kind::kNone) std::abort();
    return 0;
  }
  within(message.bytes.data(), message.bytes.size());
  for (std::string_view text : {message.key, message.paused_at, message.op, message.path}) {
    within(text.data(), text.size());
    if (text.size() > 4096) std::abort();
  }
  if (message.step.path.size() > 4096 || message.step.detail.size() > 4096) std::abort();

  LaunchFailure failure;
  failure.request = message.request;
  failure.key = message.key;
  failure.step = message.has_step ? &message.step : nullptr;
  failure.err = message.err;
  failure.op = message.op;
  failure.path = message.path;
  failure.wait_status = message.wait_status;
  check_frame(encode_launch_failed(failure));
  check_frame(encode_launch_warning(message.key, message.step));
  check_frame(encode_launched(message.request, message.key, message.pid, message.paused_at));
  check_frame(encode_exited(message.key, message.pid, message.wait_status, message.request));
  check_frame(encode_guest_reply(message.request, message.err, message.bytes, message.op));
  check_frame(encode_guest_event(message.key, message.bytes));
  check_frame(encode_guest_closed(message.key, message.path));
  Hello hello;
  HelloBuilder builder(hello);
  ProcessState state;
  state.key = message.key;
  builder.add(state, message.op);
  builder.add_guest(message.key);
  check_frame(builder.finish());

  GuestLaunch launch;
  launch.key = message.key;
  launch.plan = message.bytes;
  launch.stdio[2] = message.pid;
  launch.dies_with = message.op;
  check_to_agent(encode_guest_launch(launch));
  check_to_agent(encode_agent_call(message.request, message.bytes));
  check_to_agent(encode_agent_resize(message.request, message.key, message.pid, message.pid));
  check_to_agent(encode_host_hello());
  return 0;
}
