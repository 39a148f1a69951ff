#include "shim/stdio.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "shim/fifo.h"

namespace bulkhead::shim {

namespace {

constexpr uint32_t kLateReaderMs = 10000;
constexpr uint32_t kFirstCheckMs = 2;
constexpr uint32_t kLastCheckMs = 50;
// A terminal is for people: a page each way keeps up with any of them, and bounds what a sleeping
// reader costs.
constexpr size_t kConsoleBuffer = 4096;
// There is no event for a terminal that is opened again, only one that does not end while it is not
// open (EPOLLHUP).
constexpr uint32_t kFirstLookMs = 10;
constexpr uint32_t kLastLookMs = 1000;

// POLLERR: nobody has it open for reading (pipe(7)).
bool has_reader(int writer) {
  pollfd state{writer, POLLOUT, 0};
  ::poll(&state, 1, 0);
  return (state.revents & POLLERR) == 0;
}

bool set_blocking(int fd) {
  int flags = ::fcntl(fd, F_GETFL);
  return flags >= 0 && ::fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) == 0;
}

}  // namespace

void LateReader::wait(UniqueFd keeper) {
  // Opened while the keeper still reads, since O_WRONLY without a reader is ENXIO; then the keeper
  // leaves. From here on a reader, the last writer (the process's descendants and us) and the end
  // of file are what they seem.
  writer_ = reopen(keeper.get(), O_WRONLY | O_NONBLOCK);
  if (!writer_) return;
  fifo_ = reopen(keeper.get(), O_PATH);
  keeper.reset();
  give_up_ms_ = Poller::now_ms() + kLateReaderMs;
  delay_ms_ = kFirstCheckMs;
  check();
}

void LateReader::stop() {
  timer_.cancel();
  writer_.reset();
  fifo_.reset();
}

bool LateReader::waits() const {
  return writer_ && !has_reader(writer_.get());
}

bool LateReader::unread() const {
  if (!fifo_) return false;
  // ENXIO: nobody reads, or nobody any more. A reader that has everything and the end of file does
  // not wake up for a writer that writes nothing.
  UniqueFd writer = reopen(fifo_.get(), O_WRONLY | O_NONBLOCK);
  int bytes = 0;
  return writer && ::ioctl(writer.get(), FIONREAD, &bytes) == 0 && bytes > 0;
}

bool LateReader::undelivered() const {
  int bytes = 0;
  return writer_ ? ::ioctl(writer_.get(), FIONREAD, &bytes) == 0 && bytes > 0 : unread();
}

void LateReader::check() {
  // There is no event for a reader that comes.
  if (writer_) {
    if (has_reader(writer_.get())) {
      writer_.reset();
    } else if (struct stat file{}; ::fstat(writer_.get(), &file) == 0 && file.st_nlink == 0) {
      stop();  // removed: no reader can come any more
      return;
    }
  }
  if ((!writer_ && !unread()) || Poller::now_ms() >= give_up_ms_) {
    stop();
    return;
  }
  timer_.arm(delay_ms_);
  delay_ms_ = delay_ms_ * 2 < kLastCheckMs ? delay_ms_ * 2 : kLastCheckMs;
}

ProcessStdio::ProcessStdio(Poller& poller, const StdioSpec& spec)
    : poller_(poller),
      spec_(spec),
      late_readers_{LateReader(poller), LateReader(poller)},
      deadline_(poller, on_timer<ProcessStdio, &ProcessStdio::give_up>, this),
      look_again_(poller, on_timer<ProcessStdio, &ProcessStdio::look_again>, this) {}

Status ProcessStdio::fail(std::string_view path, const char* op) {
  Error error = last_error(op);
  failed_path_ = path;
  return error;
}

Status ProcessStdio::open() {
  terminal_ = spec_.terminal;
  if (Status status = open_stdin(); !status) return status;
  if (Status status = open_output(1, spec_.out); !status) return status;
  if (terminal_) return success();
  return open_output(2, spec_.err);
}

