#include "agent/oom_watch.h"

#include <fcntl.h>
#include <stdlib.h>

#include <utility>

#include "agent/text_file.h"

namespace bulkhead::agent {

namespace {

// oom_kill of memory.events; reading is also what arms the next EPOLLPRI. False: the cgroup has
// gone.
bool read_oom_kill(int fd, uint64_t& oom_kill) {
  auto text = read_text(fd, 64u << 10);
  if (!text) return false;
  constexpr std::string_view kKey = "\noom_kill ";
  const std::string lines = "\n" + text.value();
  const size_t at = lines.find(kKey);
  oom_kill =
      at == std::string::npos ? 0 : ::strtoull(lines.c_str() + at + kKey.size(), nullptr, 10);
  return true;
}

}  // namespace

// Not every kernel tells when a cgroup is removed, and one of the same name may be there since.
void OomWatches::drop_removed() {
  for (One* one = first_.get(); one != nullptr; one = one->next.get()) {
    uint64_t oom_kill = 0;
    one->gone = one->gone || !read_oom_kill(one->watch.fd(), oom_kill);
    if (!one->gone) tell(*one, oom_kill);
  }
  sweep();
}

int OomWatches::add(const std::string& cgroup) {
  drop_removed();
  for (const One* one = first_.get(); one != nullptr; one = one->next.get()) {
    if (one->cgroup == cgroup && !one->gone) return 0;
  }
  if (count_ >= kMost) return ENOSPC;
  auto fd = open_plain(cgroup + "/memory.events", O_RDONLY);
  if (!fd) return fd.error().code;
  auto one = std::make_unique<One>();
  one->all = this;
  one->cgroup = cgroup;
  if (!read_oom_kill(fd->get(), one->seen)) return ENODEV;
  if (!one->watch.start(poller_, std::move(fd.value()), EPOLLPRI, changed, one.get())) return errno;
  one->next = std::move(first_);
  first_ = std::move(one);
  count_++;
  return 0;
}

void OomWatches::look() {
  for (One* one = first_.get(); one != nullptr; one = one->next.get()) {
    if (!one->gone) changed(one, 0);
  }
}

void OomWatches::changed(void* data, uint32_t) {
  One& one = *static_cast<One*>(data);
  uint64_t oom_kill = 0;
  if (!read_oom_kill(one.watch.fd(), oom_kill)) {
    one.gone = true;
    one.watch.mute();
    one.all->sweep_.arm(0);
    return;
  }
  one.all->tell(one, oom_kill);
}

void OomWatches::tell(One& one, uint64_t oom_kill) {
  if (oom_kill <= one.seen) return;
  one.seen = oom_kill;
  killed_(owner_, one.cgroup, oom_kill);
}

void OomWatches::sweep() {
  for (std::unique_ptr<One>* link = &first_; *link;) {
    if (!(*link)->gone) {
      link = &(*link)->next;
      continue;
    }
    std::unique_ptr<One> next = std::move((*link)->next);
    *link = std::move(next);
    count_--;
  }
}

void OomWatches::clear() {
  for (One* one = first_.get(); one != nullptr; one = one->next.get()) one->gone = true;
  sweep();
}

}  // namespace bulkhead::agent
