#include "sentry/supervisor.h"

#include <errno.h>
#include <linux/audit.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "sentry/confine.h"
#include "sentry/guard.h"

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS _IOW('!', 4, uint64_t)
#endif

namespace bulkhead::sentry {

namespace {

// Wakes the other side on this processor: half the time of a call (Linux 6.6; older kernels go
// without).
constexpr uint64_t kSyncWakeUp = 1;
constexpr size_t kMaxListeners = 4096;
constexpr unsigned kMaxThreads = 64;
constexpr int kFailed = 75;

Decision decision_of(const Answer& answer, bool refused) {
  if (refused) return Decision::kRefused;
  if (answer.given && !answer.handed_over) return Decision::kGone;
  return answer.error == 0 ? Decision::kAnswered : Decision::kFailed;
}

bool contains(const std::vector<int>& list, int fd) {
  return std::find(list.begin(), list.end(), fd) != list.end();
}

}  // namespace

bool Supervisor::parse_table(std::string_view text) {
  while (!text.empty()) {
    uint64_t call = 0;
    uint64_t handler = 0;
    if (!take_number(text, call) || !take_number(text, handler) || call >= kMaxCalls) return false;
    table_[call] = handler_of(static_cast<unsigned>(handler));
    if (table_[call] == nullptr) return false;
    if (handler == kMountHandler) mounts_ = true;
    if (!text.empty()) text.remove_prefix(1);
  }
  return true;
}

bool Supervisor::parse_option(std::string_view word) {
  constexpr std::string_view kPolicy = "policy=";
  if (word.starts_with(kPolicy)) return policy_.parse(word.substr(kPolicy.size()));
  uint64_t value = 0;
  std::string_view number = word;
  if (!take_number(number, value)) return false;
  threads_ = static_cast<unsigned>(value);
  return word.starts_with("threads=") && value >= 1 && value <= kMaxThreads;
}

int Supervisor::watch(int fd, uint64_t tag, uint32_t events, int operation) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag;
  return ::epoll_ctl(epoll_.get(), operation, fd, &event) < 0 ? errno : 0;
}

int Supervisor::prepare() {
  seccomp_notif_sizes sizes{};
  if (::syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) < 0) return errno;
  pool_.load().open();
  request_size_ = std::max<size_t>(sizes.seccomp_notif, sizeof(seccomp_notif));
  reply_size_ = std::max<size_t>(sizes.seccomp_notif_resp, sizeof(seccomp_notif_resp));
  listeners_.reserve(64);
  connections_.reserve(64);
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_) return errno;
  return watch(socket_.get(), kSocketTag, EPOLLIN);
}

void Supervisor::accept_connection() {
  int fd = ::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return;
  if (connections_.size() + listeners_.size() >= kMaxListeners ||
      watch(fd, static_cast<uint64_t>(fd), EPOLLIN | EPOLLRDHUP) != 0) {
    ::close(fd);
    return;
  }
  connections_.push_back(fd);
}

void Supervisor::drop(int fd) {
  std::erase(listeners_, fd);
  std::erase(connections_, fd);
  ::pthread_mutex_lock(&hot_lock_);
  std::erase(hot_, fd);
  ::pthread_mutex_unlock(&hot_lock_);
  if (last_cold_ == fd) last_cold_ = -1;
  ::close(fd);
}

// The runtime's word, before anything of the sandbox runs. Answered by one byte.
bool Supervisor::enter_sandbox(int connection, std::string_view word) {
  uint64_t pid = 0;
  if (entered_ || !word.starts_with("enter ") || !take_number(word, pid)) return false;
  // Namespaces are of processes with one thread, and the filter is for all threads.
  if (enter(sandbox_, static_cast<int>(pid)) != 0) return false;
  if (word == " guard" && start_guard(static_cast<int>(pid)) != 0) return false;
  if (keep_capabilities(mounts_) != 0) return false;
  auto main = [](void* what, Worker& worker) { static_cast<Supervisor*>(what)->lead(worker); };
  auto pending = [](void* what) { return static_cast<Supervisor*>(what)->pending(); };
  Work work{main, pending, this};
  if (pool_.start(threads_, callers_, request_size_, reply_size_, work) != 0) return false;
  if (confine(mounts_) != 0) return false;
  entered_ = true;
  return ::send(connection, "+", 1, MSG_NOSIGNAL) == 1;
}

