// A queue of bytes: appended at the tail, consumed at the head. Gives its memory back whenever it
// runs empty, so that an idle monitor holds none, unless its owner sees to that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>

namespace bulkhead {

class ByteQueue {
 public:
  ByteQueue() = default;
  ByteQueue(const ByteQueue&) = delete;
  ByteQueue& operator=(const ByteQueue&) = delete;
  ~ByteQueue() { std::free(block_); }

  size_t size() const { return end_ - begin_; }
  bool empty() const { return begin_ == end_; }
  const uint8_t* data() const { return block_ + begin_; }
  std::span<const uint8_t> view() const { return {data(), size()}; }

  // At least `room` writable bytes at the tail, to be followed by commit(). Valid until the next
  // call. Aborts when there is no memory: nothing sensible is left to do then.
  uint8_t* reserve(size_t room) {
    if (capacity_ - end_ >= room) return block_ + end_;
    if (begin_ > 0) {
      std::memmove(block_, block_ + begin_, size());
      end_ -= begin_;
      begin_ = 0;
    }
    if (capacity_ - end_ < room) grow(end_ + room);
    return block_ + end_;
  }
  void commit(size_t count) { end_ += count; }

  void append(const void* bytes, size_t count) {
    if (count == 0) return;
    std::memcpy(reserve(count), bytes, count);
    commit(count);
  }

  void consume(size_t count) {
    begin_ += count;
    if (begin_ == end_) clear();
  }

  // The same, but the block stays for what comes next. Followed by trim() once nothing does.
  void consume_keeping(size_t count) {
    begin_ += count;
    if (begin_ == end_) begin_ = end_ = 0;
  }
  void trim() {
    if (empty()) clear();
  }

  // Forgets everything and frees the block.
  void clear() {
    std::free(block_);
    block_ = nullptr;
    begin_ = end_ = capacity_ = 0;
  }

 private:
  void grow(size_t wanted) {
    size_t capacity = capacity_ * 2 > wanted ? capacity_ * 2 : wanted;
    auto* block = static_cast<uint8_t*>(std::realloc(block_, capacity));
    if (block == nullptr) std::abort();
    block_ = block;
    capacity_ = capacity;
  }

  uint8_t* block_ = nullptr;
  size_t begin_ = 0;
  size_t end_ = 0;
  size_t capacity_ = 0;
};

}  // namespace bulkhead
