#include "core/slow_close.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

namespace bulkhead {

namespace {

constexpr size_t kStack = 64 << 10;

struct Closing {
  UniqueFd fd;
  UniqueFd another;
  UniqueFd done;
};

void* close_and_tell(void* argument) {
  auto* closing = static_cast<Closing*>(argument);
  closing->fd.reset();
  closing->another.reset();
  const uint64_t one = 1;
  // Cannot fail: the counter is 0.
  (void)!::write(closing->done.get(), &one, sizeof one);
  delete closing;
  return nullptr;
}

int start_detached(Closing* closing) {
  pthread_attr_t attributes;
  if (int err = ::pthread_attr_init(&attributes); err != 0) return err;
  ::pthread_attr_setstacksize(&attributes, kStack);
  ::pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  int err = ::pthread_create(&thread, &attributes, close_and_tell, closing);
  ::pthread_attr_destroy(&attributes);
  return err;
}

}  // namespace

Result<UniqueFd> close_elsewhere(UniqueFd fd, UniqueFd another) {
  UniqueFd done(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!done) return last_error("eventfd");
  UniqueFd told(::fcntl(done.get(), F_DUPFD_CLOEXEC, 0));
  if (!told) return last_error("fcntl");
  auto* closing = new Closing{std::move(fd), std::move(another), std::move(told)};
  if (int err = start_detached(closing); err != 0) {
    delete closing;
    return Error{err, "pthread_create"};
  }
  return done;
}

}  // namespace bulkhead
