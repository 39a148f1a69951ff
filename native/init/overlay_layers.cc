#include "init/overlay_layers.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "init/idmap.h"
#include "init/mounting.h"

namespace bulkhead {

namespace {

// Splits at ":"; "\" quotes a character (the mount option's own rule).
std::vector<std::string> split_layers(std::string_view value) {
  std::vector<std::string> layers(1);
  for (size_t at = 0; at < value.size(); at++) {
    if (value[at] == '\\' && at + 1 < value.size()) {
      layers.back() += value[++at];
    } else if (value[at] == ':') {
      layers.emplace_back();
    } else {
      layers.back() += value[at];
    }
  }
  return layers;
}

Outcome open_mapped(const std::string& path, int userns, UniqueFd& fd) {
  fd.reset(::open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!fd) return fail("open-tree", path);
  if (int err = set_mount_attr(fd.get(), "", 0, 0, 0, false, userns); err != 0)
    return fail_with(err, "idmap", path);
  return done();
}

std::string parent_of(const std::string& path) {
  size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Both directories have to lie on one mount: that of their common parent.
Outcome open_upper(const std::string& upper, const std::string& work, int userns,
                   OverlayLayers& layers) {
  std::string parent = parent_of(upper);
  if (parent != parent_of(work)) return fail_with(EXDEV, "upperdir-workdir", work);
  Outcome outcome = open_mapped(parent, userns, layers.upper_mount);
  if (!outcome.ok()) return outcome;
  auto open_child = [&](const std::string& path) {
    std::string name = path.substr(path.rfind('/') + 1);
    return UniqueFd(::openat(layers.upper_mount.get(), name.c_str(),
                             O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  };
  layers.upper = open_child(upper);
  if (!layers.upper) return fail("open", upper);
  layers.work = open_child(work);
  return layers.work ? done() : fail("open", work);
}

bool set_fd(int fs, const char* key, int fd) {
  return ::fsconfig(fs, FSCONFIG_SET_FD, key, nullptr, fd) == 0;
}

uint32_t host_id_of_zero(const std::vector<IdMap>& maps) {
  for (const IdMap& map : maps) {
    if (map.container_id == 0 && map.size > 0) return map.host_id;
  }
  return 0;
}

// setfsuid(2) and setfsgid(2) as such, the C library's wrappers hide nothing here; then the
// capabilities again, of which leaving 0 has taken those for files.
void set_file_ids(uint32_t uid, uint32_t gid) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct capabilities[2]{};
  bool known = ::syscall(SYS_capget, &header, capabilities) == 0;
  (void)::setfsgid(gid);
  (void)::setfsuid(uid);
  if (known) ::syscall(SYS_capset, &header, capabilities);
}

}  // namespace

Outcome open_mapped_layers(Context& context, const FsMount& step, OverlayLayers& layers) {
  int userns = -1;
  Outcome outcome = mapped_namespace(context, step.uid_maps, step.gid_maps, userns);
  if (!outcome.ok()) return outcome;
  std::string upper;
  std::string work;
  for (const Text& option : step.options) {
    std::string_view text = option.view();
    if (text.starts_with("upperdir=")) upper = split_layers(text.substr(9)).front();
    if (text.starts_with("workdir=")) work = split_layers(text.substr(8)).front();
    if (!text.starts_with("lowerdir=")) continue;
    for (const std::string& path : split_layers(text.substr(9))) {
      outcome = open_mapped(path, userns, layers.lower.emplace_back());
      if (!outcome.ok()) return outcome;
    }
  }
  return upper.empty() ? done() : open_upper(upper, work, userns, layers);
}

bool set_mapped_options(int fs, const FsMount& step, const OverlayLayers& layers) {
  for (const UniqueFd& layer : layers.lower) {
    if (!set_fd(fs, "lowerdir+", layer.get())) return false;
  }
  if (layers.upper &&
      (!set_fd(fs, "upperdir", layers.upper.get()) || !set_fd(fs, "workdir", layers.work.get()))) {
    return false;
  }
  for (const Text& option : step.options) {
    std::string_view text = option.view();
    size_t equals = text.find('=');
    std::string key(text.substr(0, equals));
    if (key == "lowerdir" || key == "upperdir" || key == "workdir") continue;
    int rc = equals == std::string_view::npos
                 ? ::fsconfig(fs, FSCONFIG_SET_FLAG, key.c_str(), nullptr, 0)
                 : ::fsconfig(fs, FSCONFIG_SET_STRING, key.c_str(), option.c_str() + equals + 1, 0);
    if (rc != 0) return false;
  }
  return true;
}

CreateAs::CreateAs(const FsMount* step) : active_(step != nullptr) {
  if (active_) set_file_ids(host_id_of_zero(step->uid_maps), host_id_of_zero(step->gid_maps));
}

CreateAs::~CreateAs() {
  if (active_) set_file_ids(0, 0);
}

}  // namespace bulkhead
