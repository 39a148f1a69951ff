// Both ends of a guest's channel in one event loop, over a socketpair.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "core/mux_link.h"
#include "core/mux_stream.h"
#include "test/check.h"

namespace bulkhead::test {

namespace {

constexpr MuxNonce kNonce = {42};

std::span<const uint8_t> span_of(std::string_view value) {
  return {reinterpret_cast<const uint8_t*>(value.data()), value.size()};
}

struct End : MuxHandler {
  explicit End(Poller& poller) : link(poller, *this) {}
  void mux_session() override { story += "session "; }
  const char* mux_control(std::span<const uint8_t> message) override {
    std::string text(message.begin(), message.end());
    if (text == "nonsense") return "nonsense";
    story += text.size() > 64 ? std::to_string(text.size()) + " " : text + " ";
    return nullptr;
  }
  void mux_lost(const char* reason) override { story += std::string("lost: ") + reason + " "; }

  std::string story;
  MuxLink link;
};

struct Pipe {
  Pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) std::abort();
    out.reset(fds[0]);
    in.reset(fds[1]);
  }
  // Everything that can be read now.
  std::string read() {
    std::string all;
    char bytes[65536];
    ssize_t got;
    while ((got = ::read(out.get(), bytes, sizeof bytes)) > 0)
      all.append(bytes, static_cast<size_t>(got));
    return all;
  }
  size_t write(std::string_view text) {
    ssize_t done = ::write(in.get(), text.data(), text.size());
    return done > 0 ? static_cast<size_t>(done) : 0;
  }
  UniqueFd out;
  UniqueFd in;
};

struct Channel {
  Channel() : host(poller), guest(poller) {
    ::signal(SIGPIPE, SIG_IGN);
    if (!poller.open()) std::abort();
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0)
      std::abort();
    CHECK(guest.link.serve(UniqueFd(fds[0])));
    CHECK(host.link.start(UniqueFd(fds[1]), kNonce));
    turn();
  }
  // Rounds of the loop; a timer ends the last one.
  void turn(int rounds = 8) {
    for (int i = 0; i < rounds; i++) {
      tick.arm(0);
      poller.run_once();
    }
  }
  // Until `check` holds, at most a minute.
  template <class Check>
  bool until(Check check) {
    uint64_t deadline = Poller::now_ms() + 60000;
    while (!check() && Poller::now_ms() < deadline) {
      tick.arm(1);
      poller.run_once();
    }
    return check();
  }

  static void nothing(void*) {}
  Poller poller;
  Timer tick{poller, nothing, nullptr};
  End host;
  End guest;
};

// A guest's pipe to a host's, as stdout has it.
struct Stream {
  Stream(Channel& channel, uint32_t id)
      : source(channel.poller, channel.guest.link, {}),
        sink(channel.poller, channel.host.link, {}) {
    source.open(std::move(from.out));
    sink.open(UniqueFd(::dup(to.in.get())));
    sink.attach(id);
    source.attach(id);
    source.begin();
  }
  Pipe from;
  Pipe to;
  StreamSource source;
  StreamSink sink;
};

std::string pattern(size_t size, uint32_t seed) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) {
    seed = seed * 1664525u + 1013904223u;
    byte = static_cast<char>(seed >> 24);
  }
  return bytes;
}

}  // namespace

TEST(mux_link_talks_both_ways) {
  Channel channel;
  CHECK(channel.host.link.send_control(span_of("hello")));
  CHECK(channel.guest.link.send_control(span_of(std::string(kMuxMaxControl, 'x'))));
  CHECK(!channel.host.link.send_control(span_of(std::string(kMuxMaxControl + 1, 'x'))));
  CHECK(channel.until([&] { return channel.host.story.size() > 10; }));
  channel.turn();
  CHECK_EQ(channel.guest.story, "session hello ");
  CHECK_EQ(channel.host.story, "session 8388608 ");
  channel.guest.link.stop();
  channel.turn();
  CHECK_EQ(channel.host.story, "session 8388608 lost: closed by the other end ");
}

TEST(mux_link_ends_a_session_of_nonsense) {
  Channel channel;
  channel.guest.link.send_control(span_of("nonsense"));
  channel.turn();
  CHECK_EQ(channel.host.story, "session lost: nonsense ");
  channel.guest.link.writer().data(kMuxControl, {});
  CHECK(!channel.host.link.in_session());
}