// Who asks what happens here. True: the connection stays, and what comes over it ends it.
bool Supervisor::serve_reader(int connection, std::string_view word) {
  if (word == "counts") watch_.send_counts(connection);
  if (word != "watch" || !watch_.add_reader(connection)) return false;
  std::erase(connections_, connection);
  return true;
}

void Supervisor::add_listener(int listener) {
  pool_.set_wakes_here(::ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, kSyncWakeUp) == 0);
  if (watch(listener, static_cast<uint64_t>(listener), EPOLLIN) != 0) {
    // Its calls get ENOSYS.
    ::close(listener);
    return;
  }
  listeners_.push_back(listener);
  had_listener_ = true;
}

// One message: where the sandbox is, or a listener (the pid beside it is of no interest). False:
// what has to be there to go on is not.
bool Supervisor::receive(int connection) {
  char text[64];
  iovec part{text, sizeof text};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  ssize_t got = ::recvmsg(connection, &header, MSG_CMSG_CLOEXEC);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  const cmsghdr* rights = got < 0 ? nullptr : CMSG_FIRSTHDR(&header);
  bool fine = true;
  if (rights != nullptr && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS) {
    int listener = -1;
    std::memcpy(&listener, CMSG_DATA(rights), sizeof listener);
    add_listener(listener);
    fine = entered_;
  } else if (got > 0) {
    std::string_view word(text, static_cast<size_t>(got));
    if (serve_reader(connection, word)) return true;
    fine = !word.starts_with("enter") || enter_sandbox(connection, word);
  }
  // There is no more to come.
  drop(connection);
  return fine;
}

// A call that has no handler came here to be counted: what the policy says of it is what it gets.
bool Supervisor::refuse_by_policy(const seccomp_notif& call, Answer& answer,
                                  unsigned& looked_at) const {
  unsigned number = static_cast<unsigned>(call.data.nr);
  bool handled =
      call.data.arch == AUDIT_ARCH_X86_64 && number < kMaxCalls && table_[number] != nullptr;
  if (policy_.empty()) {
    if (!handled) answer = refusal(ENOSYS);
    return !handled;
  }
  Verdict verdict = policy_.decide(call.data);
  looked_at = verdict.looked_at;
  uint32_t action = verdict.action & SECCOMP_RET_ACTION_FULL;
  if (handled && action == SECCOMP_RET_USER_NOTIF) return false;
  uint32_t error = action == SECCOMP_RET_ERRNO ? verdict.action & SECCOMP_RET_DATA : EPERM;
  answer = refusal(static_cast<int>(error));
  return true;
}

// False: this thread does not lead any more.
bool Supervisor::answer_one(Worker& worker, int listener) {
  std::memset(worker.request.get(), 0, request_size_);
  auto& call = *reinterpret_cast<seccomp_notif*>(worker.request.get());
  // ENOENT, EINTR: who called was killed meanwhile.
  if (::ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0) return true;
  pool_.begin(worker);
  Answer answer;
  unsigned looked_at = 0;
  bool refused = refuse_by_policy(call, answer, looked_at);
  if (!refused) {
    Caller caller(listener, sandbox_.proc.get(), call, worker);
    answer = table_[static_cast<unsigned>(call.data.nr)](sandbox_, caller);
    worker.done();
  }
  watch_.record(call, {decision_of(answer, refused), answer.error, answer.value}, looked_at);
  if (!answer.given) {
    std::memset(worker.reply.get(), 0, reply_size_);
    auto& reply = *reinterpret_cast<seccomp_notif_resp*>(worker.reply.get());
    reply.id = call.id;
    reply.val = answer.error == 0 ? answer.value : 0;
    reply.error = -answer.error;
    reply.flags = answer.go_on ? SECCOMP_USER_NOTIF_FLAG_CONTINUE : 0;
    (void)::ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &reply);
  }
  return pool_.end(worker);
}

