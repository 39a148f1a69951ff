// Frames, sessions and windows of the channel to a guest.
#include "core/mux.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "test/check.h"

namespace bulkhead::test {

namespace {

using Found = MuxReader::Found;

constexpr MuxNonce kNonce = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
constexpr MuxNonce kOther = {9};

std::span<const uint8_t> span_of(std::string_view value) {
  return {reinterpret_cast<const uint8_t*>(value.data()), value.size()};
}

std::string preamble(const MuxNonce& nonce) {
  auto bytes = mux_preamble(nonce);
  return {bytes.begin(), bytes.end()};
}

std::string written(const MuxWriter& writer) {
  auto view = writer.view();
  return {view.begin(), view.end()};
}

std::string frame(uint32_t length, uint32_t stream, uint8_t kind, std::string_view payload = "") {
  std::string bytes;
  for (uint32_t value : {length, stream}) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
  }
  bytes += static_cast<char>(kind);
  return bytes.append(payload);
}

// What a reader makes of `bytes` fed `step` at a time: one word a finding.
std::string tale(MuxReader& reader, std::string_view bytes, size_t step) {
  std::string words;
  for (size_t at = 0; at < bytes.size(); at += step) {
    reader.feed(span_of(bytes.substr(at, step)));
    for (Found found = reader.next(); found != Found::kNothing; found = reader.next()) {
      if (found == Found::kSession) words += "session ";
      if (found == Found::kMalformed) return words + reader.problem();
      if (found != Found::kFrame) continue;
      const MuxFrame& got = reader.frame();
      words += std::to_string(got.stream) + ":" + std::to_string(static_cast<int>(got.kind)) + ":";
      words.append(got.payload.begin(), got.payload.end());
      if (got.kind == MuxKind::kCredit) words += std::to_string(got.credit);
      words += ' ';
    }
  }
  return words;
}

std::string refused(std::string_view bytes) {
  MuxReader reader(kNonce);
  return tale(reader, preamble(kNonce).append(bytes), 4096);
}

}  // namespace

TEST(mux_frames_survive_any_cut) {
  MuxWriter writer;
  writer.preamble(kNonce);
  CHECK(writer.control(span_of("hello")));
  writer.data(7, span_of("out"));
  writer.data(7, {});
  writer.credit(8, 70000);
  writer.eof(7);
  writer.reset(8);
  std::string bytes = written(writer);
  for (size_t step : {size_t{1}, size_t{2}, size_t{7}, size_t{31}, size_t{33}, bytes.size()}) {
    MuxReader reader;
    CHECK_EQ(tale(reader, bytes, step), "session 0:0:hello 7:0:out 7:0: 8:1:70000 7:2: 8:3: ");
    CHECK(reader.nonce() == kNonce);
  }
}

TEST(mux_data_is_made_in_place) {
  MuxWriter writer;
  writer.data(1, span_of("a"));
  uint8_t* room = writer.reserve_data(kMuxMaxData);
  room[0] = 'b';
  room[1] = 'c';
  writer.commit_data(2, 2);
  writer.reserve_data(kMuxMaxData);
  writer.commit_data(2, 0);
  MuxReader reader;
  CHECK_EQ(tale(reader, preamble(kNonce) + written(writer), 5), "session 1:0:a 2:0:bc ");
}

TEST(mux_finds_the_start_of_its_session_in_anything) {
  std::string stale = frame(5, 0, 0, "stale") + frame(100, 3, 0, "cut") + "\xff\xff\xff" +
                      preamble(kOther) + frame(1, 1, 0, "x");
  for (size_t step : {size_t{1}, size_t{3}, size_t{16}, size_t{1000}}) {
    MuxReader monitor(kNonce);
    CHECK_EQ(tale(monitor, stale + preamble(kNonce) + frame(2, 0, 0, "ok"), step),
             "session 0:0:ok ");
    // Bytes that only begin like it.
    MuxReader again(kNonce);
    CHECK_EQ(tale(again, preamble(kNonce).substr(0, 30) + preamble(kNonce), step), "session ");
  }
  MuxReader nothing(kNonce);
  CHECK_EQ(tale(nothing, std::string(100000, '\xff'), 4096), "");
}

