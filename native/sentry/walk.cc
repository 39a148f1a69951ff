#include "sentry/walk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
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
    result = {std::move(at_), {}, std::move(name), magic, is_own(), in_descriptors_};
    return 0;
  }

  const Sandbox& sandbox_;
  Caller& caller_;
  const int root_;
  bool is_own();
  void note_process(const std::string& name, const Kind& kind);
  UniqueFd open_step(const std::string& name);
  UniqueFd own_object(const std::string& name);

  UniqueFd at_;
  // `at_` is the "fd" or "fdinfo" directory of the caller.
  bool in_descriptors_ = false;
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

bool Walk::is_own() {
  const Known* known = caller_.worker().known(caller_);
  return known != nullptr && process_ != 0 && process_ == known->identity.own_process;
}

// What a link in the caller's own directory means, as O_PATH or the open file itself.
UniqueFd Walk::own_object(const std::string& name) {
  uint64_t number = 0;
  std::string_view digits = name;
  if (!in_descriptors_) return caller_.link(name.c_str());
  if (take_number(digits, number) && number <= INT_MAX)
    return caller_.descriptor(static_cast<int>(number));
  errno = ENOENT;
  return {};
}

int Walk::follow_magic(const std::string& name, std::string& rest, Walked& result) {
  bool own = is_own();
  // Another process's: by the caller's own rights alone.
  if (int error = caller_.worker().become(caller_, !own); error != 0) return error;
  bool known_link = in_descriptors_ || name == "cwd" || name == "root" || name == "exe";
  if (own && known_link) {
    UniqueFd object = own_object(name);
    if (!object) return errno;
    if (rest.empty()) {
      result.name = "self/fd/" + std::to_string(object.get());
      result.held = std::move(object);
      result.at.reset(::fcntl(sandbox_.proc.get(), F_DUPFD_CLOEXEC, 0));
      result.magic = result.own = true;
      return result.at ? 0 : errno;
    }
    at_ = std::move(object);
  } else {
    if (rest.empty()) return finish(name, result, true);
    UniqueFd next(::openat(at_.get(), name.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!next) return errno;
    at_ = std::move(next);
  }
  process_ = 0;
  in_descriptors_ = false;
  Kind kind;
  if (int error = look_at(at_.get(), kind); error != 0) return error;
  if (!S_ISDIR(kind.mode)) return ENOTDIR;
  return sandbox_.has_mount(kind.mount) ? kGoOn : EXDEV;
}

// The kernel lets a process into its own fd directory whoever owns that (proc_fd_permission).
UniqueFd Walk::open_step(const std::string& name) {
  if (in_descriptors_ && caller_.worker().self.gain(CAP_DAC_OVERRIDE) != 0) return {};
  UniqueFd next(::openat(at_.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  int error = errno;
  if (in_descriptors_ && caller_.worker().become(caller_) != 0) return {};
  errno = error;
  return next;
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

// `name` is a directory that the walk is about to enter.
void Walk::note_process(const std::string& name, const Kind& kind) {
  in_descriptors_ = false;
  if (!sandbox_.is_proc(kind.device)) {
    process_ = 0;
    return;
  }
  Kind above;
  if (look_at(at_.get(), above) != 0) return;
  if (above.inode == kProcRoot) {
    uint64_t number = 0;
    std::string_view digits = name;
    process_ = take_number(digits, number) ? static_cast<uint32_t>(number) : 0;
  } else if (name == "fd" || name == "fdinfo") {
    in_descriptors_ = is_own();
  }
}

int Walk::step(std::string& rest, bool follow, Walked& result) {
  rest.erase(0, rest.find_first_not_of('/'));
  if (rest.empty()) return finish(".", result);
  size_t end = rest.find('/');
  std::string name = rest.substr(0, end);
  rest.erase(0, name.size());
  bool last = rest.find_first_not_of('/') == std::string::npos;
  if (last && (name == "." || name == "..")) return finish(name, result);
  UniqueFd next = open_step(name);
  if (!next) return last && errno == ENOENT ? finish(name + rest, result) : errno;
  Kind kind;
  if (int error = look_at(next.get(), kind); error != 0) return error;
  if (S_ISLNK(kind.mode) && (!last || follow || !rest.empty()))
    return follow_link(next, kind, name, rest, result);
  if (last && S_ISDIR(kind.mode)) note_process(name, kind);
  if (last) return finish(name + rest, result);
  if (!S_ISDIR(kind.mode)) return ENOTDIR;
  note_process(name, kind);
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
