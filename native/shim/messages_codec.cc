#include "core/pbf_fields.h"
#include "shim/messages.h"

namespace bulkhead::shim {

namespace {

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
      case at(6, kBytes):
        message.guest = text(body);
        break;
      case at(7, kVarint):
        message.hold_mounts = flag(body);
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

// GuestConnect and GuestCall: request, guest, path or call, deadline.
void decode_guest(pbf_reader body, ToMonitor& message) {
  while (body.next()) {
    switch (body.tag_and_type()) {
      case at(1, kVarint):
        message.request = body.get_uint64();
        break;
      case at(2, kBytes):
        message.guest = text(body);
        break;
      case at(3, kBytes):
        message.data = bytes_of(body);
        message.socket_path = {reinterpret_cast<const char*>(message.data.data()),
                               message.data.size()};
        break;
      case at(4, kVarint):
        message.deadline_ms = body.get_uint32();
        break;
      case at(5, kBytes):
        message.dies_with = text(body);
        break;
      default:
        body.skip();
    }
  }
}

void decode_left_answer(pbf_reader body, ToMonitor& message) {
  while (body.next()) {
    switch (body.tag_and_type()) {
      case at(1, kBytes):
        message.left_request = bytes_of(body);
        break;
      case at(2, kBytes):
        message.left_response = bytes_of(body);
        break;
      case at(3, kBytes):
        message.method = text(body);
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
      case 11:
        message.kind = Kind::kGuestConnect;
        decode_guest(body, message);
        break;
      case 12:
        message.kind = Kind::kGuestCall;
        decode_guest(body, message);
        break;
      case 30:
        message.kind = Kind::kLeftAnswer;
        decode_left_answer(body, message);
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

}  // namespace bulkhead::shim