TEST(mux_stream_carries_everything_and_its_end) {
  Channel channel;
  Stream stream(channel, 1);
  std::string sent = pattern(4 << 20, 1);
  size_t at = 0;
  std::string got;
  CHECK(channel.until([&] {
    at += stream.from.write(std::string_view(sent).substr(at, 50000));
    if (at == sent.size()) stream.from.in.reset();
    got += stream.to.read();
    return stream.sink.done();
  }));
  got += stream.to.read();
  CHECK(got == sent);
  CHECK(stream.source.done());
  CHECK_EQ(stream.sink.written(), sent.size());
}

TEST(mux_stalled_reader_stalls_its_own_stream_only) {
  Channel channel;
  Stream stalled(channel, 1);
  Stream flowing(channel, 2);
  std::string sent = pattern(2 << 20, 2);
  size_t at = 0;
  size_t swallowed = 0;
  std::string got;
  CHECK(channel.until([&] {
    swallowed += stalled.from.write(sent.substr(0, 65536));
    at += flowing.from.write(std::string_view(sent).substr(at, 65536));
    got += flowing.to.read();
    return got.size() == sent.size();
  }));
  CHECK(got == sent);
  // Two pipes and the window.
  CHECK(swallowed <= kMuxWindow + 2 * 65536);
  CHECK(swallowed >= kMuxWindow + 65536);
  // It goes on where it stood.
  std::string late = stalled.to.read();
  CHECK(channel.until([&] {
    late += stalled.to.read();
    return late.size() == swallowed;
  }));
  for (size_t i = 0; i < late.size(); i += 65536) {
    if (late.size() - i >= 65536) CHECK(late.substr(i, 65536) == sent.substr(0, 65536));
  }
}

TEST(mux_reader_that_goes_ends_the_writer) {
  Channel channel;
  Stream stream(channel, 3);
  stream.to.out.reset();
  stream.from.write("lost");
  CHECK(channel.until([&] { return stream.source.done() && stream.sink.done(); }));
  CHECK_EQ(stream.from.write("x"), 0u);
  CHECK_EQ(errno, EPIPE);
  CHECK_EQ(channel.host.story, "session ");
}

TEST(mux_writer_that_is_abandoned_ends_the_reader) {
  Channel channel;
  Stream stream(channel, 3);
  stream.from.write("some");
  channel.turn();
  stream.source.close();
  CHECK(channel.until([&] { return stream.sink.done(); }));
  CHECK_EQ(stream.to.read(), "some");
}

TEST(mux_stream_is_settled_when_an_ended_process_left_nothing) {
  Channel channel;
  Stream stream(channel, 1);
  std::string sent = pattern(60000, 3);
  stream.from.write(sent);
  stream.source.process_ended();
  CHECK(!stream.sink.settled());
  CHECK(channel.until([&] { return stream.sink.settled(); }));
  CHECK(stream.to.read() == sent);
  // Something else still holds the pipe, and writes.
  CHECK(!stream.sink.done());
  stream.from.write("more");
  channel.turn();
  CHECK_EQ(stream.to.read(), "more");
}

TEST(mux_plain_files_are_streams_too) {
  Channel channel;
  Pipe to;
  std::string sent = pattern(1 << 20, 4);
  UniqueFd file(::memfd_create("input", MFD_CLOEXEC));
  CHECK_EQ(::write(file.get(), sent.data(), sent.size()), static_cast<ssize_t>(sent.size()));
  ::lseek(file.get(), 0, SEEK_SET);
  UniqueFd copy(::memfd_create("output", MFD_CLOEXEC));
  StreamSource source(channel.poller, channel.host.link, {});
  StreamSink sink(channel.poller, channel.guest.link, {});
  source.open(std::move(file));
  sink.open(UniqueFd(::dup(copy.get())));
  sink.attach(9);
  source.attach(9);
  source.begin();
  CHECK(channel.until([&] { return sink.done(); }));
  std::string got(sent.size() + 1, '\0');
  CHECK_EQ(::pread(copy.get(), got.data(), got.size(), 0), static_cast<ssize_t>(sent.size()));
  got.pop_back();
  CHECK(got == sent);
}

TEST(mux_quiet_end_is_none_of_the_stream) {
  Channel channel;
  Stream stream(channel, 1);
  Pipe keyboard;
  StreamSource source(channel.poller, channel.host.link, {});
  StreamSink sink(channel.poller, channel.guest.link, {});
  source.open(std::move(keyboard.out), true);
  sink.open(UniqueFd(::dup(stream.to.in.get())));
  sink.attach(2);
  source.attach(2);
  source.begin();
  keyboard.write("x");
  keyboard.in.reset();
  CHECK(channel.until([&] { return source.done(); }));
  channel.turn();
  CHECK(!sink.done());
  CHECK_EQ(stream.to.read(), "x");
}

