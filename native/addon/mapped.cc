// Device-DAX nodes (/dev/dax0.0) have neither read(2) nor write(2): their bytes are reached by a
// mapping, which must begin and end at multiples of the device's alignment.
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "addon/arguments.h"
#include "addon/bindings.h"
#include "core/fd.h"

namespace bulkhead::addon {
namespace {

constexpr int64_t kMaxOffset = 1LL << 50;
constexpr int64_t kMaxLength = 64LL << 20;
constexpr int64_t kMaxAlign = 1LL << 30;
constexpr size_t kCacheLine = 64;

// The part of a file that holds `length` bytes from `offset`, mapped in whole units of `align`.
class Mapping {
 public:
  Mapping(const std::string& path, int64_t offset, int64_t length, int64_t align, bool writable) {
    const UniqueFd file(::open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC));
    if (!file) {
      error_ = errno;
      return;
    }
    const int64_t begin = offset / align * align;
    const int64_t end = (offset + length + align - 1) / align * align;
    size_ = static_cast<size_t>(end - begin);
    void* memory = ::mmap(nullptr, size_, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED,
                          file.get(), begin);
    if (memory == MAP_FAILED) {
      error_ = errno;
      return;
    }
    memory_ = static_cast<uint8_t*>(memory);
    at_ = memory_ + (offset - begin);
  }
  ~Mapping() {
    if (memory_ != nullptr) ::munmap(memory_, size_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // Of mmap(2) or open(2); 0: it is there.
  int error() const { return error_; }
  uint8_t* at() const { return at_; }

 private:
  uint8_t* memory_ = nullptr;
  uint8_t* at_ = nullptr;
  size_t size_ = 0;
  int error_ = 0;
};

bool get_place(const Napi::CallbackInfo& info, std::string& path, int64_t& offset, int64_t& align) {
  return get_string(info[0], "path", path) &&
         get_integer(info[1], "offset", 0, kMaxOffset, offset) &&
         get_integer(info[2], "align", 4096, kMaxAlign, align);
}

// readMapped(path, offset, align, length): Buffer
Napi::Value read_mapped(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  int64_t offset = 0;
  int64_t align = 0;
  int64_t length = 0;
  if (!get_place(info, path, offset, align) ||
      !get_integer(info[3], "length", 1, kMaxLength, length)) {
    return env.Undefined();
  }
  const Mapping mapping(path, offset, length, align, false);
  if (mapping.error() != 0) return throw_errno(env, mapping.error(), "mmap", path);
  return Napi::Buffer<uint8_t>::Copy(env, mapping.at(), static_cast<size_t>(length));
}

// What a processor's caches still hold is lost with the power; the device has no fsync(2).
void flush(const uint8_t* from, size_t length) {
  const auto begin = reinterpret_cast<uintptr_t>(from) / kCacheLine * kCacheLine;
  for (uintptr_t at = begin; at < reinterpret_cast<uintptr_t>(from) + length; at += kCacheLine) {
    __builtin_ia32_clflush(reinterpret_cast<const void*>(at));
  }
  __builtin_ia32_sfence();
}

// writeMapped(path, offset, align, data)
Napi::Value write_mapped(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  int64_t offset = 0;
  int64_t align = 0;
  std::span<const uint8_t> data;
  if (!get_place(info, path, offset, align) || !get_bytes(info[3], "data", data)) {
    return env.Undefined();
  }
  if (data.empty()) return env.Undefined();
  if (data.size() > static_cast<size_t>(kMaxLength)) return throw_errno(env, EFBIG, "mmap", path);
  const Mapping mapping(path, offset, static_cast<int64_t>(data.size()), align, true);
  if (mapping.error() != 0) return throw_errno(env, mapping.error(), "mmap", path);
  std::memcpy(mapping.at(), data.data(), data.size());
  flush(mapping.at(), data.size());
  return env.Undefined();
}

}  // namespace

void define_mapped(Napi::Env env, Napi::Object exports) {
  define<read_mapped>(env, exports, "readMapped");
  define<write_mapped>(env, exports, "writeMapped");
}

}  // namespace bulkhead::addon
