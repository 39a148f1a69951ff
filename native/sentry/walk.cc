#include "sentry/walk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string_view>

#include "sentry/place.h"
#include "sentry/worker.h"

namespace bulkhead::sentry {

namespace {

constexpr int kMaxLinks = 40;  // MAXSYMLINKS
constexpr ino_t kProcRoot = 1;

// What fs.protected_symlinks is for: a link in a directory like /tmp is its owner's alone.
bool is_trap(const Kind& directory, const Kind& link, uint32_t uid) {
  constexpr mode_t kShared = S_ISVTX | S_IWOTH;
  return (directory.mode & kShared) == kShared && link.uid != uid && link.uid != directory.uid;
}

class Walk {
 public:
  Walk(const Sandbox& sandbox, Caller& caller, int root)
      : sandbox_(sandbox), caller_(caller), root_(root) {}

  int run(int base, const char* path, bool follow, Walked& result);

 private:
  // 0, errno, or kGoOn: `rest` and `at_` are what is left.
  static constexpr int kGoOn = -1;
  int step(std::string& rest, bool follow, Walked& result);
  int follow_link(const UniqueFd& link, const Kind& kind, const std::string& name,
                  std::string& rest, Walked& result);
  int follow_magic(const std::string& name, std::string& rest, Walked& result);
  int go_on_with(const char* target, std::string& rest);
  int finish(std::string name, Walked& result, bool magic = false) {
    result = {std::move(at_), std::move(name), magic};
    return 0;
  }

  const Sandbox& sandbox_;
  Caller& caller_;
  const int root_;
  UniqueFd at_;
  // Of the process whose directory in procfs is being walked through; 0: of none.
  uint32_t process_ = 0;
  int links_ = 0;
};

int Walk::go_on_with(const char* target, std::string& rest) {
  if (*target == '\0') return ENOENT;
  rest.insert(0, target);
  if (rest.size() >= PATH_MAX) return ENAMETOOLONG;
  if (*target == '/') {
    at_.reset(::fcntl(root_, F_DUPFD_CLOEXEC, 0));
    if (!at_) return errno;
  }
  return kGoOn;
}

int Walk::follow_magic(const std::string& name, std::string& rest, Walked& result) {
  const Known* known = caller_.worker().known(caller_);
  if (known == nullptr) return ESRCH;
  // Another process's: by the caller's own rights alone, as ptrace(2) has it.
  bool own = process_ == known->identity.own_process;
  if (int error = caller_.worker().become(caller_, !own); error != 0) return error;
  if (rest.empty()) return finish(name, result, true);
  UniqueFd next(::openat(at_.get(), name.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!next) return errno;
  Kind kind;
  if (int error = look_at(next.get(), kind); error != 0) return error;
  if (!sandbox_.has_mount(kind.mount, caller_)) return EXDEV;
  at_ = std::move(next);
  return kGoOn;
}

int Walk::follow_link(const UniqueFd& link, const Kind& kind, const std::string& name,
                      std::string& rest, Walked& result) {
  const Known* known = caller_.worker().known(caller_);
  if (known == nullptr) return ESRCH;
  Kind directory;
  if (int error = look_at(at_.get(), directory); error != 0) return error;
  if (++links_ > kMaxLinks) return ELOOP;
  if (is_trap(directory, kind, known->identity.uid)) return EACCES;
  if (sandbox_.is_proc(kind.device)) {
    if (directory.inode != kProcRoot) return follow_magic(name, rest, result);
    std::string own = std::to_string(known->identity.own_process);
    if (name == "self") return go_on_with(own.c_str(), rest);
    if (name == "thread-self") {
      own += "/task/" + std::to_string(known->identity.own_thread);
      return go_on_with(own.c_str(), rest);
    }
  }
  char target[PATH_MAX];
  ssize_t length = ::readlinkat(link.get(), "", target, sizeof target - 1);
  if (length < 0) return errno;
  target[length] = '\0';
  return go_on_with(target, rest);
}

int Walk::step(std::string& rest, bool follow, Walked& result) {
  rest.erase(0, rest.find_first_not_of('/'));
  if (rest.empty()) return finish(".", result);
  size_t end = rest.find('/');
  std::string name = rest.substr(0, end);
  rest.erase(0, name.size());
  bool last = rest.find_first_not_of('/') == std::string::npos;
  if (last && (name == "." || name == "..")) return finish(name, result);
  UniqueFd next(::openat(at_.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!next) return last && errno == ENOENT ? finish(name + rest, result) : errno;
  Kind kind;
  if (int error = look_at(next.get(), kind); error != 0) return error;
  if (S_ISLNK(kind.mode) && (!last || follow || !rest.empty()))
    return follow_link(next, kind, name, rest, result);
  if (last) return finish(name + rest, result);
  if (!S_ISDIR(kind.mode)) return ENOTDIR;
  Kind above;
  if (sandbox_.is_proc(kind.device) && look_at(at_.get(), above) == 0 &&
      (above.inode == kProcRoot || !sandbox_.is_proc(above.device))) {
    uint64_t number = 0;
    std::string_view digits = name;
    process_ = take_number(digits, number) ? static_cast<uint32_t>(number) : 0;
  }
  at_ = std::move(next);
  return kGoOn;
}

int Walk::run(int base, const char* path, bool follow, Walked& result) {
  std::string rest = path;
  at_.reset(::fcntl(*path == '/' ? root_ : base, F_DUPFD_CLOEXEC, 0));
  if (!at_) return errno;
  for (;;) {
    int error = step(rest, follow, result);
    if (error != kGoOn) return error;
  }
}

}  // namespace

int walk(const Sandbox& sandbox, Caller& caller, int root, int base, const char* path, bool follow,
         Walked& result) {
  return Walk(sandbox, caller, root).run(base, path, follow, result);
}

}  // namespace bulkhead::sentry
