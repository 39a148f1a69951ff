#include "init/context.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "core/init_codec.h"

namespace bulkhead {

Slot& Context::slot(SlotId id) {
  if (slots.size() <= id.value) slots.resize(id.value + 1);
  return slots[id.value];
}

void await_outer(Context& context) {
  if (!context.go) return;
  char byte;
  ssize_t got;
  do {
    got = ::read(context.go.get(), &byte, 1);
  } while (got < 0 && errno == EINTR);
  if (got != 1) ::_exit(1);
  context.go.reset();
}

void report(Context& context, std::string_view message, int fd) {
  await_outer(context);
  if (context.filtered && fd < 0) {
    // Any filter lets write(2) through; few people think of sendmsg(2).
    (void)!::write(context.sync.get(), message.data(), message.size());
    return;
  }
  iovec part{const_cast<char*>(message.data()), message.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  }
  // A launcher that is gone (bulkhead create has returned) does not stop the container: nobody to
  // tell.
  while (::sendmsg(context.sync.get(), &header, MSG_NOSIGNAL) < 0 && errno == EINTR) {
  }
}

void die_with_launcher(const Context& context) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // It may have ended before the call; then its end of the socket is closed.
  pollfd launcher{context.sync.get(), 0, 0};
  if (::poll(&launcher, 1, 0) == 1 && (launcher.revents & POLLHUP) != 0) ::_exit(1);
}

void outlive_launcher(const Context& context) {
  if (!context.death_signal_set) ::prctl(PR_SET_PDEATHSIG, 0);
}

void report_warning(Context& context, int err, std::string_view path) {
  StepFailure warning;
  warning.index = context.index;
  warning.action = context.action;
  warning.path = path;
  warning.err = err;
  report(context, encode_warning(warning));
}

ToInit await_answer(int sync, std::span<UniqueFd> received) {
  uint8_t bytes[64];
  iovec part{bytes, sizeof bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxToInitDescriptors * sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(received.size() * sizeof(int));
  ssize_t got;
  do {
    got = ::recvmsg(sync, &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  const cmsghdr* header = got > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS) {
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count && i < received.size(); i++) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
      received[i].reset(fd);
    }
  }
  ToInit answer;
  if (got <= 0 || !decode_to_init({bytes, static_cast<size_t>(got)}, answer) || !answer.proceed)
    ::_exit(0);
  return answer;
}

void await_proceed(Context& context) {
  UniqueFd in;
  (void)await_answer(context.sync.get(), {&in, 1});
  if (in && ::dup2(in.get(), STDIN_FILENO) < 0) ::_exit(1);
}

}  // namespace bulkhead
