#include "agent/streams.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace bulkhead::agent {

namespace {

constexpr int kPipeSize = 256 << 10;

UniqueFd duplicate(const UniqueFd& fd) {
  return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
}

void set_nonblocking(int fd) {
  ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
}

}  // namespace

StreamSet::StreamSet(StreamTable& table, Poller& poller, MuxLink& link, const uint32_t (&ids)[3],
                     bool terminal)
    : table_(table),
      terminal_(terminal),
      pending_(terminal),
      in_(poller, link, {changed, this}),
      out_(poller, link, {changed, this}),
      err_(poller, link, {changed, this}) {
  std::copy(std::begin(ids), std::end(ids), ids_);
}

bool StreamSet::uses(uint32_t id) const {
  const MuxStream* const streams[] = {&in_, &out_, &err_};
  for (int i = 0; i < 3; i++) {
    if (ids_[i] == id && (pending_ || streams[i]->attached())) return true;
  }
  return false;
}

void StreamSet::changed(void* self) {
  static_cast<StreamSet*>(self)->table_.sweep_soon();
}

void StreamSet::open_pipes(UniqueFd in, UniqueFd out, UniqueFd err) {
  if (in) {
    in_.open(std::move(in));
    in_.attach(ids_[0]);
  }
  if (out) {
    out_.open(std::move(out));
    out_.attach(ids_[1]);
    out_.begin();
  }
  if (err) {
    err_.open(std::move(err));
    err_.attach(ids_[2]);
    err_.begin();
  }
}

void StreamSet::open_console(const UniqueFd& master) {
  if (!pending_) return;
  pending_ = false;
  set_nonblocking(master.get());
  if (ids_[0] != 0) {
    in_.open(duplicate(master));
    in_.attach(ids_[0]);
  }
  if (ids_[1] != 0) {
    out_.open(duplicate(master));
    out_.attach(ids_[1]);
    out_.begin();
  }
}

void StreamSet::process_ended() {
  out_.process_ended();
  err_.process_ended();
}

void StreamSet::release() {
  released_ = true;
  table_.sweep_soon();
}

// Input alone keeps nothing: without its process nobody tells when it ends.
bool StreamSet::finished() const {
  return !out_.attached() && !err_.attached();
}

StreamSet* StreamTable::add(const uint32_t (&ids)[3], bool terminal) {
  if (count_ >= kMostSets) return nullptr;
  for (int i = 0; i < 3; i++) {
    if (ids[i] == 0) continue;
    for (int j = 0; j < i; j++) {
      if (ids[j] == ids[i]) return nullptr;
    }
    for (const StreamSet* set = first_.get(); set != nullptr; set = set->next_.get()) {
      if (set->uses(ids[i])) return nullptr;
    }
  }
  auto set = std::make_unique<StreamSet>(*this, poller_, link_, ids, terminal);
  set->next_ = std::move(first_);
  first_ = std::move(set);
  count_++;
  return first_.get();
}

void StreamTable::session_ended() {
  for (StreamSet* set = first_.get(); set != nullptr; set = set->next_.get()) set->session_ended();
}

// Ends of streams that have come to their end, and whole sets of which nothing is left.
void StreamTable::sweep() {
  for (std::unique_ptr<StreamSet>* link = &first_; *link;) {
    StreamSet& set = **link;
    // The reader of a pipe sees the end of file; a terminal has no such thing, its master is closed
    // with its output.
    if (set.in_.done() && set.in_.fd() >= 0 && !set.terminal_) (void)set.in_.close();
    if (set.terminal_ && set.out_.done() && set.in_.fd() >= 0) (void)set.in_.close();
    if (!set.released_ || !set.finished()) {
      link = &set.next_;
      continue;
    }
    if (set.in_.fd() >= 0) (void)set.in_.close();
    *link = std::move(set.next_);
    count_--;
  }
}

GuestStreams::GuestStreams(StreamTable& table, const ToAgent& launch)
    : table_(table), terminal_(launch.terminal) {
  std::copy(std::begin(launch.streams), std::end(launch.streams), ids_);
  if (terminal_) ids_[2] = 0;
}

GuestStreams::~GuestStreams() {
  if (set_ != nullptr) set_->release();
}

Status GuestStreams::make_pipe(int number, UniqueFd& ours) {
  if (ids_[number] == 0) return success();
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return last_error("pipe2");
  UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  // Fewer turns between a process and the agent, on what may be the only processor.
  ::fcntl(ends[1], F_SETPIPE_SZ, kPipeSize);
  process_fds_[number] = std::move(number == 0 ? reader : writer);
  ours = std::move(number == 0 ? writer : reader);
  set_nonblocking(ours.get());
  return success();
}

Status GuestStreams::open() {
  set_ = table_.add(ids_, terminal_);
  if (set_ == nullptr) {
    path_ = "stream " + std::to_string(ids_[0] != 0 ? ids_[0] : ids_[1]);
    return Error{EEXIST, "open"};
  }
  if (terminal_) return success();
  UniqueFd ours[3];
  for (int i = 0; i < 3; i++) {
    if (Status made = make_pipe(i, ours[i]); !made) return made;
  }
  set_->open_pipes(std::move(ours[0]), std::move(ours[1]), std::move(ours[2]));
  return success();
}

void GuestStreams::launched() {
  for (UniqueFd& fd : process_fds_) fd.reset();
}

void GuestStreams::set_console(UniqueFd master) {
  if (!terminal_ || console_) return;
  console_ = std::move(master);
  if (resized_) resize(width_, height_);
  set_->open_console(console_);
}

int GuestStreams::resize(uint32_t width, uint32_t height) {
  if (!terminal_) return 0;
  resized_ = true;
  width_ = static_cast<uint16_t>(std::min<uint32_t>(width, UINT16_MAX));
  height_ = static_cast<uint16_t>(std::min<uint32_t>(height, UINT16_MAX));
  if (!console_) return 0;
  winsize size{};
  size.ws_col = width_;
  size.ws_row = height_;
  return ::ioctl(console_.get(), TIOCSWINSZ, &size) == 0 ? 0 : errno;
}

void GuestStreams::process_ended() {
  console_.reset();
  set_->process_ended();
}

}  // namespace bulkhead::agent
