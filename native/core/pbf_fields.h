// Decoding protobuf messages field by field; for *_codec.cc files only (protozero throws).
#pragma once

#include <cstdint>
#include <protozero/pbf_reader.hpp>
#include <span>
#include <string_view>

namespace bulkhead {

using protozero::pbf_reader;
using protozero::pbf_tag_type;
using protozero::pbf_wire_type;

inline constexpr pbf_wire_type kVarint = pbf_wire_type::varint;
inline constexpr pbf_wire_type kBytes = pbf_wire_type::length_delimited;

// `number` and `type` must both fit, otherwise the field is skipped.
constexpr uint32_t at(pbf_tag_type number, pbf_wire_type type) {
  return protozero::tag_and_type(number, type);
}

inline std::string_view text(pbf_reader& reader) {
  const protozero::data_view view = reader.get_view();
  return {view.data(), view.size()};
}
inline std::span<const uint8_t> bytes_of(pbf_reader& reader) {
  const std::string_view view = text(reader);
  return {reinterpret_cast<const uint8_t*>(view.data()), view.size()};
}
// Not get_bool(): protozero 1.7.1 reads its first byte without looking for the end of the message.
inline bool flag(pbf_reader& reader) {
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

}  // namespace bulkhead
