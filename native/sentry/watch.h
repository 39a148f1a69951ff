// What the supervisor tells of its decisions: counters, the distinct refusals, and a stream.
//
// All of it is numbers from registers, never text of the workload. Nobody is waited for: a reader
// that is slow misses records and is told how many.
#pragma once

#include <linux/seccomp.h>
#include <pthread.h>

#include <array>
#include <cstdint>
#include <vector>

#include "sentry/verdict.h"

namespace bulkhead::sentry {

// Numbers are those of src/sandbox/sentry/watch.ts.
enum class Decision : uint32_t {
  kAnswered = 0,  // by a handler, with a value
  kFailed = 1,    // by a handler, with an errno
  kRefused = 2,   // by the policy
  kGone = 3,      // who called was killed meanwhile
};

struct Outcome {
  Decision decision = Decision::kAnswered;
  int32_t error = 0;
  int64_t value = 0;
};

// One record of the stream, little-endian.
struct Record {
  uint64_t time;  // CLOCK_REALTIME, ns
  uint64_t lost;  // records that this reader missed before this one
  uint32_t tid;   // in the host's pid namespace
  uint32_t arch;  // AUDIT_ARCH_*
  int32_t number;
  uint32_t decision;
  int64_t value;
  int32_t error;
  uint32_t looked_at;  // bit n: the policy looked at argument n
  uint64_t arguments[6];
};
static_assert(sizeof(Record) == 96);

// For all threads.
class Watch {
 public:
  static constexpr size_t kMaxReaders = 8;

  void record(const seccomp_notif& call, const Outcome& outcome, unsigned looked_at);

  // `fd` is borrowed and becomes a reader of the stream. False: there are enough.
  bool add_reader(int fd);
  // False: it was none.
  bool remove_reader(int fd);
  // Sends counters and refusals, once.
  void send_counts(int fd) const;

 private:
  static constexpr int kMaxCalls = 512;
  static constexpr int kDecisions = 4;
  static constexpr size_t kMaxRefusals = 128;

  // Refusals that differ in what the policy looked at. Sent as they are.
  struct Refusal {
    uint32_t arch;
    int32_t number;
    int32_t error;
    uint32_t looked_at;
    uint64_t count;
    uint64_t last;  // CLOCK_REALTIME, ns
    uint32_t arguments[6];
  };
  static_assert(sizeof(Refusal) == 56);
  struct Reader {
    int fd;
    uint64_t lost;
  };

  void note_refusal(const seccomp_notif& call, int32_t error, unsigned looked_at, uint64_t now);
  void stream(const seccomp_notif& call, const Outcome& outcome, unsigned looked_at, uint64_t now);

  // By number; what is no number of x86-64 is counted behind the others.
  std::array<std::array<uint64_t, kDecisions>, kMaxCalls + 1> counts_{};
  std::vector<Refusal> refusals_;
  // That found no place in the list.
  uint64_t more_refusals_ = 0;
  std::vector<Reader> readers_;
  mutable pthread_mutex_t lock_ = PTHREAD_MUTEX_INITIALIZER;
};

}  // namespace bulkhead::sentry
