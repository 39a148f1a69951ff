// Control groups: directories, files, membership. Host paths, decided by TypeScript.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "core/bpf_device.h"
#include "init/steps.h"

namespace bulkhead {

namespace {

// 0 or errno. cgroup and proc files want the whole value in one write(2).
int write_once(int directory, const char* path, std::string_view data) {
  UniqueFd fd(::openat(directory, path, O_WRONLY | O_CLOEXEC));
  if (!fd) return errno;
  ssize_t wrote = ::write(fd.get(), data.data(), data.size());
  if (wrote < 0) return errno;
  return static_cast<size_t>(wrote) == data.size() ? 0 : EIO;
}

// First line of a small file, without white space at the end; empty when it cannot be read.
std::string read_line(int directory, const char* path) {
  UniqueFd fd(::openat(directory, path, O_RDONLY | O_CLOEXEC));
  char text[4096];
  ssize_t got = fd ? ::read(fd.get(), text, sizeof text) : 0;
  std::string line(text, got > 0 ? static_cast<size_t>(got) : 0);
  while (!line.empty() && (line.back() == '\n' || line.back() == ' ' || line.back() == '\0')) {
    line.pop_back();
  }
  return line;
}

bool is_cgroup(int directory, long magic) {
  struct statfs info;
  return ::fstatfs(directory, &info) == 0 && info.f_type == magic;
}

// A new v1 cpuset takes no task until it has cpus and mems (cgroup-v1/cpusets.rst).
int inherit_cpuset(int parent, int directory) {
  for (const char* file : {"cpuset.cpus", "cpuset.mems"}) {
    if (!read_line(directory, file).empty()) continue;
    if (int err = write_once(directory, file, read_line(parent, file)); err != 0) return err;
  }
  return 0;
}

bool has_word(std::string_view line, std::string_view word) {
  for (size_t at = line.find(word); at != std::string_view::npos; at = line.find(word, at + 1)) {
    bool starts = at == 0 || line[at - 1] == ' ';
    bool ends = at + word.size() == line.size() || line[at + word.size()] == ' ';
    if (starts && ends) return true;
  }
  return false;
}

// "+name" for every controller that the directory has and does not pass on yet.
void enable_controllers(int directory, const std::vector<Text>& wanted) {
  if (wanted.empty()) return;
  std::string present = read_line(directory, "cgroup.controllers");
  std::string enabled = read_line(directory, "cgroup.subtree_control");
  std::vector<std::string> missing;
  std::string all;
  for (const Text& want : wanted) {
    std::string_view name = want.view();
    if (!name.empty() && name.front() == '+') name.remove_prefix(1);
    if (!has_word(present, name) || has_word(enabled, name)) continue;
    missing.push_back("+" + std::string(name));
    all += (all.empty() ? "" : " ") + missing.back();
  }
  if (all.empty() || write_once(directory, "cgroup.subtree_control", all) == 0) return;
  // The kernel takes all or none, and may have a reason against one ("+cpu" with real-time
  // processes about). The plan enables for metrics too; a limit that does need the controller
  // fails at its own file.
  for (const std::string& one : missing) (void)write_once(directory, "cgroup.subtree_control", one);
}

// Walks the path from "/", making what is missing and doing what each level of the hierarchy needs.
Outcome walk(const MakeCgroup& step) {
  UniqueFd directory(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  std::string_view path = step.path.view();
  bool inside = false;  // the parent belongs to a cgroup mount
  size_t at = 0;
  while (at < path.size()) {
    size_t end = std::min(path.find('/', at), path.size());
    std::string name(path.substr(at, end - at));
    at = end + 1;
    if (name.empty()) continue;
    std::string_view so_far = path.substr(0, end);
    if (inside) enable_controllers(directory.get(), step.enable_controllers);
    if (::mkdirat(directory.get(), name.c_str(), 0755) < 0 && errno != EEXIST && errno != EROFS) {
      return fail("mkdir", so_far);
    }
    UniqueFd next(::openat(directory.get(), name.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!next) return fail("open", so_far);
    if (inside && step.inherit_cpuset) {
      if (int err = inherit_cpuset(directory.get(), next.get()); err != 0) {
        return fail_with(err, "inherit-cpuset", so_far);
      }
    }
    inside = inside ||
             is_cgroup(next.get(), step.inherit_cpuset ? CGROUP_SUPER_MAGIC : CGROUP2_SUPER_MAGIC);
    directory = std::move(next);
  }
  return done();
}

}  // namespace

Outcome carry_out(Context&, const MakeCgroup& step) {
  if (step.path.empty() || step.path.c_str()[0] != '/')
    return fail_with(EINVAL, "path", step.path.view());
  if (!step.inherit_cpuset && step.enable_controllers.empty()) {
    // The parent is there nearly always.
    if (::mkdir(step.path.c_str(), 0755) == 0 || errno == EEXIST) return done();
    if (errno != ENOENT) return fail("mkdir", step.path.view());
  }
  return walk(step);
}

Outcome carry_out(Context&, const WriteFile& step) {
  std::string_view data(reinterpret_cast<const char*>(step.data.data()), step.data.size());
  int err = 0;
  for (uint32_t attempt = 0;; attempt++) {
    err = write_once(AT_FDCWD, step.path.c_str(), data);
    if ((err != EBUSY && err != EINTR) || attempt >= step.retries) break;
    timespec pause{0, 1000000};
    ::nanosleep(&pause, nullptr);
  }
  if (err == 0) return done();
  for (int32_t ignored : step.ignore_errno) {
    if (ignored == err) return done();
  }
  return fail_with(err, "write", step.path.view());
}

Outcome carry_out(Context&, const AttachDeviceProgram& step) {
  UniqueFd cgroup(::open(step.cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) return fail("open", step.cgroup.view());
  if (int err = attach_device_program(cgroup.get(), step.instructions); err != 0) {
    return fail_with(err, "attach-program", step.cgroup.view());
  }
  return done();
}

Outcome carry_out(Context& context, const JoinCgroup& step) {
  if (step.at_clone) {
    if (!context.has_clone) return fail_with(EINVAL, "no-clone", step.path.view());
    context.birth_cgroup.reset(::open(step.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    return context.birth_cgroup ? done() : fail("open", step.path.view());
  }
  std::string file(step.path.view());
  file += step.single_thread ? "/tasks" : "/cgroup.procs";
  if (int err = write_once(AT_FDCWD, file.c_str(), "0"); err != 0) {
    return fail_with(err, "join", step.path.view());
  }
  return done();
}

}  // namespace bulkhead
