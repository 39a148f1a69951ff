#include "test/plan_writer_codec.h"

#include <deque>
#include <protozero/pbf_writer.hpp>

namespace bulkhead::test {

namespace {

using protozero::pbf_writer;

class FieldWriter {
 public:
  explicit FieldWriter(pbf_writer& writer) : writer_(writer) {}

  void operator()(uint32_t number, bool value) {
    if (value) writer_.add_bool(number, value);
  }
  void operator()(uint32_t number, uint32_t value) {
    if (value != 0) writer_.add_uint32(number, value);
  }
  void operator()(uint32_t number, uint64_t value) {
    if (value != 0) writer_.add_uint64(number, value);
  }
  void operator()(uint32_t number, Signed value) {
    if (value.value != 0) writer_.add_sint32(number, value.value);
  }
  void operator()(uint32_t number, SlotId value) { (*this)(number, value.value); }
  template <class E>
  requires std::is_enum_v<E>
  void operator()(uint32_t number, E value) { (*this)(number, static_cast<uint32_t>(value)); }
  void operator()(uint32_t number, const Text& value) {
    if (!value.empty()) writer_.add_string(number, value.data, value.size);
  }
  void operator()(uint32_t number, const Bytes& value) {
    if (!value.empty()) {
      writer_.add_bytes(number, reinterpret_cast<const char*>(value.data()), value.size());
    }
  }
  void operator()(uint32_t number, const std::vector<Text>& values) {
    for (const Text& value : values) writer_.add_string(number, value.data, value.size);
  }
  void operator()(uint32_t number, const std::vector<int32_t>& values) {
    writer_.add_packed_int32(number, values.begin(), values.end());
  }
  void operator()(uint32_t number, const std::vector<uint32_t>& values) {
    writer_.add_packed_uint32(number, values.begin(), values.end());
  }
  void operator()(uint32_t number, std::vector<IdMap>& values) { messages(number, values); }
  void operator()(uint32_t number, std::vector<SocketProgram>& values) { messages(number, values); }

 private:
  template <class T>
  void messages(uint32_t number, std::vector<T>& values) {
    for (T& value : values) {
      pbf_writer inner(writer_, number);
      FieldWriter fields(inner);
      value.fields(fields);
    }
  }

  pbf_writer& writer_;
};

std::string& keep(std::string_view value) {
  static std::deque<std::string> kept;
  return kept.emplace_back(value);
}

}  // namespace

std::string encode_plan(const PlanText& plan) {
  std::string out;
  pbf_writer writer(out);
  writer.add_uint32(1, plan.version);
  writer.add_string(2, plan.id);
  for (StepBody body : plan.steps) {
    // By add_message: a nested pbf_writer leaves an empty message (PivotRoot with its defaults)
    // out.
    std::string step;
    std::visit(
        [&](auto& message) {
          std::string action;
          pbf_writer action_writer(action);
          FieldWriter fields(action_writer);
          message.fields(fields);
          pbf_writer(step).add_message(std::decay_t<decltype(message)>::kAction, action);
        },
        body);
    writer.add_message(3, step);
  }
  return out;
}

Text text(std::string_view value) {
  std::string& kept = keep(value);
  return Text{kept.c_str(), static_cast<uint32_t>(kept.size())};
}

std::vector<Text> texts(std::initializer_list<std::string_view> values) {
  std::vector<Text> list;
  for (std::string_view value : values) list.push_back(text(value));
  return list;
}

Bytes bytes(std::string_view value) {
  std::string& kept = keep(value);
  return Bytes(reinterpret_cast<const uint8_t*>(kept.data()), kept.size());
}

}  // namespace bulkhead::test
