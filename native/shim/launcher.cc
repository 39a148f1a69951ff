// What `start` does, in order:
//
//   containerd                launcher                              engine
//      | exec, Any on stdin      |                                     |
//      |------------------------>| ShimRequest{start, stdin}           |
//      |                         |------------------------------------>| reads config.json, names
//      the group |                         |<------------------------------------| ShimReply{group}
//      |                         | bind /run/containerd/s/SHA256       |
//      |                         | fork: the monitor, Hello on the same connection
//      |     unix://…            |
//      |<------------------------| exit 0
//
// Where the reply is known beforehand the question is left out (shortcuts.h): the connection begins
// with the Hello.
//
// Standard output and standard error are one pipe to containerd: nothing is printed there but the
// address.
#include "shim/launcher.h"

#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "core/bytes.h"
#include "core/frame.h"
#include "core/poller.h"
#include "shim/engine_process.h"
#include "shim/log.h"
#include "shim/messages.h"
#include "shim/monitor.h"
#include "shim/shim_socket.h"
#include "shim/shortcuts.h"
#include "shim/unix_socket.h"

#ifndef BULKHEAD_VERSION
#define BULKHEAD_VERSION "0.1.0"
#endif

namespace bulkhead::shim {

namespace {

constexpr size_t kMaxInput = 1u << 20;
// Under a killer that strikes every few hundred milliseconds, on a busy machine, four were not
// enough.
constexpr int kAttempts = 8;
constexpr int kReplyTimeoutMs = 30000;
// containerd gives `delete` 5 s (io.containerd.timeout.shim.cleanup): an error of ours must come
// before its own.
constexpr int kDeleteTimeoutMs = 4500;

int fail(const ShimArgs& args, std::string_view action, std::string_view reason) {
  std::string line(action);
  if (!args.id.empty()) line += " " + args.id;
  line += ": ";
  line += reason;
  line += "\n";
  (void)!::write(STDERR_FILENO, line.data(), line.size());
  return 1;
}

int print(std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t written = ::write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return 1;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return 0;
}

// Options or BootstrapParams: whatever containerd wrote, for the engine to read. False: more than
// anybody means.
bool read_input(ByteQueue& input) {
  if (::isatty(STDIN_FILENO) == 1) return true;
  for (;;) {
    ssize_t got = ::read(STDIN_FILENO, input.reserve(2048), 2048);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return true;  // also EBADF: started without a standard input
    input.commit(static_cast<size_t>(got));
    if (input.size() > kMaxInput) return false;
  }
}

bool send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

// Reads exactly one message. 0, or ETIMEDOUT, ECONNRESET, EMSGSIZE, …
int receive_message(int fd, int64_t deadline_ms, ByteQueue& in) {
  size_t wanted = kFrameHeader;
  while (in.size() < wanted) {
    int64_t left = deadline_ms - static_cast<int64_t>(Poller::now_ms());
    pollfd waiting{fd, POLLIN, 0};
    int ready =
        left <= 0 ? 0 : ::poll(&waiting, 1, left > INT_MAX ? INT_MAX : static_cast<int>(left));
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) return ETIMEDOUT;
    // Never beyond this message: what follows belongs to the monitor.
    size_t room = wanted - in.size();
    ssize_t got = ::read(fd, in.reserve(room), room);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (got == 0) return ECONNRESET;
    in.commit(static_cast<size_t>(got));
    if (wanted == kFrameHeader && in.size() == kFrameHeader) {
      const uint8_t* head = in.data();
      size_t length =
          size_t{head[0]} << 24 | size_t{head[1]} << 16 | size_t{head[2]} << 8 | head[3];
      if (length > kMaxFrame) return EMSGSIZE;
      wanted += length;
    }
  }
  return 0;
}

struct Answer {
  UniqueFd connection;
  ByteQueue bytes;
  ToMonitor reply;    // views into bytes
  std::string error;  // why there is none
};

// Sends the request and waits for the reply; an engine that dies under it is started again, a few
// times.
void ask_engine(const Install& install, const std::string& request, int timeout_ms,
                Answer& answer) {
  int64_t deadline = static_cast<int64_t>(Poller::now_ms()) + timeout_ms;
  for (int attempt = 1; attempt <= kAttempts; attempt++) {
    EngineConnection engine = connect_engine(install, false);
    if (engine.err != 0) {
      answer.error = describe(engine.what, engine.err);
      // Refused just after it was started: it closed its socket meanwhile.
      if (engine.err != ECONNREFUSED && engine.err != ENOENT) return;
    } else {
      answer.bytes.clear();
      int err = send_all(engine.fd.get(), request) ? 0 : ECONNRESET;
      if (err == 0) err = receive_message(engine.fd.get(), deadline, answer.bytes);
      std::span<const uint8_t> body;
      if (err == 0) body = answer.bytes.view().subspan(kFrameHeader);
      if (err == 0 && decode_to_monitor(body, answer.reply) &&
          answer.reply.kind == ToMonitor::Kind::kShimReply) {
        answer.connection = std::move(engine.fd);
        answer.error.clear();
        return;
      }
      answer.error = "engine: no answer, see " + install.engine_log();
      if (err != 0)
        answer.error = describe("engine: no answer", err) + ", see " + install.engine_log();
      if (err != ECONNRESET && err != EPIPE) return;
    }
    if (static_cast<int64_t>(Poller::now_ms()) > deadline) return;
    timespec pause{0, attempt * 20 * 1000000L};
    ::nanosleep(&pause, nullptr);
  }
}

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// In the bundle's directory; the way containerd itself writes it, so that a reader never sees half
// of it.
bool write_address_file(const std::string& address) {
  FILE* file = std::fopen(".address", "we");
  if (file == nullptr) return false;
  bool written = std::fwrite(address.data(), 1, address.size(), file) == address.size();
  written = std::fclose(file) == 0 && written;
  return written && std::rename(".address", "address") == 0;
}

int start(const ShimArgs& args, const Install& install, const ShimRequest& request, Answer& answer,
          bool network) {
  const ToMonitor& reply = answer.reply;
  std::string group(reply.group.empty() ? request.id : reply.group);
  ShimSocket socket;
  int err = socket.open(args.address, args.name_space, group);
  if (err != 0) return fail(args, "start", describe(socket.path() + ": listen", err));

  std::string address = "unix://" + socket.path();
  if (!write_address_file(address)) {
    err = errno;
    socket.remove();
    return fail(args, "start", describe(std::string(request.bundle) + "/address: write", err));
  }
  std::string output = address;
  if (!reply.bootstrap.empty()) {
    constexpr std::string_view kMark = "@ADDRESS@";
    output = reply.bootstrap;
    for (size_t at = 0; (at = output.find(kMark, at)) != std::string::npos;
         at += socket.path().size()) {
      output.replace(at, kMark.size(), socket.path());
    }
  }
  if (!socket.listening()) return print(output);  // the pod's monitor is there already

  Hello hello;
  hello.wall = request.wall;
  hello.name_space = request.name_space;
  hello.group = group;
  hello.containerd_address = request.containerd_address;
  hello.ttrpc_address = request.ttrpc_address;
  hello.publish_binary = request.publish_binary;
  hello.socket_path = socket.path();
  hello.debug = request.debug;
  hello.bundle = request.bundle;

  pid_t monitor = ::fork();
  if (monitor < 0) {
    err = errno;
    socket.remove();
    return fail(args, "start", describe("monitor: fork", err));
  }
  if (monitor == 0) {
    ::_exit(run_monitor(hello, install, std::move(socket), std::move(answer.connection),
                        reply.shim_cgroup, network && request.wall == "namespace"));
  }
  return print(output);
}

// The engine's connection when it runs and need not be asked. Connected first: who starts an engine
// takes the sign of the one before away, so what is there now is that of the engine connected to.
UniqueFd connect_plainly(const Install& install, const ShimRequest& request, const Glance& config) {
  auto engine = connect_unix(install.engine_socket(), false);
  if (!engine || !start_is_plain(install, config, request.input)) return UniqueFd();
  return engine.take();
}

}  // namespace

