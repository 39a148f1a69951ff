#include <protozero/pbf_writer.hpp>

#include "agent/messages.h"
#include "core/pbf_fields.h"

namespace bulkhead::agent {

namespace {

using protozero::pbf_writer;

void decode_launch(pbf_reader body, ToAgent& to) {
  each_field(body, [&to](uint32_t field, pbf_reader& reader) {
    switch (field) {
      BULKHEAD_FIELD(1, kVarint, to.request = reader.get_uint64())
      BULKHEAD_FIELD(2, kBytes, to.key = text(reader))
      BULKHEAD_FIELD(3, kBytes, to.plan = bytes_of(reader))
      BULKHEAD_FIELD(4, kVarint, to.streams[0] = reader.get_uint32())
      BULKHEAD_FIELD(5, kVarint, to.streams[1] = reader.get_uint32())
      BULKHEAD_FIELD(6, kVarint, to.streams[2] = reader.get_uint32())
      BULKHEAD_FIELD(7, kVarint, to.terminal = flag(reader))
      BULKHEAD_FIELD(8, kBytes, to.dies_with = text(reader))
      default:
        return false;
    }
  });
}

// Continue, Signal, Resize, Forget: request, key and up to two numbers.
void decode_command(pbf_reader body, ToAgent& to, uint32_t& third, uint32_t& fourth) {
  each_field(body, [&](uint32_t field, pbf_reader& reader) {
    switch (field) {
      BULKHEAD_FIELD(1, kVarint, to.request = reader.get_uint64())
      BULKHEAD_FIELD(2, kBytes, to.key = text(reader))
      BULKHEAD_FIELD(3, kVarint, third = reader.get_uint32())
      BULKHEAD_FIELD(4, kVarint, fourth = reader.get_uint32())
      default:
        return false;
    }
  });
}

void decode_outer(pbf_reader outer, ToAgent& to) {
  using Kind = ToAgent::Kind;
  while (outer.next()) {
    if (outer.wire_type() != kBytes) {
      outer.skip();
      continue;
    }
    const pbf_tag_type tag = outer.tag();
    const pbf_reader body = outer.get_message();
    uint32_t unused = 0;
    switch (tag) {
      case 1:
        to.kind = Kind::kHello;
        each_field(body, [&to](uint32_t field, pbf_reader& reader) {
          if (field != at(1, kVarint)) return false;
          to.protocol = reader.get_uint32();
          return true;
        });
        break;
      case 4:
        to.kind = Kind::kLaunch;
        decode_launch(body, to);
        break;
      case 5:
        to.kind = Kind::kContinue;
        decode_command(body, to, unused, unused);
        break;
      case 6:
        to.kind = Kind::kSignal;
        decode_command(body, to, to.signal, unused);
        break;
      case 7:
        to.kind = Kind::kResize;
        decode_command(body, to, to.width, to.height);
        break;
      case 9:
        to.kind = Kind::kForget;
        decode_command(body, to, unused, unused);
        break;
      case 11:
        to.kind = Kind::kCall;
        each_field(body, [&to](uint32_t field, pbf_reader& reader) {
          switch (field) {
            BULKHEAD_FIELD(1, kVarint, to.request = reader.get_uint64())
            BULKHEAD_FIELD(2, kBytes, to.call = bytes_of(reader))
            default:
              return false;
          }
        });
        break;
      default:
        break;
    }
  }
}

// ---- encoding. Fields of proto3 that have their default are left out.

void put(pbf_writer& writer, pbf_tag_type tag, std::string_view value) {
  if (!value.empty()) writer.add_bytes(tag, value.data(), value.size());
}
void put(pbf_writer& writer, pbf_tag_type tag, uint64_t value) {
  if (value != 0) writer.add_uint64(tag, value);
}
void put(pbf_writer& writer, pbf_tag_type tag, int value) {
  if (value != 0) writer.add_int32(tag, value);
}

void encode_state(pbf_writer writer, const ProcessState& process) {
  put(writer, 1, process.key);
  put(writer, 2, uint64_t{process.pid});
  put(writer, 3, process.paused_at);
  put(writer, 4, uint64_t{process.exited});
  put(writer, 5, uint64_t{process.wait_status});
  put(writer, 6, process.exited_at_ns);
  put(writer, 7, uint64_t{process.running});
}

void encode_device(pbf_writer writer, const Device& device) {
  put(writer, 1, std::string_view(device.name));
  put(writer, 2, std::string_view(device.path));
  put(writer, 3, std::string_view(device.sysfs));
  put(writer, 4, uint64_t{device.major});
  put(writer, 5, uint64_t{device.minor});
}

// FromAgent.event with the Event that `fill` writes.
template <class Fill>
std::string encode_event(pbf_tag_type kind, Fill fill) {
  std::string event;
  {
    pbf_writer writer(event);
    pbf_writer body(writer, kind);
    fill(body);
  }
  std::string bytes;
  pbf_writer outer(bytes);
  pbf_writer note(outer, 12);
  note.add_bytes(1, event);
  return bytes;
}

}  // namespace

bool decode_to_agent(std::span<const uint8_t> bytes, ToAgent& message) {
  try {
    decode_outer(pbf_reader(reinterpret_cast<const char*>(bytes.data()), bytes.size()), message);
    return true;
  } catch (const protozero::exception&) {
    return false;
  }
}

std::string encode_call_reply(const CallReply& reply) {
  std::string bytes;
  pbf_writer writer(bytes);
  if (reply.err != 0) {
    pbf_writer failure(writer, 1);
    put(failure, 1, std::string_view(reply.op));
    put(failure, 2, std::string_view(reply.path));
    put(failure, 3, reply.err);
  }
  for (const FileContent& file : reply.files) {
    pbf_writer content(writer, 2);
    put(content, 1, std::string_view(file.path));
    put(content, 2, std::string_view(file.data));
    put(content, 3, file.err);
  }
  if (reply.has_device) encode_device(pbf_writer(writer, 3), reply.device);
  put(writer, 4, reply.amount);
  for (const VfioFunction& function : reply.functions) {
    pbf_writer one(writer, 5);
    put(one, 1, std::string_view(function.address));
    put(one, 2, uint64_t{function.group});
    for (const Device& node : function.nodes) encode_device(pbf_writer(one, 3), node);
  }
  return bytes;
}

std::string encode_process(const ProcessState& process) {
  std::string bytes;
  pbf_writer hello(bytes);
  encode_state(pbf_writer(hello, 5), process);
  return bytes;
}

std::string encode_hello(std::string_view version, std::string_view kernel, uint64_t uptime_ms,
                         std::string_view processes) {
  std::string body;
  pbf_writer hello(body);
  put(hello, 1, uint64_t{kProtocol});
  put(hello, 2, version);
  put(hello, 3, kernel);
  put(hello, 4, uptime_ms);
  body += processes;
  std::string bytes;
  pbf_writer(bytes).add_message(1, body);
  return bytes;
}

std::string encode_answer(uint64_t request, int err, std::string_view reply) {
  std::string bytes;
  pbf_writer outer(bytes);
  {
    pbf_writer answer(outer, 11);
    put(answer, 1, request);
    put(answer, 2, err);
    put(answer, 3, reply);
  }
  return bytes;
}

std::string encode_oom_event(std::string_view cgroup, uint64_t oom_kill) {
  return encode_event(1, [&](pbf_writer& body) {
    put(body, 1, cgroup);
    put(body, 2, oom_kill);
  });
}

std::string encode_log_event(std::string_view level, std::string_view message) {
  return encode_event(2, [&](pbf_writer& body) {
    put(body, 1, level);
    put(body, 2, message);
  });
}

}  // namespace bulkhead::agent
