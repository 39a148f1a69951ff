#include "agent/worker.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "core/pidfd.h"

namespace bulkhead::agent {

namespace {

// Of an encoded CallReply with its files.
constexpr size_t kMostResult = kMaxFilesTogether + (2u << 20);
constexpr size_t kReadSize = 64u << 10;

void write_all(int fd, const void* bytes, size_t size) {
  const auto* at = static_cast<const uint8_t*>(bytes);
  while (size > 0) {
    const ssize_t done = ::write(fd, at, size);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return;
    at += done;
    size -= static_cast<size_t>(done);
  }
}

// A worker may live long, or for ever: what PID 1 has open (the ends of containers' pipes, whose
// readers would wait for an end of file) is not its own.
void keep_only(int fd) {
  const auto number = static_cast<unsigned>(fd);
  if (number > 3) ::syscall(SYS_close_range, 3u, number - 1, 0);
  ::syscall(SYS_close_range, number + 1, ~0u, 0);
}

}  // namespace

Worker::Worker(WorkerTable& table, Poller& poller, uint64_t request)
    : table_(table),
      poller_(poller),
      request_(request),
      deadline_(poller, on_timer<Worker, &Worker::too_late>, this) {}

Status Worker::start(CallReply (*work)(const Call&), const Call& call, uint32_t timeout_ms) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return last_error("pipe2");
  UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return last_error("fork");
  if (pid == 0) {
    keep_only(writer.get());
    const CallReply reply = work(call);
    const std::string bytes = encode_call_reply(reply);
    const int32_t err = reply.err;
    write_all(writer.get(), &err, sizeof err);
    write_all(writer.get(), bytes.data(), bytes.size());
    ::_exit(0);
  }
  writer.reset();
  // Nobody reaps before this round of the loop is over, so the number is still its own.
  auto pidfd = pidfd_open(pid);
  if (!pidfd) {
    ::kill(pid, SIGKILL);
    return pidfd.error();
  }
  pidfd_ = pidfd.take();
  ::fcntl(reader.get(), F_SETFL, O_NONBLOCK);
  result_.start(poller_, std::move(reader), EPOLLIN, on_ready<Worker, &Worker::result_ready>, this);
  deadline_.arm(timeout_ms);
  return success();
}

void Worker::result_ready(uint32_t) {
  const ssize_t got = ::read(result_.fd(), bytes_.reserve(kReadSize), kReadSize);
  if (got > 0) {
    bytes_.commit(static_cast<size_t>(got));
    if (bytes_.size() <= kMostResult) return;
  } else if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
    return;
  }
  int32_t err = 0;
  if (bytes_.size() < sizeof err || bytes_.size() > kMostResult) {
    // It was killed, or died of its own.
    const CallReply died = CallReply::failed("worker", "", EIO);
    finish(died.err, encode_call_reply(died));
    return;
  }
  std::memcpy(&err, bytes_.data(), sizeof err);
  finish(err,
         {reinterpret_cast<const char*>(bytes_.data()) + sizeof err, bytes_.size() - sizeof err});
}

void Worker::too_late() {
  (void)pidfd_signal(pidfd_.get(), SIGKILL).ok();  // ESRCH: it has ended just now
  const CallReply late = CallReply::failed("wait", "", ETIMEDOUT);
  finish(late.err, encode_call_reply(late));
}

void Worker::finish(int err, std::string_view reply) {
  deadline_.cancel();
  result_.mute();
  done_ = true;
  if (wanted_) table_.owner_.worker_done(request_, err, reply);
  table_.sweep_.arm(0);
}

Status WorkerTable::start(uint64_t request, CallReply (*work)(const Call&), const Call& call,
                          uint32_t timeout_ms) {
  if (count_ >= kMost) return Error{EAGAIN, "fork"};
  auto worker = std::make_unique<Worker>(*this, poller_, request);
  if (Status started = worker->start(work, call, timeout_ms); !started) return started;
  worker->next_ = std::move(first_);
  first_ = std::move(worker);
  count_++;
  return success();
}

void WorkerTable::forget_all() {
  for (Worker* worker = first_.get(); worker != nullptr; worker = worker->next_.get())
    worker->wanted_ = false;
}

void WorkerTable::sweep() {
  for (std::unique_ptr<Worker>* link = &first_; *link;) {
    if (!(*link)->done_) {
      link = &(*link)->next_;
      continue;
    }
    std::unique_ptr<Worker> next = std::move((*link)->next_);
    *link = std::move(next);
    count_--;
  }
}

}  // namespace bulkhead::agent
