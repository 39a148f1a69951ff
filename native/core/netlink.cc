#include "core/netlink.h"

#include <linux/rtnetlink.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>

namespace bulkhead {

namespace {

// The kernel fills a dump's datagrams up to 32 KiB; one link with many virtual functions may be
// larger.
constexpr size_t kBuffer = 256u << 10;
// The kernel answers in the sender's context; only a bug would make this wait.
constexpr timeval kAnswerLimit{10, 0};

constexpr size_t align4(size_t size) {
  return (size + 3) & ~size_t{3};
}

}  // namespace

NetlinkRequest::NetlinkRequest(uint16_t type, uint16_t flags, const void* fixed, size_t size) {
  nlmsghdr header{};
  header.nlmsg_type = type;
  header.nlmsg_flags = static_cast<uint16_t>(flags | NLM_F_REQUEST);
  append(&header, sizeof(header));
  append(fixed, size);
  pad();
}

void NetlinkRequest::append(const void* data, size_t size) {
  const size_t start = bytes_.size();
  bytes_.resize(start + size);
  if (size != 0) ::memcpy(bytes_.data() + start, data, size);
}

void NetlinkRequest::pad() {
  bytes_.resize(align4(bytes_.size()));
}

void NetlinkRequest::put(uint16_t type, std::span<const uint8_t> data) {
  const nlattr header{static_cast<uint16_t>(NLA_HDRLEN + data.size()), type};
  append(&header, sizeof(header));
  append(data.data(), data.size());
  pad();
}

void NetlinkRequest::put_string(uint16_t type, std::string_view text) {
  std::string terminated(text);
  put(type, {reinterpret_cast<const uint8_t*>(terminated.c_str()), terminated.size() + 1});
}

size_t NetlinkRequest::begin(uint16_t type) {
  const size_t start = bytes_.size();
  put(static_cast<uint16_t>(type | NLA_F_NESTED), {});
  return start;
}

void NetlinkRequest::end(size_t start) {
  const auto size = static_cast<uint16_t>(bytes_.size() - start);
  ::memcpy(bytes_.data() + start, &size, sizeof(size));
}

std::span<const uint8_t> NetlinkRequest::finish(uint32_t sequence, uint16_t more_flags) {
  nlmsghdr header;
  ::memcpy(&header, bytes_.data(), sizeof(header));
  header.nlmsg_len = static_cast<uint32_t>(bytes_.size());
  header.nlmsg_flags = static_cast<uint16_t>(header.nlmsg_flags | more_flags);
  header.nlmsg_seq = sequence;
  ::memcpy(bytes_.data(), &header, sizeof(header));
  return bytes_;
}

std::string NetlinkAttribute::text() const {
  const auto end = std::find(data.begin(), data.end(), uint8_t{0});
  return std::string(data.begin(), end);
}

bool NetlinkAttributes::next(NetlinkAttribute& out) {
  nlattr header;
  if (rest_.size() < sizeof(header)) return false;
  ::memcpy(&header, rest_.data(), sizeof(header));
  if (header.nla_len < sizeof(header) || header.nla_len > rest_.size()) {
    rest_ = {};
    return false;
  }
  out.type = header.nla_type & NLA_TYPE_MASK;
  out.data = rest_.subspan(sizeof(header), header.nla_len - sizeof(header));
  rest_ = rest_.subspan(std::min(align4(header.nla_len), rest_.size()));
  return true;
}

bool netlink_next(std::span<const uint8_t>& datagram, NetlinkMessage& out) {
  nlmsghdr header;
  if (datagram.size() < sizeof(header)) return false;
  ::memcpy(&header, datagram.data(), sizeof(header));
  if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > datagram.size()) return false;
  out.type = header.nlmsg_type;
  out.flags = header.nlmsg_flags;
  out.sequence = header.nlmsg_seq;
  out.body = datagram.subspan(sizeof(header), header.nlmsg_len - sizeof(header));
  datagram = datagram.subspan(std::min(align4(header.nlmsg_len), datagram.size()));
  return true;
}

