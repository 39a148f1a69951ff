#include <sys/sysmacros.h>

#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>

#include "agent/messages.h"

namespace bulkhead::agent {

namespace {

using protozero::pbf_reader;
using protozero::pbf_tag_type;
using protozero::pbf_wire_type;
using protozero::pbf_writer;

constexpr pbf_wire_type kVarint = pbf_wire_type::varint;
constexpr pbf_wire_type kBytes = pbf_wire_type::length_delimited;

// `number` and `type` must both fit, otherwise the field is skipped.
constexpr uint32_t at(pbf_tag_type number, pbf_wire_type type) {
  return protozero::tag_and_type(number, type);
}

std::string_view text(pbf_reader& reader) {
  const protozero::data_view view = reader.get_view();
  return {view.data(), view.size()};
}
std::span<const uint8_t> bytes_of(pbf_reader& reader) {
  const std::string_view view = text(reader);
  return {reinterpret_cast<const uint8_t*>(view.data()), view.size()};
}
// Not get_bool(): protozero 1.7.1 reads its first byte without looking for the end of the message.
bool flag(pbf_reader& reader) {
  return reader.get_uint64() != 0;
}

// Calls `field(tag, reader)` for every field; false from it: skipped.
template <class Field>
void each_field(pbf_reader body, Field field) {
  while (body.next()) {
    if (!field(body.tag_and_type(), body)) body.skip();
  }
}

// What a decoder of one message is: assigns a member when tag and type fit.
#define BULKHEAD_FIELD(number, type, statement) \
  case at(number, type):                        \
    statement;                                  \
    return true;

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

// ---- calls. Each decoder returns whether the limits hold.

bool decode(pbf_reader body, Setup& setup) {
  each_field(body, [&setup](uint32_t field, pbf_reader& reader) {
    switch (field) {
      BULKHEAD_FIELD(1, kBytes, setup.hostname = text(reader))
      BULKHEAD_FIELD(2, kVarint, setup.clock_realtime_ns = reader.get_uint64())
      BULKHEAD_FIELD(3, kBytes, setup.entropy = text(reader))
      BULKHEAD_FIELD(4, kBytes, setup.machine_id = text(reader))
      case at(5, kBytes): {
        auto& sysctl = setup.sysctls.emplace_back();
        each_field(reader.get_message(), [&sysctl](uint32_t inner, pbf_reader& pair) {
          switch (inner) {
            BULKHEAD_FIELD(1, kBytes, sysctl.first = text(pair))
            BULKHEAD_FIELD(2, kBytes, sysctl.second = text(pair))
            default:
              return false;
          }
        });
        return true;
      }
      default:
        return false;
    }
  });
  return setup.entropy.size() <= kMaxEntropy && setup.sysctls.size() <= kMaxPaths;
}

bool decode_paths(pbf_reader body, std::vector<std::string>& paths) {
  each_field(body, [&paths](uint32_t field, pbf_reader& reader) {
    if (field != at(1, kBytes)) return false;
    if (paths.size() <= kMaxPaths) {
      paths.emplace_back(text(reader));
    } else {
      reader.skip();
    }
    return true;
  });
  return paths.size() <= kMaxPaths;
}
bool decode(pbf_reader body, ReadFiles& call) {
  return decode_paths(body, call.paths);
}
bool decode(pbf_reader body, Remove& call) {
  return decode_paths(body, call.paths);
}

bool decode(pbf_reader body, WriteFiles& call) {
  each_field(body, [&call](uint32_t field, pbf_reader& reader) {
    if (field != at(1, kBytes) || call.files.size() > kMaxPaths) return false;
    FileWrite& file = call.files.emplace_back();
    each_field(reader.get_message(), [&file](uint32_t inner, pbf_reader& write) {
      switch (inner) {
        BULKHEAD_FIELD(1, kBytes, file.path = text(write))
        BULKHEAD_FIELD(2, kBytes, file.data = text(write))
        BULKHEAD_FIELD(3, kVarint, file.create = flag(write))
        BULKHEAD_FIELD(4, kVarint, file.mode = write.get_uint32())
        BULKHEAD_FIELD(5, kVarint, file.optional = flag(write))
        BULKHEAD_FIELD(6, kVarint, file.directory = flag(write))
        default:
          return false;
      }
    });
    return true;
  });
  return call.files.size() <= kMaxPaths;
}

bool decode(pbf_reader body, WatchOom& call) {
  each_field(body, [&call](uint32_t field, pbf_reader& reader) {
    if (field != at(1, kBytes)) return false;
    call.cgroup = text(reader);
    return true;
  });
  return true;
}

void decode_match(pbf_reader body, DeviceMatch& match) {
  using By = DeviceMatch::By;
  const auto named = [&match](By by, std::string_view value) {
    match.by = by;
    match.text = value;
  };
  each_field(body, [&](uint32_t field, pbf_reader& reader) {
    switch (field) {
      BULKHEAD_FIELD(1, kBytes, named(By::kBlockSerial, text(reader)))
      BULKHEAD_FIELD(2, kVarint, (match.by = By::kPmemAddress, match.address = reader.get_uint64()))
      BULKHEAD_FIELD(3, kBytes, named(By::kVirtiofsTag, text(reader)))
      BULKHEAD_FIELD(4, kBytes, named(By::kNetMac, text(reader)))
      BULKHEAD_FIELD(5, kBytes, named(By::kPciPath, text(reader)))
      BULKHEAD_FIELD(6, kBytes, named(By::kPath, text(reader)))
      BULKHEAD_FIELD(7, kBytes, named(By::kP9Tag, text(reader)))
      BULKHEAD_FIELD(15, kBytes, match.subsystem = text(reader))
      default:
        return false;
    }
  });
}

bool decode(pbf_reader body, WaitDevice& call) {
  each_field(body, [&call](uint32_t field, pbf_reader& reader) {
    switch (field) {
      BULKHEAD_FIELD(1, kBytes, decode_match(reader.get_message(), call.device))
      BULKHEAD_FIELD(2, kVarint, call.timeout_ms = reader.get_uint32())
      default:
        return false;
    }
  });
  return true;
}

bool decode(pbf_reader body, Mount& call) {
  each_field(body, [&call](uint32_t field, pbf_reader& reader) {
    switch (field) {
      BULKHEAD_FIELD(1, kBytes, decode_match(reader.get_message(), call.device))
      BULKHEAD_FIELD(2, kBytes, call.source = text(reader))
      BULKHEAD_FIELD(3, kBytes, call.target = text(reader))
      BULKHEAD_FIELD(4, kBytes, call.fstype = text(reader))
      BULKHEAD_FIELD(5, kVarint, call.flags = reader.get_uint64())
      BULKHEAD_FIELD(6, kBytes, call.data = text(reader))
      BULKHEAD_FIELD(7, kVarint, call.timeout_ms = reader.get_uint32())
      BULKHEAD_FIELD(8, kVarint, call.file = flag(reader))
      default:
        return false;
    }
  });
  return true;
}

bool decode(pbf_reader body, Unmount& call) {
  each_field(body, [&call](uint32_t field, pbf_reader& reader) {
    switch (field) {
      BULKHEAD_FIELD(1, kBytes, call.target = text(reader))
      BULKHEAD_FIELD(2, kVarint, call.detach = flag(reader))
      BULKHEAD_FIELD(3, kVarint, call.timeout_ms = reader.get_uint32())
      default:
        return false;
    }
  });
  return true;
}

bool decode(pbf_reader body, AwaitFile& call) {
  each_field(body, [&call](uint32_t field, pbf_reader& reader) {
    switch (field) {
      BULKHEAD_FIELD(1, kBytes, call.path = text(reader))
      BULKHEAD_FIELD(2, kBytes, call.line = text(reader))
      BULKHEAD_FIELD(3, kVarint, call.timeout_ms = reader.get_uint32())
      default:
        return false;
    }
  });
  return true;
}

bool decode(pbf_reader body, OnlineCpus& call) {
  each_field(body, [&call](uint32_t field, pbf_reader& reader) {
    switch (field) {
      BULKHEAD_FIELD(1, kVarint, call.count = reader.get_uint32())
      BULKHEAD_FIELD(2, kVarint, call.timeout_ms = reader.get_uint32())
      default:
        return false;
    }
  });
  return true;
}

bool decode(pbf_reader body, OnlineMemory& call) {
  each_field(body, [&call](uint32_t field, pbf_reader& reader) {
    switch (field) {
      BULKHEAD_FIELD(1, kVarint, call.bytes = reader.get_uint64())
      BULKHEAD_FIELD(2, kVarint, call.timeout_ms = reader.get_uint32())
      default:
        return false;
    }
  });
  return true;
}

bool decode(pbf_reader body, Sync& call) {
  each_field(body, [&call](uint32_t field, pbf_reader& reader) {
    if (field != at(1, kVarint)) return false;
    call.timeout_ms = reader.get_uint32();
    return true;
  });
  return true;
}

bool decode(pbf_reader body, Poweroff& call) {
  each_field(body, [&call](uint32_t field, pbf_reader& reader) {
    if (field != at(1, kVarint)) return false;
    call.reboot = flag(reader);
    return true;
  });
  return true;
}

#undef BULKHEAD_FIELD

template <class T>
bool decode_into(pbf_reader body, Call& call) {
  return decode(body, call.emplace<T>());
}

bool decode_one(pbf_tag_type tag, pbf_reader& outer, Call& call) {
  if (tag == 2) {
    call.emplace<NetworkSetup>().encoded = text(outer);
    return true;
  }
  const pbf_reader body = outer.get_message();
  switch (tag) {
    case 1:
      return decode_into<Setup>(body, call);
    case 3:
      return decode_into<ReadFiles>(body, call);
    case 4:
      return decode_into<WriteFiles>(body, call);
    case 5:
      return decode_into<WatchOom>(body, call);
    case 6:
      return decode_into<WaitDevice>(body, call);
    case 7:
      return decode_into<Mount>(body, call);
    case 8:
      return decode_into<Unmount>(body, call);
    case 9:
      return decode_into<AwaitFile>(body, call);
    case 10:
      return decode_into<Remove>(body, call);
    case 11:
      return decode_into<OnlineCpus>(body, call);
    case 12:
      return decode_into<OnlineMemory>(body, call);
    case 13:
      return decode_into<Sync>(body, call);
    case 14:
      return decode_into<Poweroff>(body, call);
    default:
      return true;
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

bool decode_call(std::span<const uint8_t> bytes, Call& call) {
  try {
    pbf_reader outer(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    while (outer.next()) {
      if (outer.wire_type() != kBytes) {
        outer.skip();
        continue;
      }
      // The tag is read before the value ends its validity.
      const pbf_tag_type tag = outer.tag();
      if (tag == 0 || tag > 14) {
        outer.skip();
      } else if (!decode_one(tag, outer, call)) {
        return false;
      }
    }
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
  if (reply.has_device) {
    pbf_writer device(writer, 3);
    put(device, 1, std::string_view(reply.device.name));
    put(device, 2, std::string_view(reply.device.path));
    put(device, 3, std::string_view(reply.device.sysfs));
    put(device, 4, uint64_t{reply.device.major});
    put(device, 5, uint64_t{reply.device.minor});
  }
  put(writer, 4, reply.amount);
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
