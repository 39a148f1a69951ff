// Mounts and files opened for later steps.
#include <fcntl.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "init/overlay_layers.h"
#include "init/resolve.h"
#include "init/steps.h"

namespace bulkhead {

namespace {

// fsconfig(2) takes strings of at most 255 bytes.
constexpr size_t kMaxFsString = 255;

// The first line that the kernel wrote into the context's log: "e overlay: Unknown parameter 'x'".
std::string kernel_log(int fs) {
  char text[512];
  std::string log;
  for (int line = 0; line < 4; line++) {
    ssize_t got = ::read(fs, text, sizeof text);
    if (got <= 0) break;
    while (got > 0 && (text[got - 1] == '\n' || text[got - 1] == '\0')) got--;
    size_t skip = got > 2 && text[1] == ' ' ? 2 : 0;
    if (!log.empty()) log += "; ";
    log.append(text + skip, static_cast<size_t>(got) - skip);
  }
  return log;
}

bool set_option(int fs, const char* key, const char* value) {
  if (value == nullptr) return ::fsconfig(fs, FSCONFIG_SET_FLAG, key, nullptr, 0) == 0;
  if (std::strlen(value) > kMaxFsString) {
    errno = E2BIG;
    return false;
  }
  return ::fsconfig(fs, FSCONFIG_SET_STRING, key, value, 0) == 0;
}

// overlayfs: one "lowerdir+" a layer, "datadir+" behind "::" (Linux 6.8; EINVAL before). "\" quotes
// a character.
bool set_layers(int fs, std::string_view value) {
  std::string layer;
  const char* key = "lowerdir+";
  bool any = false;
  for (size_t at = 0; at <= value.size(); at++) {
    if (at < value.size() && value[at] == '\\' && at + 1 < value.size()) {
      layer += value[++at];
      continue;
    }
    if (at < value.size() && value[at] != ':') {
      layer += value[at];
      continue;
    }
    if (layer.empty()) {
      key = "datadir+";
      continue;
    }
    if (!set_option(fs, key, layer.c_str())) return false;
    any = true;
    layer.clear();
  }
  if (!any) errno = EINVAL;
  return any;
}

bool set_options(int fs, const FsMount& step) {
  if (!step.source.empty() && !set_option(fs, "source", step.source.c_str())) return false;
  if (step.superblock_ro && !set_option(fs, "ro", nullptr)) return false;
  for (const Text& option : step.options) {
    std::string_view text = option.view();
    size_t equals = text.find('=');
    if (equals == std::string_view::npos) {
      if (!set_option(fs, option.c_str(), nullptr)) return false;
      continue;
    }
    std::string key(text.substr(0, equals));
    const char* value = option.c_str() + equals + 1;
    bool layers = key == "lowerdir" && text.size() - equals - 1 > kMaxFsString;
    if (layers ? !set_layers(fs, value) : !set_option(fs, key.c_str(), value)) return false;
  }
  return true;
}

unsigned long legacy_flags(const FsMount& step) {
  unsigned long flags = step.superblock_ro ? MS_RDONLY : 0;
  uint64_t attr = step.attr_flags;
  if ((attr & MOUNT_ATTR_RDONLY) != 0) flags |= MS_RDONLY;
  if ((attr & MOUNT_ATTR_NOSUID) != 0) flags |= MS_NOSUID;
  if ((attr & MOUNT_ATTR_NODEV) != 0) flags |= MS_NODEV;
  if ((attr & MOUNT_ATTR_NOEXEC) != 0) flags |= MS_NOEXEC;
  if ((attr & MOUNT_ATTR_NODIRATIME) != 0) flags |= MS_NODIRATIME;
  if ((attr & MOUNT_ATTR__ATIME) == MOUNT_ATTR_NOATIME) flags |= MS_NOATIME;
  if ((attr & MOUNT_ATTR__ATIME) == MOUNT_ATTR_STRICTATIME) flags |= MS_STRICTATIME;
  return flags;
}

int mount_now(const LateMount& late) {
  return ::mount(late.source.c_str(), late.target.c_str(), late.fstype.c_str(), late.flags,
                 late.data.c_str());
}

// mount(2) instead. In the outer stage it waits for Attach: the mount must not appear in the host's
// namespace.
Outcome fall_back(Context& context, const FsMount& step) {
  auto late = std::make_unique<LateMount>();
  late->fstype = step.fstype.view();
  late->source = step.source.empty() ? step.fstype.view() : step.source.view();
  late->target = step.fallback_target.view();
  late->flags = legacy_flags(step);
  for (const Text& option : step.options) {
    if (!late->data.empty()) late->data += ',';
    late->data += option.view();
  }
  Slot& slot = context.slot(step.slot);
  if (context.has_clone && !context.cloned) {
    slot.late_mount = std::move(late);
    return done();
  }
  if (mount_now(*late) < 0) return fail("mount", step.fallback_target.view());
  slot.mounted = true;
  return done();
}

bool api_refused(int err) {
  return err == EINVAL || err == ENOSYS || err == E2BIG;
}

// A path that names a unix socket becomes a connection: the name is the host's, and later steps
// have lost it.
Outcome connect_socket(const OpenTree& step, UniqueFd& fd) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (step.path.size >= sizeof address.sun_path)
    return fail_with(ENAMETOOLONG, "connect", step.path.view());
  std::memcpy(address.sun_path, step.path.c_str(), step.path.size);
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket ||
      ::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) {
    return fail("connect", step.path.view());
  }
  fd = std::move(socket);
  return done();
}

