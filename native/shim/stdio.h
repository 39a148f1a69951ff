// A process's standard streams (docs/decisions/004-stdio-without-copying.md).
//
// Without a terminal the process gets descriptors of containerd's fifos themselves; the monitor
// only keeps them alive: it holds stdout and stderr O_RDWR, so that a reader that goes away is no
// SIGPIPE and one that comes back finds everything, and a writer of stdin, so that a client that
// detaches is no end of file. With a terminal the monitor copies between the pty's master and the
// fifos.
#pragma once

#include <cstdint>
#include <string>

#include "core/bytes.h"
#include "core/fd.h"
#include "core/poller.h"
#include "core/process.h"
#include "core/result.h"
#include "shim/messages.h"

namespace bulkhead::shim {

// One of stdout and stderr after its process ended: held until somebody has opened the fifo for
// reading, so that the output of a container that is faster than its client is not lost. Who has
// opened it may not have read from it yet, which is looked after for as long, but without holding
// it: an end of file comes when the last writer goes. At most 10 s.
class LateReader {
 public:
  explicit LateReader(Poller& poller)
      : timer_(poller, on_timer<LateReader, &LateReader::check>, this) {}
  // `keeper` is a fifo opened O_RDWR. Returns at once when it has a reader.
  void wait(UniqueFd keeper);
  void stop();
  // No reader has come, now that it is asked.
  bool waits() const;
  // There is a reader, and something that it has not read.
  bool unread() const;
  // The same, also when no reader has come yet.
  bool undelivered() const;

 private:
  void check();

  Timer timer_;
  UniqueFd writer_;
  // O_PATH: neither a reader nor a writer.
  UniqueFd fifo_;
  uint64_t give_up_ms_ = 0;
  uint32_t delay_ms_ = 0;
};

class ProcessStdio final : public ProcessStreams {
 public:
  // What `spec` views has to live until open() returns.
  ProcessStdio(Poller& poller, const StdioSpec& spec);
  ProcessStdio(const ProcessStdio&) = delete;
  ProcessStdio& operator=(const ProcessStdio&) = delete;

  Status open() override;
  const std::string& path() const override { return failed_path_; }
  int process_fd(int number) const override { return process_fds_[number].get(); }
  void launched() override;
  void set_console(UniqueFd master) override;
  void close_stdin() override;
  // stdin_at_gate: opens stdin now that its reader is to start.
  UniqueFd open_late_stdin() override;
  int resize(uint32_t width, uint32_t height) override;
  void process_ended() override;
  // Output of a terminal, at most 10 s after the process ended.
  bool draining() const override {
    return terminal_ && ended_ && (master_open_ || !to_stdout_.empty());
  }
  bool awaits_reader() const override { return late(0) || late(1) || draining_unread(); }
  bool undelivered() const override {
    return undelivered(0) || undelivered(1) || draining_unread();
  }
  bool await_next() override;
  void follow(const ProcessStreams& earlier) override;

 private:
  bool late(int index) const {
    const LateReader& reader = late_readers_[index];
    return (reader.waits() && !reader_seen_[index]) || reader.unread();
  }
  // Who has read before and left is not waited for.
  bool undelivered(int index) const {
    const LateReader& reader = late_readers_[index];
    return reader_seen_[index] ? reader.unread() : reader.undelivered();
  }
  bool draining_unread() const;
  Status open_stdin();
  Status open_output(int number, std::string_view path);
  Status fail(std::string_view path, const char* op);
  void master_ready(uint32_t events);
  void stdin_ready(uint32_t events);
  void stdout_ready(uint32_t events);
  void read_master();
  void write_stdout();
  void write_master();
  void update_console();
  void finish_console();
  void look_again();
  void give_up();

  Poller& poller_;
  StdioSpec spec_;
  std::string failed_path_;
  UniqueFd process_fds_[3];
  UniqueFd stdin_keeper_;
  // An O_PATH descriptor of the fifo until the gate opens.
  UniqueFd late_stdin_;
  bool stdin_closed_ = false;
  UniqueFd output_keepers_[2];
  LateReader late_readers_[2];
  // Somebody had the fifo open for reading when it was opened here: who left may come back, but is
  // not waited for.
  bool reader_seen_[2] = {};

  // Terminal
  bool terminal_ = false;
  bool master_open_ = false;
  bool ended_ = false;
  // The process lives and has closed its terminal, which it may open again.
  bool unopened_ = false;
  uint32_t look_delay_ms_ = 0;
  bool resized_ = false;
  uint16_t width_ = 0;
  uint16_t height_ = 0;
  UniqueFd stdin_reader_;
  Watch master_;
  Watch stdin_;
  Watch stdout_;
  Timer deadline_;
  Timer look_again_;
  ByteQueue to_stdout_;
  ByteQueue to_master_;
};

}  // namespace bulkhead::shim
