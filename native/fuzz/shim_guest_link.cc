// A hostile guest against the monitor's end of its channel: whatever it sends, before or after its
// hello, the monitor neither crashes nor hangs nor hoards, and every process that was launched has
// at most one end.
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <string>

#include "core/mux.h"
#include "shim/guest_link.h"
#include "shim/unix_socket.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::shim;

void require(bool condition) {
  if (!condition) std::abort();
}

// A directory with a socket and fifos, for as long as the fuzzer runs.
struct Place {
  Place() {
    char name[] = "/tmp/bh-fuzz-XXXXXX";
    require(::mkdtemp(name) != nullptr);
    directory = name;
    path = directory + "/agent";
    auto listening = listen_unix(path);
    require(listening.ok());
    listener = listening.take();
    for (const char* fifo : {"/in", "/out", "/err"}) {
      require(::mkfifo((directory + fifo).c_str(), 0600) == 0);
    }
    reader = UniqueFd(::open((directory + "/out").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    ::signal(SIGPIPE, SIG_IGN);
  }
  ~Place() {
    for (const char* name : {"/agent", "/in", "/out", "/err"}) ::unlink((directory + name).c_str());
    ::rmdir(directory.c_str());
  }
  std::string directory;
  std::string path;
  UniqueFd listener;
  UniqueFd reader;
};

class Witness final : public ProcessEvents, public GuestEvents {
 public:
  void launched(uint64_t, const ProcessState& process) override { seen(process.key); }
  void launch_failed(const LaunchFailure& failure) override { ends(failure.key); }
  void launch_warning(std::string_view key, const StepFailure&) override { seen(key); }
  void started(uint64_t, const ProcessState& process) override { seen(process.key); }
  void exited(const ProcessState& process) override { ends(process.key); }
  void reply(uint64_t, int) override {}
  void process_warning(const std::string&, int) override {}
  void guest_reply(uint64_t, int, std::span<const uint8_t>, std::string_view) override {}
  void guest_event(std::string_view, std::span<const uint8_t>) override {}
  void guest_closed(std::string_view, std::string_view) override { closed++; }
  bool engine_is_slow() override { return false; }
  void guest_settled() override {}

  std::map<std::string, int> ended;
  int closed = 0;

 private:
  void seen(std::string_view key) { require(key == "a" || key == "b"); }
  void ends(std::string_view key) {
    seen(key);
    require(++ended[std::string(key)] == 1);
  }
};

void nothing(void*) {}

struct Guest {
  Guest() : link(poller, witness, witness, "vm"), tick(poller, nothing, nullptr) {
    require(poller.open().ok());
    ToMonitor message;
    message.socket_path = place().path;
    message.deadline_ms = 3600 * 1000;  // a machine that stalls is no finding
    link.connect(message);
    socket =
        UniqueFd(::accept4(place().listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    require(socket.valid());
    rounds();
    // What it opens the session with, and its hello.
    require(::read(socket.get(), preamble, sizeof preamble) == sizeof preamble);
  }
  static Place& place() {
    static Place one;
    return one;
  }
  void rounds() {
    for (int i = 0; i < 3; i++) {
      tick.arm(0);
      poller.run_once();
    }
  }
  void turn() {
    rounds();
    char bytes[65536];
    while (::read(socket.get(), bytes, sizeof bytes) > 0) continue;
    while (::read(place().reader.get(), bytes, sizeof bytes) > 0) continue;
  }
  void send(std::span<const uint8_t> bytes) {
    while (!bytes.empty()) {
      ssize_t done = ::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (done < 0 && errno != EAGAIN) return;  // the monitor has hung up
      turn();
      if (done > 0) bytes = bytes.subspan(static_cast<size_t>(done));
    }
  }
  void launch(const char* key, bool terminal) {
    std::string in = place().directory + "/in";
    std::string out = place().directory + "/out";
    std::string err = place().directory + "/err";
    ToMonitor message;
    message.key = key;
    message.stdio.in = in;
    message.stdio.out = out;
    message.stdio.err = err;
    message.stdio.terminal = terminal;
    link.launch(message);
  }

  Witness witness;
  Poller poller;
  GuestLink link;
  Timer tick;
  UniqueFd socket;
  uint8_t preamble[kMuxPreamble] = {};
};

// Takes the input for frames, so that what is inside them is reached: stream, kind, two bytes of
// length, payload.
void send_frames(Guest& guest, std::span<const uint8_t> input) {
  while (input.size() >= 4 && guest.link.open()) {
    size_t length = std::min<size_t>(input[2] | size_t{input[3]} << 8, input.size() - 4);
    uint8_t head[kMuxHeader] = {};
    head[2] = static_cast<uint8_t>(length >> 8);
    head[3] = static_cast<uint8_t>(length);
    head[7] = input[0] % 8u;
    head[8] = input[1] % 5u;
    guest.send(head);
    guest.send(input.subspan(4, length));
    input = input.subspan(4 + length);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  std::span<const uint8_t> input(data + 1, size - 1);
  Guest guest;
  if ((data[0] & 1) != 0) {
    // Whatever comes in the place of a greeting.
    if ((data[0] & 2) != 0) guest.send(guest.preamble);
    guest.send(input);
  } else {
    guest.send(guest.preamble);
    const uint8_t hello[] = {0, 0, 0, 4, 0, 0, 0, 0, 0, 0x0a, 2, 8, 1};
    guest.send(hello);
    require(guest.link.open());
    guest.launch("a", false);
    guest.launch("b", true);
    ToMonitor call;
    call.request = 1;
    guest.link.call(call);
    if (GuestProcess* process = guest.link.find("a")) guest.link.signal(*process, call);
    guest.turn();
    if ((data[0] & 2) != 0) {
      guest.send(input);
    } else {
      send_frames(guest, input);
    }
  }
  bool opened = guest.link.open() || guest.witness.closed > 0;
  guest.socket.reset();
  guest.rounds();
  require(guest.link.gone());
  require(guest.witness.closed == (opened ? 1 : 0));
  for (const char* key : {"a", "b"}) {
    GuestProcess* process = guest.link.find(key);
    require(process == nullptr || (process->exited() && guest.witness.ended[key] == 1));
  }
  return 0;
}
