// The loop: listeners come in over the socket, one for every process that the runtime starts; each
// brings the system calls of that process and of all that it forks.
#pragma once

#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/epoll.h>

#include <array>
#include <string_view>
#include <vector>

#include "core/fd.h"
#include "sentry/handlers.h"
#include "sentry/known.h"
#include "sentry/sandbox.h"
#include "sentry/verdict.h"
#include "sentry/watch.h"
#include "sentry/worker.h"

namespace bulkhead::sentry {

class Supervisor {
 public:
  // `socket` is listening.
  Supervisor(Sandbox& sandbox, UniqueFd socket) : sandbox_(sandbox), socket_(std::move(socket)) {}

  // "63:1,99:2": system call and handler. False: malformed, or a handler that is not there.
  bool parse_table(std::string_view text);
  // "policy=HEX" (the filter without notifications), "threads=16". False: no such
  // option.
  bool parse_option(std::string_view word);
  // Allocates and opens all that is needed. 0 or errno.
  int prepare();
  // Ends the process: with 0 when the last listener has hung up, as everything under supervision
  // has ended, else with 75.
  [[noreturn]] void run();

 private:
  static constexpr int kMaxCalls = 512;
  static constexpr uint64_t kSocketTag = ~0ull;
  static constexpr size_t kMaxHot = 4;

  // `operation`: of epoll_ctl(2).
  int watch(int fd, uint64_t tag, uint32_t events, int operation = EPOLL_CTL_ADD);
  void heat(int listener);
  bool serve_all(Worker& worker);
  void accept_connection();
  bool receive(int connection);
  bool enter_sandbox(int connection, std::string_view word);
  bool serve_reader(int connection, std::string_view word);
  void add_listener(int listener);
  bool answer_one(Worker& worker, int listener);
  bool pending();
  bool refuse_by_policy(const seccomp_notif& call, Answer& answer, unsigned& looked_at) const;
  void lead(Worker& worker);
  void drop(int fd);

  Sandbox& sandbox_;
  UniqueFd socket_;
  UniqueFd epoll_;
  std::array<Handler, kMaxCalls> table_{};
  // Sized as the kernel says (SECCOMP_GET_NOTIF_SIZES), which may be more than this build knows.
  size_t request_size_ = 0, reply_size_ = 0;
  std::vector<int> listeners_, connections_;
  // Listeners that calls come from all the time, the latest last. Changed by the leader under the
  // lock, and read by others so.
  std::vector<int> hot_;
  pthread_mutex_t hot_lock_ = PTHREAD_MUTEX_INITIALIZER;
  int last_cold_ = -1;
  // Callers may ask for mounts.
  bool mounts_ = false;
  Policy policy_;
  Watch watch_;
  bool entered_ = false;
  bool had_listener_ = false;
  unsigned threads_ = 4;
  Callers callers_;
  Pool pool_;
};

}  // namespace bulkhead::sentry
