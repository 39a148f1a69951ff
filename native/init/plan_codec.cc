#include "init/plan_codec.h"

#include <cerrno>
#include <cstring>

#include "core/pbf_fields.h"

namespace bulkhead {

namespace {

// Thrown within this file only.
struct Refused {
  int err;
  const char* detail;
};

// Copies texts behind one another. Every text costs at least two bytes of tag and length in the
// plan, so that a buffer as large as the plan has room for the NULs.
class TextStore {
 public:
  explicit TextStore(char* at) : at_(at) {}
  Text add(protozero::data_view view) {
    if (view.empty()) return {};
    if (std::memchr(view.data(), '\0', view.size()) != nullptr)
      throw Refused{EBADMSG, "nul-in-text"};
    Text text{at_, static_cast<uint32_t>(view.size())};
    std::memcpy(at_, view.data(), view.size());
    at_ += view.size();
    *at_++ = '\0';
    return text;
  }

 private:
  char* at_;
};

// Reads the field at which `reader` stands into the member that carries its number.
class FieldReader {
 public:
  FieldReader(pbf_reader& reader, TextStore& texts) : reader_(reader), texts_(texts) {}

  template <class T>
  void operator()(uint32_t number, T& member) {
    if (reader_.tag() != number) return;
    known = true;
    read(member);
  }
  bool known = false;

 private:
  void expect(pbf_wire_type type) {
    if (reader_.wire_type() != type) throw Refused{EBADMSG, "wire-type"};
  }
  void read(bool& member) {
    expect(pbf_wire_type::varint);
    member = flag(reader_);
  }
  void read(uint32_t& member) {
    expect(pbf_wire_type::varint);
    uint64_t wide = reader_.get_uint64();
    if (wide > UINT32_MAX) throw Refused{EBADMSG, "out-of-range"};
    member = static_cast<uint32_t>(wide);
  }
  void read(uint64_t& member) {
    expect(pbf_wire_type::varint);
    member = reader_.get_uint64();
  }
  void read(Signed& member) {
    expect(pbf_wire_type::varint);
    member.value = reader_.get_sint32();
  }
  void read(SlotId& member) {
    read(member.value);
    if (member.value >= kMaxSlots) throw Refused{EBADMSG, "slot-number"};
  }
  template <class E>
  requires std::is_enum_v<E>
  void read(E& member) {
    uint32_t value = 0;
    read(value);
    if (value >= enum_limit(E{})) throw Refused{ENOSYS, "unknown-value"};
    member = static_cast<E>(value);
  }
  void read(Text& member) {
    expect(pbf_wire_type::length_delimited);
    member = texts_.add(reader_.get_view());
  }
  void read(Bytes& member) {
    expect(pbf_wire_type::length_delimited);
    auto view = reader_.get_view();
    member = Bytes(reinterpret_cast<const uint8_t*>(view.data()), view.size());
  }
  void read(std::vector<Text>& member) { read(member.emplace_back()); }
  // Repeated numbers come packed (proto3) or one by one.
  void read(std::vector<int32_t>& member) {
    if (reader_.wire_type() == pbf_wire_type::varint) {
      member.push_back(reader_.get_int32());
      return;
    }
    expect(pbf_wire_type::length_delimited);
    for (int32_t value : reader_.get_packed_int32()) member.push_back(value);
  }
  void read(std::vector<uint32_t>& member) {
    if (reader_.wire_type() == pbf_wire_type::varint) {
      member.push_back(reader_.get_uint32());
      return;
    }
    expect(pbf_wire_type::length_delimited);
    for (uint32_t value : reader_.get_packed_uint32()) member.push_back(value);
  }
  void read(std::vector<IdMap>& member);
  void read(std::vector<SocketProgram>& member);

  pbf_reader& reader_;
  TextStore& texts_;
};

template <class T>
void read_message(pbf_reader reader, TextStore& texts, T& message) {
  while (reader.next()) {
    FieldReader field(reader, texts);
    message.fields(field);
    if (!field.known) throw Refused{ENOSYS, "unknown-field"};
  }
}

void FieldReader::read(std::vector<IdMap>& member) {
  expect(pbf_wire_type::length_delimited);
  read_message(reader_.get_message(), texts_, member.emplace_back());
}

void FieldReader::read(std::vector<SocketProgram>& member) {
  expect(pbf_wire_type::length_delimited);
  read_message(reader_.get_message(), texts_, member.emplace_back());
}

template <class... T>
bool read_action(pbf_reader& reader, TextStore& texts, std::variant<T...>& body) {
  uint32_t tag = reader.tag();
  return ((tag == T::kAction &&
           (read_message(reader.get_message(), texts, body.template emplace<T>()), true)) ||
          ...);
}

void read_step(pbf_reader reader, TextStore& texts, Step& step) {
  while (reader.next()) {
    if (step.action != 0) throw Refused{EBADMSG, "two-actions"};
    step.action = reader.tag();
    if (reader.wire_type() != pbf_wire_type::length_delimited) throw Refused{EBADMSG, "wire-type"};
    if (!read_action(reader, texts, step.body)) throw Refused{ENOSYS, "unknown-step"};
  }
  if (step.action == 0) throw Refused{ENOSYS, "unknown-step"};
}

void read_plan(pbf_reader reader, TextStore& texts, Plan& plan) {
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case protozero::tag_and_type(1, pbf_wire_type::varint):
        plan.version = reader.get_uint32();
        if (plan.version != 1) throw Refused{EPROTONOSUPPORT, "version"};
        break;
      case protozero::tag_and_type(2, pbf_wire_type::length_delimited):
        plan.id = texts.add(reader.get_view());
        break;
      case protozero::tag_and_type(3, pbf_wire_type::length_delimited):
        if (plan.steps.size() >= kMaxSteps) throw Refused{EBADMSG, "too-many-steps"};
        read_step(reader.get_message(), texts, plan.steps.emplace_back());
        break;
      default:
        throw Refused{ENOSYS, "unknown-field"};
    }
  }
  if (plan.version != 1) throw Refused{EPROTONOSUPPORT, "version"};
}

PlanError blame(const Plan& plan, int err, const char* detail) {
  PlanError error;
  error.err = err;
  error.detail = detail;
  if (!plan.steps.empty()) {
    error.index = static_cast<uint32_t>(plan.steps.size() - 1);
    error.action = plan.steps.back().action;
  }
  return error;
}

}  // namespace

bool decode_plan(std::span<const uint8_t> bytes, Plan& plan, PlanError& error) {
  plan = Plan{};
  if (bytes.size() > kMaxPlan) {
    error = blame(plan, EBADMSG, "too-large");
    return false;
  }
  try {
    plan.texts = std::make_unique_for_overwrite<char[]>(bytes.size() + 1);
    TextStore texts(plan.texts.get());
    plan.steps.reserve(128);
    read_plan(pbf_reader(reinterpret_cast<const char*>(bytes.data()), bytes.size()), texts, plan);
    return true;
  } catch (const Refused& refused) {
    error = blame(plan, refused.err, refused.detail);
  } catch (...) {
    error = blame(plan, EBADMSG, "malformed");
  }
  return false;
}

}  // namespace bulkhead