TEST(mux_agent_takes_a_new_session_in_the_place_of_a_frame) {
  std::string bytes =
      preamble(kNonce) + frame(1, 1, 0, "a") + preamble(kOther) + frame(1, 1, 0, "b");
  for (size_t step : {size_t{1}, size_t{20}, size_t{1000}}) {
    MuxReader agent;
    CHECK_EQ(tale(agent, bytes, step), "session 1:0:a session 1:0:b ");
    CHECK(agent.nonce() == kOther);
  }
  // After garbage it goes on with what follows.
  MuxReader agent;
  CHECK_EQ(tale(agent, preamble(kNonce) + frame(0, 1, 9) + "junk", 1000),
           "session a frame of no known kind");
  CHECK(agent.in_session());
  agent.resync();
  CHECK_EQ(tale(agent, preamble(kOther) + frame(1, 2, 0, "c"), 1000), "session 2:0:c ");
}

TEST(mux_refuses_what_is_no_frame) {
  CHECK_EQ(refused(frame(0, 1, 4)), "session a frame of no known kind");
  CHECK_EQ(refused(frame(4, 0, 1, "abcd")), "session flow control on the control stream");
  CHECK_EQ(refused(frame(kMuxMaxControl + 1, 0, 0)), "session a control message over 8 MiB");
  CHECK_EQ(refused(frame(kMuxMaxData + 1, 1, 0)), "session a frame over 64 KiB");
  CHECK_EQ(refused(frame(3, 1, 1, "abc")), "session a credit that is no number");
  CHECK_EQ(refused(frame(4, 1, 1, std::string(4, '\0'))), "session a credit of nothing");
  CHECK_EQ(refused(frame(1, 1, 2, "x")), "session an end of stream with a payload");
  CHECK_EQ(refused(frame(1, 1, 3, "x")), "session an end of stream with a payload");
  CHECK_EQ(refused(preamble(kNonce)), "session a second start of the session");
  CHECK_EQ(refused(std::string(20, '\xff')), "session a frame of no known kind");
}

TEST(mux_limits_are_met_exactly) {
  MuxWriter writer;
  CHECK(!writer.control(span_of(std::string(kMuxMaxControl + 1, 'x'))));
  CHECK(writer.empty());
  CHECK(writer.control(span_of(std::string(kMuxMaxControl, 'x'))));
  writer.data(1, span_of(std::string(kMuxMaxData, 'y')));
  MuxReader reader;
  std::string bytes = preamble(kNonce) + written(writer);
  size_t at = 0;
  std::vector<size_t> sizes;
  while (at < bytes.size()) {
    std::span<uint8_t> room = reader.reserve();
    size_t count = std::min(room.size(), bytes.size() - at);
    std::copy_n(bytes.data() + at, count, room.data());
    reader.commit(count);
    at += count;
    for (Found found = reader.next(); found != Found::kNothing; found = reader.next()) {
      REQUIRE(found != Found::kMalformed);
      if (found == Found::kFrame) sizes.push_back(reader.frame().payload.size());
    }
  }
  REQUIRE(sizes.size() == 2);
  CHECK_EQ(sizes[0], kMuxMaxControl);
  CHECK_EQ(sizes[1], kMuxMaxData);
}

TEST(mux_windows_hold) {
  MuxFlow sender;
  CHECK_EQ(sender.window(), kMuxWindow);
  CHECK(!sender.credited(1));
  sender.sent(1000);
  CHECK(!sender.credited(1001));
  CHECK(sender.credited(1000));
  MuxFlow receiver;
  CHECK(!receiver.received(kMuxWindow + 1));
  CHECK(receiver.received(kMuxWindow));
  CHECK(!receiver.received(1));
  CHECK_EQ(receiver.taken(kMuxWindow / 4 - 1), 0u);
  CHECK_EQ(receiver.taken(1), kMuxWindow / 4);
  CHECK(receiver.received(kMuxWindow / 4));
  CHECK(!receiver.received(1));
}

}  // namespace bulkhead::test
