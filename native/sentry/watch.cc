#include "sentry/watch.h"

#include <errno.h>
#include <linux/audit.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <cstring>

namespace bulkhead::sentry {

namespace {

class Locked {
 public:
  explicit Locked(pthread_mutex_t& lock) : lock_(lock) { ::pthread_mutex_lock(&lock_); }
  ~Locked() { ::pthread_mutex_unlock(&lock_); }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;

 private:
  pthread_mutex_t& lock_;
};

uint64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
}

struct CountsHeader {
  char magic[8];
  uint32_t counters;
  uint32_t refusals;
  uint64_t more_refusals;
};
static_assert(sizeof(CountsHeader) == 24);

struct Counter {
  int32_t number;  // -1: none of x86-64
  uint32_t decision;
  uint64_t count;
};

template <typename T>
void append(std::vector<char>& bytes, const T& value) {
  const char* begin = reinterpret_cast<const char*>(&value);
  bytes.insert(bytes.end(), begin, begin + sizeof value);
}

}  // namespace

void Watch::record(const seccomp_notif& call, const Outcome& outcome, unsigned looked_at) {
  bool known = call.data.arch == AUDIT_ARCH_X86_64 && call.data.nr >= 0 && call.data.nr < kMaxCalls;
  size_t row = known ? static_cast<size_t>(call.data.nr) : kMaxCalls;
  Locked locked(lock_);
  counts_[row][static_cast<size_t>(outcome.decision)]++;
  bool refused = outcome.decision == Decision::kRefused;
  if (!refused && readers_.empty()) return;
  uint64_t now = now_ns();
  if (refused) note_refusal(call, outcome.error, looked_at, now);
  if (!readers_.empty()) stream(call, outcome, looked_at, now);
}

void Watch::note_refusal(const seccomp_notif& call, int32_t error, unsigned looked_at,
                         uint64_t now) {
  Refusal entry{call.data.arch, call.data.nr, error, looked_at, 1, now, {}};
  for (unsigned i = 0; i < 6; i++) {
    if ((looked_at >> i & 1) != 0) entry.arguments[i] = static_cast<uint32_t>(call.data.args[i]);
  }
  auto same = [&](const Refusal& other) {
    return other.number == entry.number && other.arch == entry.arch && other.error == entry.error &&
           std::memcmp(other.arguments, entry.arguments, sizeof entry.arguments) == 0;
  };
  auto found = std::find_if(refusals_.begin(), refusals_.end(), same);
  if (found != refusals_.end()) {
    found->count++;
    found->last = now;
  } else if (refusals_.size() < kMaxRefusals) {
    refusals_.push_back(entry);
  } else {
    more_refusals_++;
  }
}

void Watch::stream(const seccomp_notif& call, const Outcome& outcome, unsigned looked_at,
                   uint64_t now) {
  Record record{now,           0,
                call.pid,      call.data.arch,
                call.data.nr,  static_cast<uint32_t>(outcome.decision),
                outcome.value, outcome.error,
                looked_at,     {}};
  std::copy(std::begin(call.data.args), std::end(call.data.args), record.arguments);
  for (Reader& reader : readers_) {
    record.lost = reader.lost;
    // So short a message goes as a whole or not at all.
    ssize_t sent = ::send(reader.fd, &record, sizeof record, MSG_DONTWAIT | MSG_NOSIGNAL);
    reader.lost = sent == sizeof record ? 0 : reader.lost + 1;
  }
}

bool Watch::add_reader(int fd) {
  Locked locked(lock_);
  if (readers_.size() >= kMaxReaders) return false;
  readers_.push_back({fd, 0});
  return true;
}

bool Watch::remove_reader(int fd) {
  Locked locked(lock_);
  return std::erase_if(readers_, [fd](const Reader& reader) { return reader.fd == fd; }) > 0;
}

// At most 40 kB, which a socket takes at once.
void Watch::send_counts(int fd) const {
  Locked locked(lock_);
  std::vector<char> body;
  CountsHeader header{{'B', 'S', 'C', 'O', 'U', 'N', 'T', '1'}, 0, 0, more_refusals_};
  for (size_t row = 0; row < counts_.size(); row++) {
    for (uint32_t decision = 0; decision < kDecisions; decision++) {
      uint64_t count = counts_[row][decision];
      if (count == 0) continue;
      append(body, Counter{row == kMaxCalls ? -1 : static_cast<int32_t>(row), decision, count});
      header.counters++;
    }
  }
  for (const Refusal& refusal : refusals_) append(body, refusal);
  header.refusals = static_cast<uint32_t>(refusals_.size());
  std::vector<char> message;
  append(message, header);
  message.insert(message.end(), body.begin(), body.end());
  (void)::send(fd, message.data(), message.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace bulkhead::sentry
