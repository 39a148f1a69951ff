// Standard streams of the guest's processes: a pipe each, or a pty, pumped into and out of the
// channel.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "agent/messages.h"
#include "core/mux_stream.h"
#include "core/process.h"

namespace bulkhead::agent {

class StreamTable;

// The channel's side of one process's streams. It outlives the record of its process: descendants
// may go on writing. Owned by the StreamTable.
class StreamSet {
 public:
  StreamSet(StreamTable& table, Poller& poller, MuxLink& link, const uint32_t (&ids)[3],
            bool terminal);

  // A stream of this set has the id, or is to have it.
  bool uses(uint32_t id) const;
  // Takes our ends of the pipes; an invalid one: that stream is /dev/null.
  void open_pipes(UniqueFd in, UniqueFd out, UniqueFd err);
  void open_console(const UniqueFd& master);
  void process_ended();
  // Its ids mean nothing any more: what has no stream yet gets none.
  void session_ended() { pending_ = false; }
  // The process is forgotten: what it left goes on until its end.
  void release();

 private:
  friend class StreamTable;
  static void changed(void* self);
  bool finished() const;

  StreamTable& table_;
  uint32_t ids_[3];
  bool terminal_;
  bool pending_;  // the terminal has not come yet
  bool released_ = false;
  StreamSink in_;
  StreamSource out_;
  StreamSource err_;
  std::unique_ptr<StreamSet> next_;
};

class StreamTable {
 public:
  StreamTable(Poller& poller, MuxLink& link)
      : poller_(poller),
        link_(link),
        sweep_(poller, on_timer<StreamTable, &StreamTable::sweep>, this) {}

  // nullptr: one of the ids is taken, given twice, or too many are open.
  StreamSet* add(const uint32_t (&ids)[3], bool terminal);
  void session_ended();
  void sweep_soon() { sweep_.arm(0); }

 private:
  static constexpr size_t kMostSets = 4096;
  void sweep();

  Poller& poller_;
  MuxLink& link_;
  std::unique_ptr<StreamSet> first_;
  size_t count_ = 0;
  Timer sweep_;
};

// What the process table sees of them.
class GuestStreams final : public ProcessStreams {
 public:
  GuestStreams(StreamTable& table, const ToAgent& launch);
  ~GuestStreams() override;

  Status open() override;
  const std::string& path() const override { return path_; }
  int process_fd(int number) const override { return process_fds_[number].get(); }
  void launched() override;
  void set_console(UniqueFd master) override;
  // The host opens its end late.
  UniqueFd open_late_stdin() override { return {}; }
  int resize(uint32_t width, uint32_t height) override;
  // An EOF of the stream says so.
  void close_stdin() override {}
  void process_ended() override;
  bool draining() const override { return false; }
  bool awaits_reader() const override { return false; }

 private:
  Status make_pipe(int number, UniqueFd& ours);

  StreamTable& table_;
  uint32_t ids_[3];
  bool terminal_;
  std::string path_;
  StreamSet* set_ = nullptr;
  UniqueFd process_fds_[3];
  UniqueFd console_;
  bool resized_ = false;
  uint16_t width_ = 0;
  uint16_t height_ = 0;
};

}  // namespace bulkhead::agent
