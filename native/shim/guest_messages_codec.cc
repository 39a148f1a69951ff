#include <protozero/pbf_writer.hpp>

#include "core/pbf_fields.h"
#include "shim/guest_messages.h"

namespace bulkhead::shim {

namespace {

using protozero::pbf_writer;

// Field numbers of ToAgent.
enum : pbf_tag_type {
  kHello = 1,
  kLaunch = 4,
  kContinue = 5,
  kSignal = 6,
  kResize = 7,
  kForget = 9,
  kCall = 11,
};

// Longest text of a guest that goes on to the engine and into sentences.
constexpr size_t kMaxText = 4096;

std::string_view short_text(pbf_reader& reader) {
  return text(reader).substr(0, kMaxText);
}

// All that is left of a message, undecoded.
std::span<const uint8_t> whole(const pbf_reader& body) {
  return {reinterpret_cast<const uint8_t*>(body.data().data()), body.length()};
}

void decode_step(pbf_reader step, StepFailure& failure) {
  while (step.next()) {
    switch (step.tag_and_type()) {
      case at(1, kVarint):
        failure.index = step.get_uint32();
        break;
      case at(2, kVarint):
        failure.action = step.get_uint32();
        break;
      case at(3, kBytes):
        failure.path = short_text(step);
        break;
      case at(4, kVarint):
        failure.err = step.get_int32();
        break;
      case at(5, kBytes):
        failure.detail = short_text(step);
        break;
      case at(6, kVarint):
        failure.status = step.get_int32();
        break;
      case at(7, kBytes):
        failure.output = short_text(step);
        break;
      default:
        step.skip();
    }
  }
}

// Launched and Started.
void decode_launched(pbf_reader body, FromAgent& message) {
  while (body.next()) {
    switch (body.tag_and_type()) {
      case at(1, kVarint):
        message.request = body.get_uint64();
        break;
      case at(2, kBytes):
        message.key = short_text(body);
        break;
      case at(3, kVarint):
        message.pid = body.get_uint32();
        break;
      case at(4, kBytes):
        message.paused_at = short_text(body);
        break;
      default:
        body.skip();
    }
  }
}

void decode_launch_failed(pbf_reader body, FromAgent& message) {
  while (body.next()) {
    switch (body.tag_and_type()) {
      case at(1, kVarint):
        message.request = body.get_uint64();
        break;
      case at(2, kBytes):
        message.key = short_text(body);
        break;
      case at(3, kBytes):
        message.has_step = true;
        decode_step(body.get_message(), message.step);
        break;
      case at(4, kVarint):
        message.err = body.get_int32();
        break;
      case at(5, kBytes):
        message.op = short_text(body);
        break;
      case at(6, kBytes):
        message.path = short_text(body);
        break;
      case at(7, kVarint):
        message.wait_status = body.get_uint32();
        break;
      default:
        body.skip();
    }
  }
}

// Exited, whose time is the guest's and not used.
void decode_exited(pbf_reader body, FromAgent& message) {
  while (body.next()) {
    switch (body.tag_and_type()) {
      case at(1, kBytes):
        message.key = short_text(body);
        break;
      case at(2, kVarint):
        message.pid = body.get_uint32();
        break;
      case at(3, kVarint):
        message.wait_status = body.get_uint32();
        break;
      default:
        body.skip();
    }
  }
}

// Reply and CallAnswer: request, errno, bytes.
void decode_answer(pbf_reader body, FromAgent& message) {
  while (body.next()) {
    switch (body.tag_and_type()) {
      case at(1, kVarint):
        message.request = body.get_uint64();
        break;
      case at(2, kVarint):
        message.err = body.get_int32();
        break;
      case at(3, kBytes):
        message.bytes = bytes_of(body);
        break;
      default:
        body.skip();
    }
  }
}

void decode_warning(pbf_reader body, FromAgent& message) {
  while (body.next()) {
    switch (body.tag_and_type()) {
      case at(1, kBytes):
        message.key = short_text(body);
        break;
      case at(2, kBytes):
        message.has_step = true;
        decode_step(body.get_message(), message.step);
        break;
      default:
        body.skip();
    }
  }
}

void decode_hello(pbf_reader body, FromAgent& message) {
  while (body.next()) {
    if (body.tag_and_type() == at(1, kVarint)) {
      message.protocol = body.get_uint32();
    } else {
      body.skip();
    }
  }
}

void decode_one(pbf_tag_type tag, pbf_reader body, FromAgent& message) {
  using Kind = FromAgent::Kind;
  switch (tag) {
    case 1:
      message.kind = Kind::kHello;
      message.bytes = whole(body);
      decode_hello(body, message);
      break;
    case 5:
      message.kind = Kind::kLaunched;
      decode_launched(body, message);
      break;
    case 6:
      message.kind = Kind::kLaunchFailed;
      decode_launch_failed(body, message);
      break;
    case 7:
      message.kind = Kind::kStarted;
      decode_launched(body, message);
      break;
    case 8:
      message.kind = Kind::kExited;
      decode_exited(body, message);
      break;
    case 9:
      message.kind = Kind::kReply;
      decode_answer(body, message);
      break;
    case 10:
      message.kind = Kind::kLaunchWarning;
      decode_warning(body, message);
      break;
    case 11:
      message.kind = Kind::kCall;
      decode_answer(body, message);
      break;
    case 12:
      message.kind = Kind::kEvent;
      while (body.next(1, kBytes)) message.bytes = bytes_of(body);
      break;
    default:
      break;
  }
}

void put(pbf_writer& writer, pbf_tag_type tag, std::string_view value) {
  if (!value.empty()) writer.add_bytes(tag, value.data(), value.size());
}
void put(pbf_writer& writer, pbf_tag_type tag, uint32_t value) {
  if (value != 0) writer.add_uint32(tag, value);
}
void put(pbf_writer& writer, pbf_tag_type tag, uint64_t value) {
  if (value != 0) writer.add_uint64(tag, value);
}

// Continue, Signal, Resize and Forget: request, key and up to two numbers.
std::string command(pbf_tag_type tag, uint64_t request, std::string_view key, uint32_t third = 0,
                    uint32_t fourth = 0) {
  std::string message;
  pbf_writer outer(message);
  pbf_writer body(outer, tag);
  put(body, 1, request);
  put(body, 2, key);
  put(body, 3, third);
  put(body, 4, fourth);
  body.commit();
  return message;
}

}  // namespace

bool decode_from_agent(std::span<const uint8_t> input, FromAgent& message) {
  message = FromAgent{};
  try {
    pbf_reader outer(reinterpret_cast<const char*>(input.data()), input.size());
    while (outer.next()) {
      pbf_tag_type tag = outer.tag();
      if (outer.wire_type() != kBytes) {
        outer.skip();
        continue;
      }
      // Of a oneof the last one counts.
      message = FromAgent{};
      decode_one(tag, outer.get_message(), message);
    }
  } catch (...) {
    message = FromAgent{};
    return false;
  }
  return true;
}

std::string encode_host_hello() {
  std::string message;
  pbf_writer outer(message);
  pbf_writer body(outer, kHello);
  put(body, 1, kAgentProtocol);
  body.commit();
  return message;
}

std::string encode_guest_launch(const GuestLaunch& launch) {
  std::string message;
  message.reserve(launch.plan.size() + launch.key.size() + launch.dies_with.size() + 64);
  pbf_writer outer(message);
  pbf_writer body(outer, kLaunch);
  put(body, 1, launch.request);
  put(body, 2, launch.key);
  body.add_bytes(3, reinterpret_cast<const char*>(launch.plan.data()), launch.plan.size());
  for (uint32_t i = 0; i < 3; i++) put(body, 4 + i, launch.stdio[i]);
  if (launch.terminal) body.add_bool(7, true);
  put(body, 8, launch.dies_with);
  body.commit();
  return message;
}

std::string encode_agent_continue(uint64_t request, std::string_view key) {
  return command(kContinue, request, key);
}

std::string encode_agent_signal(uint64_t request, std::string_view key, uint32_t signal) {
  return command(kSignal, request, key, signal);
}

std::string encode_agent_resize(uint64_t request, std::string_view key, uint32_t width,
                                uint32_t height) {
  return command(kResize, request, key, width, height);
}

std::string encode_agent_forget(uint64_t request, std::string_view key) {
  return command(kForget, request, key);
}

std::string encode_agent_call(uint64_t request, std::span<const uint8_t> call) {
  std::string message;
  message.reserve(call.size() + 32);
  pbf_writer outer(message);
  pbf_writer body(outer, kCall);
  put(body, 1, request);
  body.add_bytes(2, reinterpret_cast<const char*>(call.data()), call.size());
  body.commit();
  return message;
}

}  // namespace bulkhead::shim