Result<NetlinkSocket> NetlinkSocket::open(uint32_t groups) {
  NetlinkSocket made;
  made.fd_.reset(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!made.fd_) return last_error("socket");
  // Both only make answers better and shorter; old kernels lack them.
  const int on = 1;
  ::setsockopt(made.fd_.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
  ::setsockopt(made.fd_.get(), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
  ::setsockopt(made.fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerLimit, sizeof(kAnswerLimit));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = groups;
  if (::bind(made.fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return last_error("bind");
  }
  return made;
}

Status NetlinkSocket::send(NetlinkRequest& request, uint16_t flags) {
  reason_.clear();
  const std::span<const uint8_t> bytes = request.finish(++sequence_, flags);
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  if (::sendto(fd_.get(), bytes.data(), bytes.size(), 0, reinterpret_cast<const sockaddr*>(&kernel),
               sizeof(kernel)) < 0) {
    return last_error("sendto");
  }
  return success();
}

Result<std::span<const uint8_t>> NetlinkSocket::receive() {
  buffer_.resize(kBuffer);
  for (;;) {
    sockaddr_nl from{};
    socklen_t from_size = sizeof(from);
    const ssize_t size = ::recvfrom(fd_.get(), buffer_.data(), buffer_.size(), MSG_TRUNC,
                                    reinterpret_cast<sockaddr*>(&from), &from_size);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return Error{errno == EAGAIN ? ETIMEDOUT : errno, "recvfrom"};
    // Any process may send to a netlink socket; only port 0 is the kernel.
    if (from.nl_pid != 0) continue;
    if (static_cast<size_t>(size) > buffer_.size()) return Error{EMSGSIZE, "recvfrom"};
    return std::span<const uint8_t>(buffer_.data(), static_cast<size_t>(size));
  }
}

int NetlinkSocket::acknowledged(const NetlinkMessage& message) {
  nlmsgerr error;
  if (message.body.size() < sizeof(error)) return EBADMSG;
  ::memcpy(&error, message.body.data(), sizeof(error));
  // NETLINK_CAP_ACK: of the request only the header comes back; then attributes, when flagged.
  if (error.error != 0 && (message.flags & NLM_F_ACK_TLVS) != 0) {
    size_t skip = sizeof(error);
    if ((message.flags & NLM_F_CAPPED) == 0 && error.msg.nlmsg_len >= sizeof(nlmsghdr)) {
      skip += align4(error.msg.nlmsg_len) - sizeof(nlmsghdr);
    }
    NetlinkAttributes attributes(skip <= message.body.size() ? message.body.subspan(skip)
                                                             : std::span<const uint8_t>{});
    for (NetlinkAttribute attribute; attributes.next(attribute);) {
      if (attribute.type == NLMSGERR_ATTR_MSG) reason_ = attribute.text();
    }
  }
  return -error.error;
}

Status NetlinkSocket::request(NetlinkRequest& request) {
  if (Status sent = send(request, NLM_F_ACK); !sent) return sent;
  for (;;) {
    Result<std::span<const uint8_t>> datagram = receive();
    if (!datagram) return datagram.error();
    std::span<const uint8_t> rest = *datagram;
    for (NetlinkMessage message; netlink_next(rest, message);) {
      if (message.sequence != sequence_ || message.type != NLMSG_ERROR) continue;
      const int code = acknowledged(message);
      return code == 0 ? success() : Status(Error{code, "rtnetlink"});
    }
  }
}

Status NetlinkSocket::dump(NetlinkRequest& request,
                           const std::function<void(const NetlinkMessage&)>& on_message) {
  if (Status sent = send(request, NLM_F_DUMP); !sent) return sent;
  bool torn = false;
  for (;;) {
    Result<std::span<const uint8_t>> datagram = receive();
    if (!datagram) return datagram.error();
    std::span<const uint8_t> rest = *datagram;
    for (NetlinkMessage message; netlink_next(rest, message);) {
      if (message.sequence != sequence_) continue;
      torn = torn || (message.flags & NLM_F_DUMP_INTR) != 0;
      if (message.type == NLMSG_DONE) return torn ? Status(Error{EINTR, "dump"}) : success();
      if (message.type == NLMSG_ERROR) return Error{acknowledged(message), "rtnetlink"};
      on_message(message);
    }
  }
}

bool NetlinkSocket::wait(int timeout_ms) {
  pollfd ready{fd_.get(), POLLIN, 0};
  if (::poll(&ready, 1, timeout_ms) <= 0) return false;
  return receive().ok();
}

}  // namespace bulkhead
