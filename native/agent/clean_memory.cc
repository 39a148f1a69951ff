// Free memory becomes zeros: what a template's copies need not carry.
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "agent/guest_calls.h"
#include "agent/text_file.h"

namespace bulkhead::agent {

namespace {

// Left free: the kernel keeps some itself, and another process may need a little meanwhile.
constexpr uint64_t kLeave = 8u << 20;
constexpr size_t kPiece = 1u << 20;

uint64_t free_bytes() {
  struct sysinfo info {};
  if (::sysinfo(&info) < 0) return 0;
  return uint64_t{info.freeram} * info.mem_unit;
}

}  // namespace

// The kernel clears what it hands to a process, and does not touch what it gets back. Runs in a
// worker: its end frees it all.
CallReply clean_memory(const CleanMemory&) {
  // Were memory to run out all the same, this process is the one to go.
  (void)write_text("/proc/self/oom_score_adj", "1000").ok();
  ::sync();
  if (Status dropped = write_text("/proc/sys/vm/drop_caches", "3"); !dropped)
    return CallReply::failed("write", "/proc/sys/vm/drop_caches", dropped.error().code);
  CallReply reply;
  while (free_bytes() > kLeave + kPiece) {
    void* piece = ::mmap(nullptr, kPiece, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (piece == MAP_FAILED) break;
    reply.amount += kPiece;
  }
  return reply;
}

}  // namespace bulkhead::agent