// Waited for by poll(2) itself from now on, and by epoll only as far as its end goes: on its way
// through epoll a wake-up loses that it is one for this processor.
void Supervisor::heat(int listener) {
  // Once may be chance.
  if (std::exchange(last_cold_, listener) != listener) return;
  ::pthread_mutex_lock(&hot_lock_);
  if (hot_.size() >= kMaxHot) {
    watch(hot_.front(), static_cast<uint64_t>(hot_.front()), EPOLLIN, EPOLL_CTL_MOD);
    hot_.erase(hot_.begin());
  }
  if (watch(listener, static_cast<uint64_t>(listener), 0, EPOLL_CTL_MOD) == 0)
    hot_.push_back(listener);
  ::pthread_mutex_unlock(&hot_lock_);
}

// Whether the leader has something to do, seen from another thread.
bool Supervisor::pending() {
  pollfd waiting[1 + kMaxHot];
  nfds_t count = 0;
  waiting[count++] = {epoll_.get(), POLLIN, 0};
  ::pthread_mutex_lock(&hot_lock_);
  for (int listener : hot_) waiting[count++] = {listener, POLLIN, 0};
  ::pthread_mutex_unlock(&hot_lock_);
  return ::poll(waiting, count, 0) > 0;
}

// What epoll has, without waiting. False: this thread does not lead any more.
bool Supervisor::serve_all(Worker& worker) {
  epoll_event events[32];
  int count = ::epoll_wait(epoll_.get(), events, 32, 0);
  if (count < 0 && errno != EINTR) ::_exit(kFailed);
  for (int i = 0; i < count; i++) {
    if (events[i].data.u64 == kSocketTag) {
      accept_connection();
      continue;
    }
    int fd = static_cast<int>(events[i].data.u64);
    if (watch_.remove_reader(fd)) {
      drop(fd);
    } else if (contains(connections_, fd)) {
      if (!receive(fd)) ::_exit(kFailed);
    } else if ((events[i].events & EPOLLIN) != 0) {
      heat(fd);
      // The rest of the events is the next leader's: epoll gives them again.
      if (!answer_one(worker, fd)) return false;
    } else {
      // EPOLLHUP: no process uses this filter any more.
      drop(fd);
    }
  }
  return true;
}

// Returns when another thread leads.
void Supervisor::lead(Worker& worker) {
  for (;;) {
    pollfd waiting[1 + kMaxHot];
    nfds_t count = 0;
    waiting[count++] = {epoll_.get(), POLLIN, 0};
    for (int listener : hot_) waiting[count++] = {listener, POLLIN, 0};
    pool_.rest(worker);
    int ready = ::poll(waiting, count, -1);
    bool failed = ready < 0 && errno != EINTR;
    if (!pool_.resume(worker)) return;
    if (failed) ::_exit(kFailed);
    for (nfds_t i = 1; ready > 0 && i < count; i++) {
      if ((waiting[i].revents & POLLIN) != 0 && !answer_one(worker, waiting[i].fd)) return;
    }
    if (ready > 0 && waiting[0].revents != 0 && !serve_all(worker)) return;
    if (had_listener_ && listeners_.empty() && connections_.empty()) ::_exit(0);
  }
}

void Supervisor::run() {
  for (;;) {
    // Until the threads are there: none of the sandbox has a filter yet.
    epoll_event event{};
    int count = ::epoll_wait(epoll_.get(), &event, 1, -1);
    if (count < 0 && errno != EINTR) ::_exit(kFailed);
    if (count < 1) continue;
    if (event.data.u64 == kSocketTag) {
      accept_connection();
    } else if (!receive(static_cast<int>(event.data.u64))) {
      ::_exit(kFailed);
    }
    if (!entered_) continue;
    lead(pool_.first());
    pool_.follow(pool_.first());
  }
}

}  // namespace bulkhead::sentry
