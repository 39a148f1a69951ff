#include "shim/guest_stdio.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <utility>

#include "shim/fifo.h"

namespace bulkhead::shim {

GuestStdio::GuestStdio(Poller& poller, MuxLink& link, StreamOwner owner)
    : owner_(owner),
      stdin_(poller, link, {}),
      outputs_{{poller, link, {output_changed, this}}, {poller, link, {output_changed, this}}},
      late_readers_{LateReader(poller), LateReader(poller)} {}

Status GuestStdio::fail(std::string_view path, const char* op) {
  Error error = last_error(op);
  failed_path_ = path;
  return error;
}

Status GuestStdio::open(const StdioSpec& spec) {
  terminal_ = spec.terminal;
  if (Status status = open_stdin(spec.in, spec.stdin_at_gate && !terminal_); !status) return status;
  if (Status status = open_output(0, spec.out, spec.append); !status) return status;
  return terminal_ ? success() : open_output(1, spec.err, spec.append);
}

Status GuestStdio::open_stdin(std::string_view name, bool at_gate) {
  if (name.empty()) return success();
  std::string path(name);
  has_stdin_ = true;
  if (at_gate) {
    late_stdin_.reset(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!late_stdin_) return fail(name, "open");
    if (is_fifo(late_stdin_.get())) return success();
    late_stdin_.reset();
  }
  // Non-blocking: a fifo without a writer would not open otherwise.
  UniqueFd reader(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  if (!reader) return fail(name, "open");
  if (is_fifo(reader.get())) {
    stdin_keeper_ = reopen(reader.get(), O_WRONLY | O_NONBLOCK);
    if (!stdin_keeper_) return fail(name, "open");
  }
  stdin_.open(std::move(reader), terminal_);
  return success();
}

Status GuestStdio::open_output(int index, std::string_view name, bool append) {
  if (name.empty()) return success();
  std::string path(name);
  // ENXIO: a fifo without a reader (fifo(7)).
  UniqueFd reader_is_there(::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  int create = append ? O_CREAT | O_APPEND : 0;
  UniqueFd keeper(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY | create, 0644));
  if (!keeper) return fail(name, "open");
  if (is_fifo(keeper.get())) {
    readerless_[index] = !reader_is_there;
  } else {
    keeper = reopen(keeper.get(), O_WRONLY | O_NONBLOCK | O_APPEND);
    if (!keeper) return fail(name, "open");
  }
  outputs_[index].open(std::move(keeper));
  has_output_[index] = true;
  return success();
}

void GuestStdio::attach(uint32_t& next, GuestLaunch& launch) {
  launch.terminal = terminal_;
  if (has_stdin_) {
    stdin_.attach(launch.stdio[0] = next++);
  }
  for (int i = 0; i < kOutputs; i++) {
    if (has_output_[i]) outputs_[i].attach(launch.stdio[1 + i] = next++);
  }
}

void GuestStdio::begin_stdin(bool at_gate) {
  if (late_stdin_ && !at_gate) return;
  if (late_stdin_) {
    UniqueFd path = std::move(late_stdin_);
    UniqueFd reader = reopen(path.get(), O_RDONLY | O_NONBLOCK);
    if (!reader) {
      stdin_.close();
      return;
    }
    // Also where it goes at once: poll(2) tells no end of a fifo that nobody has written to yet.
    stdin_keeper_ = reopen(path.get(), O_WRONLY | O_NONBLOCK);
    if (stdin_closed_) stdin_keeper_.reset();
    stdin_.open(std::move(reader));
  }
  stdin_.begin();
}

void GuestStdio::close_stdin() {
  stdin_closed_ = true;
  // The end of file comes once the client has gone too, and what it wrote was read.
  stdin_keeper_.reset();
}

void GuestStdio::process_ended() {
  ended_ = true;
  stdin_keeper_.reset();
  late_stdin_.reset();
  stdin_.close();
  release_outputs();
}

void GuestStdio::output_changed(void* self) {
  auto* stdio = static_cast<GuestStdio*>(self);
  if (stdio->ended_) stdio->release_outputs();
  stdio->owner_.changed(stdio->owner_.owner);
}

// An output that has come to its end closes, but not before somebody has had a chance to read it.
void GuestStdio::release_outputs() {
  for (int i = 0; i < kOutputs; i++) {
    if (!has_output_[i] || !outputs_[i].done()) continue;
    UniqueFd keeper = outputs_[i].close();
    if (keeper && is_fifo(keeper.get())) late_readers_[i].wait(std::move(keeper));
  }
}

bool GuestStdio::settled() const {
  for (int i = 0; i < kOutputs; i++) {
    if (has_output_[i] && !outputs_[i].settled()) return false;
  }
  return true;
}

uint64_t GuestStdio::written() const {
  return outputs_[0].written() + outputs_[1].written();
}

bool GuestStdio::draining() const {
  for (int i = 0; i < kOutputs; i++) {
    if (has_output_[i] && !outputs_[i].done()) return true;
  }
  return false;
}

// What descendants hold open and have not written to is not waited for.
bool GuestStdio::awaits_reader() const {
  if (!ended_) return false;
  for (int i = 0; i < kOutputs; i++) {
    if (has_output_[i] && (late(i) || unread(i))) return true;
  }
  return false;
}

bool GuestStdio::undelivered() const {
  for (int i = 0; i < kOutputs; i++) {
    if (!has_output_[i]) continue;
    if (unread(i) || (readerless_[i] && late_readers_[i].undelivered())) return true;
  }
  return false;
}

// Nobody has ever opened it for reading.
bool GuestStdio::late(int index) const {
  return readerless_[index] && late_readers_[index].waits();
}

// On its way into the fifo, or in there. Who reads the fifo beside the keeper cannot be told: a
// reader that left is waited for like one that is slow, until the stream is done.
bool GuestStdio::unread(int index) const {
  const StreamSink& output = outputs_[index];
  if (!output.settled() || late_readers_[index].unread()) return true;
  int bytes = 0;
  return !output.done() && output.fd() >= 0 && is_fifo(output.fd()) &&
         ::ioctl(output.fd(), FIONREAD, &bytes) == 0 && bytes > 0;
}

}  // namespace bulkhead::shim
