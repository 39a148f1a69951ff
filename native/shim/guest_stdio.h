// Standard streams of a process in a guest: containerd's fifos on this side, streams of the channel
// to the agent. As with a process of the host, the monitor holds the fifos of stdout and stderr
// O_RDWR, so that a reader may go and come back, and a writer of stdin, so that a client that
// detaches is no end of file. With a terminal the pty is in the guest: bytes travel as they are.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/fd.h"
#include "core/mux_stream.h"
#include "core/poller.h"
#include "core/result.h"
#include "shim/guest_messages.h"
#include "shim/messages.h"
#include "shim/stdio.h"

namespace bulkhead::shim {

class GuestStdio {
 public:
  // `owner` is told when settled() or draining() may have changed.
  GuestStdio(Poller& poller, MuxLink& link, StreamOwner owner);

  // Opens what the spec names. On error path() is the object.
  Status open(const StdioSpec& spec);
  const std::string& path() const { return failed_path_; }
  bool terminal() const { return terminal_; }
  // Takes streams from `next` on and tells `launch` of them.
  void attach(uint32_t& next, GuestLaunch& launch);
  // Input flows from now on; with stdin_at_gate it is opened only when `at_gate`.
  void begin_stdin(bool at_gate);
  void close_stdin();
  // What the process wrote is still delivered.
  void process_ended();
  // Everything that it wrote is in the fifos.
  bool settled() const;
  // Bytes delivered so far.
  uint64_t written() const;
  // Output is still to come, from descendants or because its reader is slow.
  bool draining() const;
  // The process has ended, and what it wrote waits for a reader that has never been there, or one
  // that has not read all of it.
  bool awaits_reader() const;
  // The process has ended, and what it wrote has not been read, or not all of it. Who was there and
  // left is not waited for.
  bool undelivered() const;

 private:
  static constexpr int kOutputs = 2;

  Status open_stdin(std::string_view path, bool at_gate);
  Status open_output(int index, std::string_view path, bool append);
  Status fail(std::string_view path, const char* op);
  static void output_changed(void* self);
  void release_outputs();
  bool late(int index) const;
  bool unread(int index) const;

  StreamOwner owner_;
  std::string failed_path_;
  bool terminal_ = false;
  bool has_stdin_ = false;
  bool has_output_[kOutputs] = {false, false};
  bool stdin_closed_ = false;
  bool ended_ = false;
  UniqueFd stdin_keeper_;
  UniqueFd late_stdin_;  // an O_PATH descriptor of the fifo until the gate opens
  StreamSource stdin_;
  StreamSink outputs_[kOutputs];
  LateReader late_readers_[kOutputs];
  // A fifo that nobody had open for reading when it was opened here.
  bool readerless_[kOutputs] = {false, false};
};

}  // namespace bulkhead::shim
