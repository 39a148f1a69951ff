// Calls of agent.proto. Each decoder returns whether the limits of messages.h hold.
#include "agent/messages.h"
#include "core/pbf_fields.h"

namespace bulkhead::agent {

namespace {

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

bool decode(pbf_reader body, CleanMemory& call) {
  each_field(body, [&call](uint32_t field, pbf_reader& reader) {
    if (field != at(1, kVarint)) return false;
    call.timeout_ms = reader.get_uint32();
    return true;
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

bool decode(pbf_reader body, BindVfio& call) {
  each_field(body, [&call](uint32_t field, pbf_reader& reader) {
    if (field == at(1, kBytes) && call.pci_paths.size() > kMaxFunctions) {
      reader.skip();
      return true;
    }
    switch (field) {
      BULKHEAD_FIELD(1, kBytes, call.pci_paths.emplace_back(text(reader)))
      BULKHEAD_FIELD(2, kVarint, call.timeout_ms = reader.get_uint32())
      default:
        return false;
    }
  });
  return call.pci_paths.size() <= kMaxFunctions;
}

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
    case 15:
      return decode_into<CleanMemory>(body, call);
    case 16:
      return decode_into<BindVfio>(body, call);
    default:
      return true;
  }
}

}  // namespace

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
      if (tag == 0 || tag > 16) {
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

}  // namespace bulkhead::agent
