#include "core/init_codec.h"

#include <protozero/pbf_writer.hpp>

#include "core/pbf_fields.h"

namespace bulkhead {

namespace {

using protozero::pbf_writer;

constexpr size_t kMaxText = 4096;

// Field numbers of FromInit.
enum : protozero::pbf_tag_type {
  kCloned = 1,
  kPaused = 2,
  kFailed = 3,
  kConsole = 4,
  kWarning = 5
};

std::string encode_step(protozero::pbf_tag_type tag, const StepFailure& failure) {
  std::string bytes;
  pbf_writer message(bytes);
  pbf_writer step(message, tag);
  step.add_uint32(1, failure.index);
  step.add_uint32(2, failure.action);
  if (!failure.path.empty()) step.add_bytes(3, failure.path.substr(0, kMaxText));
  step.add_int32(4, failure.err);
  if (tag == kFailed) {
    if (!failure.detail.empty()) step.add_string(5, failure.detail.substr(0, kMaxText));
    if (failure.status != 0) step.add_int32(6, failure.status);
    if (!failure.output.empty()) step.add_string(7, failure.output.substr(0, kMaxText));
  }
  step.commit();
  return bytes;
}

void decode_step(pbf_reader step, StepFailure& failure) {
  while (step.next()) {
    switch (step.tag_and_type()) {
      case protozero::tag_and_type(1, protozero::pbf_wire_type::varint):
        failure.index = step.get_uint32();
        break;
      case protozero::tag_and_type(2, protozero::pbf_wire_type::varint):
        failure.action = step.get_uint32();
        break;
      case protozero::tag_and_type(3, protozero::pbf_wire_type::length_delimited):
        failure.path = step.get_string();
        break;
      case protozero::tag_and_type(4, protozero::pbf_wire_type::varint):
        failure.err = step.get_int32();
        break;
      case protozero::tag_and_type(5, protozero::pbf_wire_type::length_delimited):
        failure.detail = step.get_string();
        break;
      case protozero::tag_and_type(6, protozero::pbf_wire_type::varint):
        failure.status = step.get_int32();
        break;
      case protozero::tag_and_type(7, protozero::pbf_wire_type::length_delimited):
        failure.output = step.get_string();
        break;
      default:
        step.skip();
    }
  }
}

void decode_body(pbf_reader message, InitEvent& event) {
  while (message.next()) {
    auto tag = message.tag();
    if (tag > kWarning || message.wire_type() != protozero::pbf_wire_type::length_delimited) {
      message.skip();
      continue;
    }
    pbf_reader body = message.get_message();
    switch (tag) {
      case kCloned:
        event.kind = InitEvent::Kind::kCloned;
        while (body.next(1, protozero::pbf_wire_type::varint)) {
          event.pid = static_cast<pid_t>(body.get_uint32());
        }
        break;
      case kPaused:
        event.kind = InitEvent::Kind::kPaused;
        while (body.next(1, protozero::pbf_wire_type::length_delimited))
          event.point = body.get_string();
        break;
      case kConsole:
        event.kind = InitEvent::Kind::kConsole;
        break;
      default:
        event.kind = tag == kFailed ? InitEvent::Kind::kFailed : InitEvent::Kind::kWarning;
        decode_step(body, event.failure);
    }
  }
}

pbf_reader reader_of(std::span<const uint8_t> bytes) {
  return pbf_reader(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace

std::string encode_cloned(pid_t pid) {
  std::string bytes;
  pbf_writer message(bytes);
  pbf_writer cloned(message, kCloned);
  cloned.add_uint32(1, static_cast<uint32_t>(pid));
  cloned.commit();
  return bytes;
}

std::string encode_paused(std::string_view point) {
  std::string bytes;
  pbf_writer message(bytes);
  pbf_writer paused(message, kPaused);
  paused.add_string(1, point.substr(0, kMaxText).data(), point.substr(0, kMaxText).size());
  paused.commit();
  return bytes;
}

std::string encode_console() {
  std::string bytes;
  pbf_writer message(bytes);
  message.add_message(kConsole, "", 0);
  return bytes;
}

std::string encode_failure(const StepFailure& failure) {
  return encode_step(kFailed, failure);
}

std::string encode_warning(const StepFailure& failure) {
  return encode_step(kWarning, failure);
}

bool decode_init_event(std::span<const uint8_t> bytes, InitEvent& event) {
  event = InitEvent{};
  try {
    decode_body(reader_of(bytes), event);
  } catch (...) {
    event = InitEvent{};
    return false;
  }
  return event.kind != InitEvent::Kind::kEnd;
}

std::string encode_to_init(const ToInit& answer) {
  std::string bytes;
  pbf_writer message(bytes);
  message.add_bool(1, answer.proceed);
  if (answer.streams != 0) message.add_uint32(2, answer.streams);
  return bytes;
}

bool decode_to_init(std::span<const uint8_t> bytes, ToInit& answer) {
  answer = ToInit{};
  try {
    pbf_reader message = reader_of(bytes);
    while (message.next()) {
      switch (message.tag_and_type()) {
        case protozero::tag_and_type(1, protozero::pbf_wire_type::varint):
          answer.proceed = flag(message);
          break;
        case protozero::tag_and_type(2, protozero::pbf_wire_type::varint):
          answer.streams = message.get_uint32();
          break;
        default:
          message.skip();
      }
    }
  } catch (...) {
    answer = ToInit{};
    return false;
  }
  return true;
}

}  // namespace bulkhead