int run_launcher(const ShimArgs& args, const Install& install) {
  if (args.version) {
    std::string text = args.program + ":\n  Version:  " BULKHEAD_VERSION "\n";
    return print(text);
  }
  std::string_view action = args.info ? "info" : std::string_view(args.action);
  if (action != "start" && action != "delete" && action != "info") {
    return fail(args, args.program,
                action.empty() ? "an action is needed: start or delete"
                               : "unknown action \"" + std::string(action) + "\"");
  }
  if (action != "info" && args.name_space.empty())
    return fail(args, action, "flag -namespace: not set");
  if (action != "info" && args.id.empty()) return fail(args, action, "flag -id: not set");
  if (install.root.empty()) return fail(args, action, "BULKHEAD_ROOT: not an absolute path");

  char directory[PATH_MAX];
  if (::getcwd(directory, sizeof directory) == nullptr) {
    return fail(args, action, describe("working directory", errno));
  }
  ByteQueue input;
  if (action != "delete" && !read_input(input))
    return fail(args, action, "standard input: more than 1 MiB");

  ShimRequest request;
  request.action = action;
  request.wall = args.wall;
  request.name_space = args.name_space;
  request.id = args.id;
  request.bundle = directory;
  if (action == "delete" && !args.bundle.empty()) request.bundle = args.bundle;
  request.containerd_address = args.address;
  request.ttrpc_address = environment("TTRPC_ADDRESS");
  request.publish_binary = args.publish_binary;
  request.debug = args.debug;
  request.input = {reinterpret_cast<const char*>(input.data()), input.size()};
  request.max_shim_version = static_cast<uint32_t>(
      std::strtoul(std::string(environment("MAX_SHIM_VERSION")).c_str(), nullptr, 10));

  const std::string socket = action == "delete" ? socket_of_bundle(request.bundle) : "";
  if (action == "delete" && nothing_left(install, args.name_space, args.id, socket))
    return print(response_for_nothing());
  Answer answer;
  Glance config;
  if (action == "start") {
    config = glance_at_config(request.bundle);
    answer.connection = connect_plainly(install, request, config);
  }
  if (!answer.connection) {
    ask_engine(install, encode_shim_request(request),
               action == "delete" ? kDeleteTimeoutMs : kReplyTimeoutMs, answer);
  }
  if (!answer.error.empty()) return fail(args, action, answer.error);
  if (!answer.reply.error.empty()) {
    (void)!::write(STDERR_FILENO, answer.reply.error.data(), answer.reply.error.size());
    (void)!::write(STDERR_FILENO, "\n", 1);
    return 1;
  }
  if (action == "start") return start(args, install, request, answer, config.new_network);
  if (action == "delete") ShimSocket::remove_dead(socket);
  return print(answer.reply.output);
}

}  // namespace bulkhead::shim
