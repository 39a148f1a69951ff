// The launcher's side of the sync socket.
#include <sys/socket.h>
#include <sys/uio.h>

#include <cstring>

#include "core/init_codec.h"
#include "core/launch.h"

namespace bulkhead {

Result<InitEvent> read_init_event(int sync_fd, bool nonblocking) {
  uint8_t bytes[kMaxInitMessage];
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  iovec part{bytes, sizeof bytes};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got;
  do {
    got = ::recvmsg(sync_fd, &message, MSG_CMSG_CLOEXEC | (nonblocking ? MSG_DONTWAIT : 0));
  } while (got < 0 && errno == EINTR);
  // A peer that leaves with our answer unread resets the connection: an end like any other.
  if (got < 0 && errno == ECONNRESET) return InitEvent{};
  if (got < 0) return last_error("recvmsg");
  if (got == 0) return InitEvent{};

  UniqueFd received;
  for (cmsghdr* part_header = CMSG_FIRSTHDR(&message); part_header != nullptr;
       part_header = CMSG_NXTHDR(&message, part_header)) {
    if (part_header->cmsg_level != SOL_SOCKET || part_header->cmsg_type != SCM_RIGHTS) continue;
    if (part_header->cmsg_len < CMSG_LEN(sizeof(int))) continue;
    int fd;
    std::memcpy(&fd, CMSG_DATA(part_header), sizeof fd);
    received.reset(fd);
  }
  InitEvent event;
  if ((message.msg_flags & MSG_TRUNC) != 0 ||
      !decode_init_event({bytes, static_cast<size_t>(got)}, event)) {
    return Error{EBADMSG, "recvmsg"};
  }
  if (event.kind == InitEvent::Kind::kConsole) {
    if (!received) return Error{EBADMSG, "recvmsg"};
    event.console = std::move(received);
  }
  return event;
}

namespace {

Status send_with(int sync_fd, std::string bytes, std::span<const int> descriptors) {
  iovec part{bytes.data(), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxToInitDescriptors * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  }
  ssize_t sent;
  do {
    sent = ::sendmsg(sync_fd, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return last_error("send");
  return success();
}

}  // namespace

Status send_to_init(int sync_fd, bool proceed, int stdin_fd) {
  std::span<const int> descriptors;
  if (stdin_fd >= 0) descriptors = {&stdin_fd, 1};
  return send_with(sync_fd, encode_to_init({proceed, 0}), descriptors);
}

Status send_plan_to_init(int sync_fd, int plan_fd, const int (&stdio)[3]) {
  int descriptors[kMaxToInitDescriptors] = {plan_fd};
  size_t count = 1;
  uint32_t streams = 0;
  for (int i = 0; i < 3; i++) {
    if (stdio[i] < 0) continue;
    streams |= 1u << i;
    descriptors[count++] = stdio[i];
  }
  return send_with(sync_fd, encode_to_init({true, streams}), {descriptors, count});
}

}  // namespace bulkhead