TEST(mux_window_is_enforced) {
  Channel channel;
  Pipe to;
  StreamSink sink(channel.poller, channel.host.link, {});
  while (to.write(std::string(4096, 'f')) > 0) continue;
  sink.open(UniqueFd(::dup(to.in.get())));
  sink.attach(1);
  std::string block(kMuxMaxData, 'x');
  for (size_t sent = 0; sent <= kMuxWindow; sent += block.size())
    channel.guest.link.writer().data(1, span_of(block));
  CHECK(channel.until([&] { return channel.host.story.size() > 10; }));
  CHECK_EQ(channel.host.story, "session lost: more data than the stream's window ");
  CHECK(!sink.attached());
  // What had come within the window still gets out.
  CHECK(!sink.done());
  size_t got = 0;
  CHECK(channel.until([&] {
    got += to.read().size();
    return sink.done();
  }));
  CHECK(got >= kMuxWindow);
}

TEST(mux_frames_in_the_wrong_direction_end_the_session) {
  const char* problems[] = {"data for a stream that is only written",
                            "the end of a stream that is only written",
                            "credit for more than was sent"};
  for (int kind = 0; kind < 3; kind++) {
    Channel channel;
    Pipe from;
    StreamSource source(channel.poller, channel.host.link, {});
    source.open(std::move(from.out));
    source.attach(1);
    source.begin();
    MuxWriter& writer = channel.guest.link.writer();
    if (kind == 0) writer.data(1, span_of("x"));
    if (kind == 1) writer.eof(1);
    if (kind == 2) writer.credit(1, 1);
    channel.turn();
    CHECK_EQ(channel.host.story, std::string("session lost: ") + problems[kind] + " ");
    CHECK(source.done());
  }
  Channel channel;
  Stream stream(channel, 1);
  channel.guest.link.writer().credit(1, 1);
  channel.turn();
  CHECK_EQ(channel.host.story, "session lost: credit for a stream that is only read ");
}

// A template's agent: whoever was there before has left half a frame, and another session begins.
TEST(mux_agent_serves_one_session_after_the_other) {
  Poller poller;
  CHECK(poller.open().ok());
  int fds[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
  UniqueFd host(fds[0]);
  End agent(poller);
  REQUIRE(agent.link.serve(UniqueFd(fds[1])));
  Timer tick(poller, Channel::nothing, nullptr);
  auto say = [&](std::span<const uint8_t> bytes) {
    CHECK_EQ(::write(host.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    for (int i = 0; i < 4; i++) {
      tick.arm(0);
      poller.run_once();
    }
  };
  auto answer = [&] {
    std::string bytes(4096, '\0');
    ssize_t got = ::read(host.get(), bytes.data(), bytes.size());
    bytes.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return bytes;
  };
  auto first = mux_preamble(kNonce);
  say(first);
  CHECK(answer() == std::string(first.begin(), first.end()));
  Pipe from;
  StreamSource source(poller, agent.link, {});
  source.open(std::move(from.out));
  source.attach(1);
  source.begin();
  // In the place of a frame.
  auto second = mux_preamble({7});
  say(second);
  CHECK(answer() == std::string(second.begin(), second.end()));
  CHECK(source.done());
  // After garbage.
  say(span_of(std::string("\0\0\0\0\0\0\0\0\x09", 9)));
  auto third = mux_preamble({8});
  say(third);
  CHECK(answer() == std::string(third.begin(), third.end()));
  CHECK_EQ(agent.story, "session session lost: a frame of no known kind session ");
  // After the end of the connection it is deaf, and does not spin.
  host.reset();
  for (int i = 0; i < 4; i++) {
    tick.arm(0);
    poller.run_once();
  }
  CHECK_EQ(agent.story,
           "session session lost: a frame of no known kind session lost: closed by the other end ");
  CHECK(agent.link.open());
}

TEST(mux_peer_that_never_reads_is_given_up) {
  Channel channel;
  channel.guest.link.pause(true);
  std::string large(kMuxMaxControl, 'x');
  for (int i = 0; i < 6; i++) {
    channel.host.link.send_control(span_of(large));
    channel.turn(2);
  }
  CHECK_EQ(channel.host.story, "session lost: the other end does not read ");
}

TEST(mux_paused_link_reads_nothing_and_goes_on) {
  Channel channel;
  channel.host.link.pause(true);
  channel.guest.link.send_control(span_of("one"));
  channel.guest.link.send_control(span_of("two"));
  channel.turn();
  CHECK_EQ(channel.host.story, "session ");
  channel.host.link.pause(false);
  channel.turn();
  CHECK_EQ(channel.host.story, "session one two ");
}

}  // namespace bulkhead::test