Status ProcessStdio::open_stdin() {
  if (spec_.in.empty()) return success();
  std::string path(spec_.in);
  if (spec_.stdin_at_gate && !terminal_) {
    late_stdin_.reset(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!late_stdin_) return fail(spec_.in, "open");
    if (is_fifo(late_stdin_.get())) {
      process_fds_[0].reset(::fcntl(late_stdin_.get(), F_DUPFD_CLOEXEC, 3));
      return process_fds_[0] ? success() : fail(spec_.in, "dup");
    }
    late_stdin_.reset();
  }
  // Non-blocking: a fifo without a writer would not open otherwise.
  UniqueFd reader(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  if (!reader) return fail(spec_.in, "open");
  if (is_fifo(reader.get())) {
    stdin_keeper_ = reopen(reader.get(), O_WRONLY | O_NONBLOCK);
    if (!stdin_keeper_) return fail(spec_.in, "open");
  }
  if (terminal_) {
    stdin_reader_ = std::move(reader);
    return success();
  }
  if (!set_blocking(reader.get())) return fail(spec_.in, "fcntl");
  process_fds_[0] = std::move(reader);
  return success();
}

Status ProcessStdio::open_output(int number, std::string_view name) {
  if (name.empty()) return success();
  std::string path(name);
  // ENXIO: a fifo without a reader (fifo(7)).
  UniqueFd writer(::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  reader_seen_[number - 1] = writer.valid();
  int create = spec_.append ? O_CREAT | O_APPEND : 0;
  UniqueFd keeper(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY | create, 0644));
  if (!keeper) return fail(name, "open");
  bool fifo = is_fifo(keeper.get());
  if (!terminal_) {
    UniqueFd& process_fd = process_fds_[number];
    if (fifo && writer && set_blocking(writer.get())) {
      process_fd = std::move(writer);
    } else {
      process_fd = reopen(keeper.get(), O_WRONLY | (fifo ? 0 : O_APPEND));
    }
    if (!process_fd) return fail(name, "open");
  }
  if (fifo || terminal_) output_keepers_[number - 1] = std::move(keeper);
  return success();
}

void ProcessStdio::launched() {
  for (UniqueFd& fd : process_fds_) fd.reset();
}

void ProcessStdio::set_console(UniqueFd master) {
  if (!terminal_ || master_open_) return;
  int flags = ::fcntl(master.get(), F_GETFL);
  ::fcntl(master.get(), F_SETFL, flags | O_NONBLOCK);
  master_open_ = master_.start(poller_, std::move(master), EPOLLIN,
                               on_ready<ProcessStdio, &ProcessStdio::master_ready>, this);
  if (!master_open_) return;
  if (resized_) resize(width_, height_);
  if (output_keepers_[0]) {
    // A plain file cannot be polled and never blocks; stdout_ stays closed and writes go straight
    // to the keeper.
    UniqueFd writer(::fcntl(output_keepers_[0].get(), F_DUPFD_CLOEXEC, 3));
    stdout_.start(poller_, std::move(writer), 0,
                  on_ready<ProcessStdio, &ProcessStdio::stdout_ready>, this);
    if (stdout_.active()) stdout_.mute();
  }
  if (stdin_reader_) {
    stdin_.start(poller_, std::move(stdin_reader_), EPOLLIN,
                 on_ready<ProcessStdio, &ProcessStdio::stdin_ready>, this);
  }
}

int ProcessStdio::resize(uint32_t width, uint32_t height) {
  if (!terminal_) return 0;
  resized_ = true;
  width_ = static_cast<uint16_t>(width < UINT16_MAX ? width : UINT16_MAX);
  height_ = static_cast<uint16_t>(height < UINT16_MAX ? height : UINT16_MAX);
  if (!master_open_) return 0;
  winsize size{};
  size.ws_col = width_;
  size.ws_row = height_;
  return ::ioctl(master_.fd(), TIOCSWINSZ, &size) == 0 ? 0 : errno;
}

// ctr closes stdin by CloseIO only if its input ends after create was answered. A client that could
// write before that would have its end of file lost, so the fifo gets its reader at start.
UniqueFd ProcessStdio::open_late_stdin() {
  UniqueFd path = std::move(late_stdin_);
  if (!path) return {};
  UniqueFd reader = reopen(path.get(), O_RDONLY | O_NONBLOCK);
  if (!reader || !set_blocking(reader.get())) return {};
  if (!stdin_closed_) stdin_keeper_ = reopen(path.get(), O_WRONLY | O_NONBLOCK);
  return reader;
}

void ProcessStdio::close_stdin() {
  stdin_closed_ = true;
  stdin_keeper_.reset();
  // With a terminal the client's end of input says nothing to the program: only the copying stops.
  // What came before is still delivered, which is why the reader goes when it has reached the end
  // of file.
}

void ProcessStdio::process_ended() {
  ended_ = true;
  stdin_keeper_.reset();
  late_stdin_.reset();
  stdin_reader_.reset();
  stdin_.stop();
  to_master_.clear();
  if (master_open_) {
    // Descendants may hold the terminal for as long as they like; their output is not waited for
    // that long.
    deadline_.arm(kLateReaderMs);
    look_again();
    return;
  }
  for (int i = 0; i < 2; i++) {
    if (output_keepers_[i] && is_fifo(output_keepers_[i].get())) {
      late_readers_[i].wait(std::move(output_keepers_[i]));
    }
    output_keepers_[i].reset();
  }
}

// What a terminal said before its process ended is on its way: in the kernel's buffer (poll(2) has
// all of it put there first), in ours, or in the fifo, of whose readers the keeper is one.
bool ProcessStdio::draining_unread() const {
  if (!draining() || !output_keepers_[0]) return false;
  if (!to_stdout_.empty()) return true;
  pollfd state{master_.fd(), POLLIN, 0};
  if (::poll(&state, 1, 0) == 1 && (state.revents & POLLIN) != 0) return true;
  int bytes = 0;
  return is_fifo(output_keepers_[0].get()) &&
         ::ioctl(output_keepers_[0].get(), FIONREAD, &bytes) == 0 && bytes > 0;
}

// Nothing was written, and nothing is read on the client's behalf: only what keeps its ends open
// stays.
bool ProcessStdio::await_next() {
  if (stdin_.active()) stdin_reader_ = stdin_.take();
  stdout_.stop();
  look_again_.cancel();
  master_.stop();
  master_open_ = false;
  return true;
}

// Our own descriptors were taken for a reader's.
void ProcessStdio::follow(const ProcessStreams& earlier) {
  const auto& before = static_cast<const ProcessStdio&>(earlier);
  for (int i = 0; i < 2; i++) reader_seen_[i] = before.reader_seen_[i];
}

void ProcessStdio::update_console() {
  if (master_open_) {
    uint32_t events = to_stdout_.size() < kConsoleBuffer ? static_cast<uint32_t>(EPOLLIN) : 0u;
    if (!to_master_.empty()) events |= EPOLLOUT;
    if (unopened_) events = 0;
    // EPOLLHUP comes unasked and would spin while there is no room.
    if (events == 0) {
      master_.mute();
    } else {
      master_.want(events);
    }
  }
  if (stdout_.active()) {
    if (to_stdout_.empty()) {
      stdout_.mute();
    } else {
      stdout_.want(EPOLLOUT);
    }
  }
  if (stdin_.active()) {
    if (to_master_.size() < kConsoleBuffer) {
      stdin_.want(EPOLLIN);
    } else {
      stdin_.mute();
    }
  }
  if (!master_open_ && to_stdout_.empty()) finish_console();
}

void ProcessStdio::master_ready(uint32_t events) {
  if ((events & EPOLLOUT) != 0) write_master();
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read_master();
  update_console();
}

void ProcessStdio::read_master() {
  if (to_stdout_.size() >= kConsoleBuffer) return;
  ssize_t got = ::read(master_.fd(), to_stdout_.reserve(kConsoleBuffer), kConsoleBuffer);
  if (got > 0) {
    to_stdout_.commit(static_cast<size_t>(got));
    look_delay_ms_ = 0;
  } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
    // EIO: the last descriptor of the slave was closed, and everything written to it has been read.
    if (ended_) {
      master_.stop();
      master_open_ = false;
    } else {
      // Closing the master would hang up on the process (SIGHUP).
      unopened_ = true;
      look_delay_ms_ = std::clamp(look_delay_ms_ * 2, kFirstLookMs, kLastLookMs);
      look_again_.arm(look_delay_ms_);
    }
  }
  write_stdout();
}

