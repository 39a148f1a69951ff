// Connections by vsock for Node.js, whose sockets know the address families of TCP and of unix
// only.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "addon/arguments.h"
#include "addon/bindings.h"
#include "core/fd.h"
#include "core/vsock.h"

namespace bulkhead::addon {
namespace {

constexpr size_t kRelayBuffer = 64 << 10;

// Bytes that were read from one end and not all written to the other yet.
struct Direction {
  int from = -1;
  int to = -1;
  size_t begin = 0;
  size_t end = 0;
  bool over = false;  // the end of file was passed on, or nobody takes more
  char bytes[kRelayBuffer];

  bool pending() const { return begin < end; }
  short wants(int fd) const {
    if (over) return 0;
    if (pending()) return fd == to ? POLLOUT : short{0};
    return fd == from ? POLLIN : short{0};
  }
  void move();
};

void Direction::move() {
  if (over) return;
  if (!pending()) {
    const ssize_t got = ::read(from, bytes, sizeof(bytes));
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
      ::shutdown(to, SHUT_WR);
      over = true;
      return;
    }
    begin = 0;
    end = static_cast<size_t>(got);
  }
  const ssize_t sent = ::send(to, bytes + begin, end - begin, MSG_NOSIGNAL);
  if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (sent < 0) {
    ::shutdown(from, SHUT_RD);
    over = true;
    return;
  }
  begin += static_cast<size_t>(sent);
}

struct Relay {
  UniqueFd ends[2];
  Direction directions[2];
};

// Until both directions have ended, or Node.js has closed its end.
void* relay_thread(void* argument) {
  const std::unique_ptr<Relay> relay(static_cast<Relay*>(argument));
  auto& [from_guest, to_guest] = relay->directions;
  const int guest = relay->ends[0].get();
  const int node = relay->ends[1].get();
  while (!from_guest.over || !to_guest.over) {
    // Of whom nothing is wanted a hang-up would be told again and again.
    const short of_guest = from_guest.wants(guest) | to_guest.wants(guest);
    const short of_node = from_guest.wants(node) | to_guest.wants(node);
    pollfd watched[] = {{of_guest != 0 ? guest : -1, of_guest, 0}, {node, of_node, 0}};
    if (::poll(watched, 2, -1) < 0 && errno != EINTR) break;
    from_guest.move();
    to_guest.move();
    if ((watched[1].revents & POLLHUP) != 0 && (to_guest.over || to_guest.pending())) break;
  }
  return nullptr;
}

// `ours` becomes the end that Node.js gets of a unix socket whose other end is relayed to `vsock`.
int start_relay(UniqueFd vsock, UniqueFd& ours) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) return errno;
  ours.reset(pair[0]);
  auto relay = std::make_unique<Relay>();
  relay->ends[0] = std::move(vsock);
  relay->ends[1].reset(pair[1]);
  for (int i = 0; i < 2; i++) {
    relay->directions[i].from = relay->ends[i].get();
    relay->directions[i].to = relay->ends[1 - i].get();
  }
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  // Signals are for Node's own thread.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const int error = ::pthread_create(&thread, &attributes, relay_thread, relay.get());
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::pthread_attr_destroy(&attributes);
  if (error == 0) (void)relay.release();
  return error;
}

class ConnectVsock final : public Napi::AsyncWorker {
 public:
  ConnectVsock(Napi::Env env, std::string name, const VsockAddress& address)
      : AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        name_(std::move(name)),
        address_(address) {}
  Napi::Value start() {
    const Napi::Value promise = deferred_.Promise();
    Queue();
    return promise;
  }

 protected:
  void Execute() override {
    Result<UniqueFd> connected = connect_vsock(address_, false);
    if (!connected) {
      error_ = connected.error();
      return;
    }
    const int fd = connected.value().get();
    ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
    if (const int error = start_relay(connected.take(), ours_); error != 0) {
      error_ = Error{error, "relay"};
    }
  }
  void OnOK() override {
    const Napi::Env env = Env();
    if (error_.code != 0) {
      deferred_.Reject(make_errno(env, error_.code, error_.op, name_).Value());
    } else {
      deferred_.Resolve(Napi::Number::New(env, ours_.release()));
    }
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::string name_;
  VsockAddress address_;
  UniqueFd ours_;
  Error error_;
};

// connectVsock(address): Promise<number>
Napi::Value connect_vsock_function(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string name;
  if (!get_string(info[0], "address", name)) return env.Undefined();
  VsockAddress address;
  if (!parse_vsock(name, address)) {
    return throw_type_error(env, "address: expected vsock://CID:PORT");
  }
  return (new ConnectVsock(env, name, address))->start();
}

}  // namespace

void define_vsock(Napi::Env env, Napi::Object exports) {
  define<connect_vsock_function>(env, exports, "connectVsock");
}

}  // namespace bulkhead::addon
