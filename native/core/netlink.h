// Requests to rtnetlink(7): encoding, decoding within bounds, acknowledgements and dumps.
#pragma once

#include <linux/netlink.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/fd.h"
#include "core/result.h"

namespace bulkhead {

// One message: header, the type's fixed part, attributes.
class NetlinkRequest {
 public:
  // `fixed`: struct ifinfomsg, ifaddrmsg, rtmsg, ndmsg or tcmsg. NLM_F_REQUEST is always set.
  template <class T>
  NetlinkRequest(uint16_t type, uint16_t flags, const T& fixed)
      : NetlinkRequest(type, flags, &fixed, sizeof(fixed)) {}

  void put(uint16_t type, std::span<const uint8_t> data);
  void put_string(uint16_t type, std::string_view text);  // with its NUL
  void put_u8(uint16_t type, uint8_t value) { put_value(type, value); }
  void put_u32(uint16_t type, uint32_t value) { put_value(type, value); }
  template <class T>
  void put_value(uint16_t type, const T& value) {
    put(type, {reinterpret_cast<const uint8_t*>(&value), sizeof(value)});
  }
  // Attributes put between begin and end(begin's answer) are nested in `type`.
  size_t begin(uint16_t type);
  // The same for an attribute that starts with a fixed part.
  template <class T>
  size_t begin(uint16_t type, const T& fixed) {
    const size_t start = bytes_.size();
    put_value(static_cast<uint16_t>(type | NLA_F_NESTED), fixed);
    return start;
  }
  void end(size_t start);

  // The bytes to send, valid until the next call.
  std::span<const uint8_t> finish(uint32_t sequence, uint16_t more_flags);

 private:
  NetlinkRequest(uint16_t type, uint16_t flags, const void* fixed, size_t size);
  void append(const void* data, size_t size);
  void pad();

  std::vector<uint8_t> bytes_;
};

struct NetlinkAttribute {
  uint16_t type = 0;  // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
  std::span<const uint8_t> data;

  // Absent when the attribute has another size.
  template <class T>
  std::optional<T> as() const {
    if (data.size() != sizeof(T)) return std::nullopt;
    T value;
    __builtin_memcpy(&value, data.data(), sizeof(T));
    return value;
  }
  std::string text() const;  // up to the first NUL
};

// Walks the attributes in a piece of a message. Ends at the first that does not fit.
class NetlinkAttributes {
 public:
  explicit NetlinkAttributes(std::span<const uint8_t> bytes) : rest_(bytes) {}
  bool next(NetlinkAttribute& out);

 private:
  std::span<const uint8_t> rest_;
};

// The fixed part of a message body, and what follows it. False: the body is too short.
template <class T>
bool netlink_split(std::span<const uint8_t> body, T& fixed, std::span<const uint8_t>& attributes) {
  if (body.size() < sizeof(T)) return false;
  __builtin_memcpy(&fixed, body.data(), sizeof(T));
  const size_t aligned = NLMSG_ALIGN(sizeof(T));
  attributes = aligned >= body.size() ? std::span<const uint8_t>{} : body.subspan(aligned);
  return true;
}

struct NetlinkMessage {
  uint16_t type = 0;
  uint16_t flags = 0;
  uint32_t sequence = 0;
  std::span<const uint8_t> body;
};
// Takes the first message off a datagram. False: none is left, or it does not fit.
bool netlink_next(std::span<const uint8_t>& datagram, NetlinkMessage& out);

// A socket in the network namespace of the thread that opened it, wherever it is used later.
class NetlinkSocket {
 public:
  // `groups`: RTMGRP_* to hear from (0: none).
  static Result<NetlinkSocket> open(uint32_t groups = 0);

  // Sends and waits for the acknowledgement.
  Status request(NetlinkRequest& request);
  // Sends with NLM_F_DUMP; `on_message` gets each answer. Error EINTR: the table changed meanwhile,
  // what came may be torn.
  Status dump(NetlinkRequest& request,
              const std::function<void(const NetlinkMessage&)>& on_message);
  // One datagram of notifications, within `timeout_ms`; false: none came, or some were lost
  // (ENOBUFS), and the caller has to look again anyway.
  bool wait(int timeout_ms);

  int fd() const { return fd_.get(); }
  // What the kernel said of the last refused request (extended acknowledgement), often empty.
  const std::string& reason() const { return reason_; }

 private:
  Status send(NetlinkRequest& request, uint16_t flags);
  // One datagram of the kernel into buffer_.
  Result<std::span<const uint8_t>> receive();
  // 0 or the errno in NLMSG_ERROR.
  int acknowledged(const NetlinkMessage& message);

  UniqueFd fd_;
  uint32_t sequence_ = 0;
  std::vector<uint8_t> buffer_;
  std::string reason_;
};

}  // namespace bulkhead