void ProcessStdio::look_again() {
  look_again_.cancel();
  unopened_ = false;
  master_ready(EPOLLIN);
}

void ProcessStdio::write_stdout() {
  while (!to_stdout_.empty()) {
    ssize_t written = output_keepers_[0]
                          ? ::write(output_keepers_[0].get(), to_stdout_.data(), to_stdout_.size())
                          : static_cast<ssize_t>(to_stdout_.size());  // nobody wants it
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) return;
    if (written < 0)
      written = static_cast<ssize_t>(to_stdout_.size());  // a full disk: the output is lost
    to_stdout_.consume(static_cast<size_t>(written));
  }
  to_stdout_.clear();
}

void ProcessStdio::stdout_ready(uint32_t) {
  write_stdout();
  update_console();
}

void ProcessStdio::stdin_ready(uint32_t) {
  ssize_t got = ::read(stdin_.fd(), to_master_.reserve(kConsoleBuffer), kConsoleBuffer);
  if (got > 0) {
    to_master_.commit(static_cast<size_t>(got));
    write_master();
  } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
    stdin_.stop();
  }
  if (to_master_.empty()) to_master_.clear();
  update_console();
}

void ProcessStdio::write_master() {
  while (!to_master_.empty() && master_open_) {
    ssize_t written = ::write(master_.fd(), to_master_.data(), to_master_.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) return;
    if (written < 0)
      written = static_cast<ssize_t>(to_master_.size());  // EIO: nobody reads the terminal
    to_master_.consume(static_cast<size_t>(written));
  }
}

// Nothing is to come from the terminal any more, and everything is with the reader.
void ProcessStdio::finish_console() {
  stdout_.stop();
  stdin_.stop();
  if (output_keepers_[0] && is_fifo(output_keepers_[0].get()))
    late_readers_[0].wait(std::move(output_keepers_[0]));
  output_keepers_[0].reset();
  if (ended_) deadline_.cancel();
}

void ProcessStdio::give_up() {
  master_.stop();
  master_open_ = false;
  to_stdout_.clear();
  finish_console();
}

}  // namespace bulkhead::shim
