// Guest memory: anonymous files, filled from a template and sealed.
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "addon/arguments.h"
#include "addon/bindings.h"
#include "core/fd.h"

namespace bulkhead::addon {
namespace {

constexpr double kMaxSize = 1LL << 46;  // 64 TiB: more than x86-64 maps
// Fits the second-level cache, so that each byte goes through memory once.
constexpr size_t kChunk = 256 << 10;

constexpr size_t kPage = 4096;

// Of all words that are not zero, with their places: the same however a file's holes are laid out.
// Finds damage, not forgery.
class Checksum {
 public:
  void add(const char* page, off_t at) {
    for (size_t i = 0; i < kPage; i += sizeof(uint64_t)) {
      uint64_t word = 0;
      ::memcpy(&word, page + i, sizeof word);
      if (word == 0) continue;
      word ^= (static_cast<uint64_t>(at) + i) * 0x9e3779b97f4a7c15u;
      word *= 0xff51afd7ed558ccdu;
      sum_ += word ^ (word >> 32);
    }
  }
  uint64_t value() const { return sum_; }

 private:
  uint64_t sum_ = 0;
};

struct CopyOptions {
  bool sum = false;
  // Pages of nothing but kPadding are left out as well.
  bool padding = false;
};

// int3: what the linker fills the gaps in Linux's text with (its text is laid out in pieces of 2
// MiB), and with what Linux overwrites its start-up code when that has run
// (POISON_FREE_INITMEM).
constexpr char kPadding = static_cast<char>(0xcc);

bool all(const char* page, char byte) {
  return page[0] == byte && ::memcmp(page, page + 1, kPage - 1) == 0;
}

int write_all(int fd, const char* data, size_t size, off_t at) {
  while (size > 0) {
    const ssize_t put = ::pwrite(fd, data, size, at);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return errno;
    data += put;
    size -= static_cast<size_t>(put);
    at += put;
  }
  return 0;
}

// Whole pages of one chunk; those of zeros stay holes. 0 or an errno.
int copy_pages(const char* chunk, size_t size, off_t at, int target, const CopyOptions& options,
               Checksum* checksum) {
  size_t from = 0;
  for (size_t page = 0; page < size; page += kPage) {
    const bool zero = all(chunk + page, 0) || (options.padding && all(chunk + page, kPadding));
    if (!zero && checksum != nullptr) checksum->add(chunk + page, at + static_cast<off_t>(page));
    if (!zero) continue;
    const int error = write_all(target, chunk + from, page - from, at + static_cast<off_t>(from));
    if (error != 0) return error;
    from = page + kPage;
  }
  if (from >= size) return 0;
  return write_all(target, chunk + from, size - from, at + static_cast<off_t>(from));
}

// Copies what is not a hole, in whole pages. 0 or an errno; EIO when the source shrinks meanwhile.
int copy_data(int source, int target, const CopyOptions& options, Checksum* checksum) {
  std::vector<char> chunk(kChunk);
  off_t at = 0;
  for (;;) {
    const off_t start = ::lseek(source, at, SEEK_DATA);
    if (start < 0) return errno == ENXIO ? 0 : errno;  // ENXIO: no data behind `at` (lseek(2))
    const off_t end = ::lseek(source, start, SEEK_HOLE);
    if (end < 0) return errno;
    for (at = start - start % static_cast<off_t>(kPage); at < end;) {
      const ssize_t got = ::pread(source, chunk.data(), kChunk, at);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return errno;
      if (got == 0) return EIO;
      const size_t tail = static_cast<size_t>(got) % kPage;
      if (tail != 0) ::memset(chunk.data() + got, 0, kPage - tail);
      const size_t size = static_cast<size_t>(got) + (tail == 0 ? 0 : kPage - tail);
      if (const int error = copy_pages(chunk.data(), size, at, target, options, checksum);
          error != 0) {
        return error;
      }
      at += static_cast<off_t>(size);
    }
  }
}

class CopyWorker : public Napi::AsyncWorker {
 public:
  CopyWorker(Napi::Env env, UniqueFd source, UniqueFd target, CopyOptions options)
      : Napi::AsyncWorker(env, "BulkheadCopySparse"),
        done_(Napi::Promise::Deferred::New(env)),
        source_(std::move(source)),
        target_(std::move(target)),
        options_(options) {}
  Napi::Value promise() const { return done_.Promise(); }

 protected:
  void Execute() override {
    error_ = copy_data(source_.get(), target_.get(), options_, options_.sum ? &checksum_ : nullptr);
  }
  void OnOK() override {
    if (error_ == 0) {
      done_.Resolve(Napi::BigInt::New(Env(), checksum_.value()));
    } else {
      done_.Reject(make_errno(Env(), error_, "copy").Value());
    }
  }

 private:
  Napi::Promise::Deferred done_;
  UniqueFd source_;
  UniqueFd target_;
  CopyOptions options_;
  Checksum checksum_;
  int error_ = 0;
};

// memfd(name, size): number. Sealable; mode 0666, so that a process that runs as somebody else and
// was given the descriptor can open it by /proc/self/fd.
Napi::Value memfd_function(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string name;
  if (!get_string(info[0], "name", name)) return env.Undefined();
  int64_t size = 0;
  if (!get_integer(info[1], "size", 0, static_cast<int64_t>(kMaxSize), size))
    return env.Undefined();
  UniqueFd fd(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return throw_errno(env, errno, "memfd_create");
  if (::ftruncate(fd.get(), size) != 0) return throw_errno(env, errno, "ftruncate");
  if (::fchmod(fd.get(), 0666) != 0) return throw_errno(env, errno, "fchmod");
  return Napi::Number::New(env, fd.release());
}

// sealMemfd(fd, {writes}): its size is fixed; with writes also its content. Nobody can undo it.
Napi::Value seal_function(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int fd = -1;
  if (!get_fd(info[0], "fd", fd)) return env.Undefined();
  const int writes = info[1].ToBoolean() ? F_SEAL_WRITE : 0;
  if (::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | writes) != 0) {
    return throw_errno(env, errno, "fcntl");
  }
  return env.Undefined();
}

// copySparse(source, target, sum, padding): Promise<bigint>. On a thread of the pool, with
// descriptors of its own.
Napi::Value copy_function(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  int source = -1;
  int target = -1;
  if (!get_fd(info[0], "source", source) || !get_fd(info[1], "target", target)) {
    return env.Undefined();
  }
  UniqueFd own_source(::fcntl(source, F_DUPFD_CLOEXEC, 0));
  if (!own_source) return throw_errno(env, errno, "fcntl");
  UniqueFd own_target(::fcntl(target, F_DUPFD_CLOEXEC, 0));
  if (!own_target) return throw_errno(env, errno, "fcntl");
  const CopyOptions options{.sum = info[2].ToBoolean(), .padding = info[3].ToBoolean()};
  auto* worker = new CopyWorker(env, std::move(own_source), std::move(own_target), options);
  const Napi::Value promise = worker->promise();
  worker->Queue();  // deletes itself when it is done
  return promise;
}

}  // namespace

void define_memory(Napi::Env env, Napi::Object exports) {
  define<memfd_function>(env, exports, "memfd");
  define<seal_function>(env, exports, "sealMemfd");
  define<copy_function>(env, exports, "copySparse");
}

}  // namespace bulkhead::addon