Outcome open_path_only(const OpenTree& step, int base, UniqueFd& fd) {
  if (base < 0) {
    int flags = O_PATH | O_CLOEXEC | (step.nofollow ? O_NOFOLLOW : 0);
    fd.reset(::open(step.path.c_str(), flags));
  } else {
    fd = open_beneath(base, step.path.c_str(), O_PATH);
  }
  if (!fd) return fail("open", step.path.view());
  struct stat info;
  if (::fstat(fd.get(), &info) < 0) return fail("open", step.path.view());
  return base < 0 && S_ISSOCK(info.st_mode) ? connect_socket(step, fd) : done();
}

}  // namespace

Outcome carry_out(Context& context, const OpenTree& step) {
  if (!step.slot) return fail_with(EINVAL, "no-slot", step.path.view());
  int base = -1;
  if (step.base_slot) {
    base = context.slot(step.base_slot).fd.get();
    if (base < 0) return fail_with(EBADF, "empty-slot", step.path.view());
  }
  UniqueFd fd;
  if (step.path_only) {
    Outcome outcome = open_path_only(step, base, fd);
    if (!outcome.ok()) return outcome;
  } else {
    unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (step.recursive ? AT_RECURSIVE : 0);
    if (base < 0) {
      fd.reset(::open_tree(AT_FDCWD, step.path.c_str(),
                           flags | (step.nofollow ? AT_SYMLINK_NOFOLLOW : 0)));
    } else {
      // A sub-path of a volume: the volume's owner may not lead us out of it by a symlink
      // (CVE-2017-1002101).
      UniqueFd source = open_beneath(base, step.path.c_str(), O_PATH);
      if (!source) return fail("resolve", step.path.view());
      fd.reset(::open_tree(source.get(), "", flags | AT_EMPTY_PATH));
    }
    if (!fd) return fail("open-tree", step.path.view());
  }
  context.slot(step.slot).fd = std::move(fd);
  return done();
}

Outcome carry_out(Context& context, const FsMount& step) {
  if (!step.slot) return fail_with(EINVAL, "no-slot", step.fstype.view());
  UniqueFd fs(::fsopen(step.fstype.c_str(), FSOPEN_CLOEXEC));
  if (!fs) {
    if (errno == ENOSYS && !step.fallback_target.empty()) return fall_back(context, step);
    return fail("fsopen", step.fstype.view());
  }
  const char* stage = "option";
  UniqueFd mount;
  bool mapped = !step.uid_maps.empty();
  OverlayLayers layers;
  if (mapped) {
    Outcome outcome = open_mapped_layers(context, step, layers);
    if (!outcome.ok()) return outcome;
  }
  if (mapped ? set_mapped_options(fs.get(), step, layers) : set_options(fs.get(), step)) {
    stage = "superblock";
    CreateAs creator(mapped ? &step : nullptr);
    if (::fsconfig(fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0) {
      stage = "fsmount";
      mount.reset(::fsmount(fs.get(), FSMOUNT_CLOEXEC, static_cast<unsigned>(step.attr_flags)));
    }
  }
  if (!mount) {
    int err = errno;
    if (!mapped && api_refused(err) && !step.fallback_target.empty())
      return fall_back(context, step);
    Outcome outcome =
        fail_with(err, stage, step.source.empty() ? step.fstype.view() : step.source.view());
    outcome.output = kernel_log(fs.get());
    return outcome;
  }
  context.slot(step.slot).fd = std::move(mount);
  return done();
}

Outcome carry_out(Context& context, const OpenFile& step) {
  if (!step.slot && step.descriptor == 0) return fail_with(EINVAL, "no-slot", step.path.view());
  UniqueFd fd(::open(step.path.c_str(), static_cast<int>(step.flags) | O_CLOEXEC | O_NOCTTY, 0600));
  if (!fd) return fail("open", step.path.view());
  if (step.descriptor != 0) {
    if (step.descriptor < 3) return fail_with(EINVAL, "descriptor", step.path.view());
    return leave_descriptor(std::move(fd), step.descriptor - 3, step.path.view());
  }
  context.slot(step.slot).fd = std::move(fd);
  return done();
}

}  // namespace bulkhead
