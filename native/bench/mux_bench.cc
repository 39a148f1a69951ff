// Throughput of the channel to a guest, without a guest: writer → pipe → agent's end → socketpair →
// monitor's end → pipe → reader, four processes, as stdout of a container has it.
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "core/mux_link.h"
#include "core/mux_stream.h"

namespace {

using namespace bulkhead;

constexpr uint32_t kStream = 1;

double seconds_now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

struct End : MuxHandler {
  void mux_session() override { session = true; }
  const char* mux_control(std::span<const uint8_t>) override { return nullptr; }
  void mux_lost(const char*) override { lost = true; }
  bool session = false;
  bool lost = false;
};

void nonblocking(int fd) {
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
}

[[noreturn]] void write_bytes(int fd, size_t bytes) {
  static char block[64 << 10];
  while (bytes > 0) {
    ssize_t done = ::write(fd, block, bytes < sizeof block ? bytes : sizeof block);
    if (done <= 0) ::_exit(1);
    bytes -= static_cast<size_t>(done);
  }
  ::_exit(0);
}

[[noreturn]] void read_bytes(int fd, size_t bytes) {
  static char block[32 << 10];
  ssize_t got;
  while ((got = ::read(fd, block, sizeof block)) > 0) bytes -= static_cast<size_t>(got);
  ::_exit(bytes == 0 ? 0 : 1);
}

[[noreturn]] void agent(int socket, int input) {
  Poller poller;
  End end;
  if (!poller.open()) ::_exit(1);
  MuxLink link(poller, end);
  nonblocking(socket);
  nonblocking(input);
  if (!link.serve(UniqueFd(socket))) ::_exit(1);
  StreamSource source(poller, link, {});
  source.open(UniqueFd(input));
  while (!end.session) poller.run_once();
  source.attach(kStream);
  source.begin();
  while (!end.lost) poller.run_once();
  ::_exit(source.done() ? 0 : 1);
}

void report(size_t bytes, double seconds) {
  rusage own{};
  ::getrusage(RUSAGE_SELF, &own);
  double cpu = static_cast<double>(own.ru_utime.tv_sec + own.ru_stime.tv_sec) +
               static_cast<double>(own.ru_utime.tv_usec + own.ru_stime.tv_usec) / 1e6;
  std::printf("channel: %.0f MB/s over a socketpair; the monitor's end took %.2f ms CPU a MB\n",
              static_cast<double>(bytes) / 1e6 / seconds,
              cpu * 1e3 / (static_cast<double>(bytes) / 1e6));
}

}  // namespace

int main(int argc, char** argv) {
  // As the monitor has it.
  ::mallopt(M_MMAP_THRESHOLD, 64 << 10);
  ::mallopt(M_TRIM_THRESHOLD, 64 << 10);
  size_t bytes = (argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 512) * 1000000;
  int in[2];
  int out[2];
  int pair[2];
  ::signal(SIGPIPE, SIG_IGN);
  if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) return 1;
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return 1;
  double began = seconds_now();
  // Ends of pipes that a process keeps by mistake would keep their readers waiting.
  if (::fork() == 0) {
    ::close(in[0]);
    write_bytes(in[1], bytes);
  }
  if (::fork() == 0) {
    ::close(in[1]);
    ::close(out[1]);
    read_bytes(out[0], bytes);
  }
  ::close(in[1]);
  ::close(out[0]);
  if (::fork() == 0) {
    ::close(pair[0]);
    ::close(out[1]);
    agent(pair[1], in[0]);
  }
  ::close(in[0]);
  ::close(pair[1]);
  {
    Poller poller;
    End end;
    if (!poller.open()) return 1;
    MuxLink link(poller, end);
    StreamSink sink(poller, link, {});
    nonblocking(pair[0]);
    nonblocking(out[1]);
    sink.open(UniqueFd(out[1]));
    if (!link.start(UniqueFd(pair[0]), {1})) return 1;
    sink.attach(kStream);
    while (!sink.done() && !end.lost) poller.run_once();
  }
  int failed = 0;
  for (int status = 0; ::wait(&status) > 0;) failed |= status;
  if (failed != 0) {
    std::fprintf(stderr, "channel: bytes were lost\n");
    return 1;
  }
  report(bytes, seconds_now() - began);
  return 0;
}
