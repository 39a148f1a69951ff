#include "agent/boot.h"

#include <fcntl.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "agent/devices.h"
#include "agent/log.h"
#include "agent/text_file.h"

namespace bulkhead::agent {

namespace {

constexpr unsigned kModuleCompressed = 4;  // MODULE_INIT_COMPRESSED_FILE, Linux 5.17
constexpr rlim_t kOpenFiles = 1048576;
constexpr char kContainers[] = "/sys/fs/cgroup/bulkhead";  // src/sandbox/vm/layout.ts

struct KernelMount {
  const char* type;
  const char* target;
  unsigned long flags;
  const char* data;
  bool needed;
};
constexpr unsigned long kQuiet = MS_NOSUID | MS_NOEXEC | MS_NODEV;
constexpr KernelMount kMounts[] = {
    {"devtmpfs", "/dev", MS_NOSUID, "mode=0755", true},
    {"proc", "/proc", kQuiet, nullptr, true},
    {"sysfs", "/sys", kQuiet, nullptr, true},
    {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755", true},
    {"tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777", true},
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666", true},
    {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777", true},
    {"mqueue", "/dev/mqueue", kQuiet, nullptr, false},
    {"cgroup2", "/sys/fs/cgroup", kQuiet, "nsdelegate,memory_recursiveprot", true},
};

bool fail(const char* what) {
  log_error(describe(what, errno));
  return false;
}

// pivot_root(2) refuses the initial ramfs ("The current root is on the rootfs mount"), which every
// container's plan ends in. A bind mount of it that is moved over it is a root like any other.
bool leave_initial_root() {
  ::mkdir("/mnt", 0755);
  if (::mount("/", "/mnt", nullptr, MS_BIND, nullptr) < 0) return fail("bind /");
  if (::chdir("/mnt") < 0 || ::mount(".", "/", nullptr, MS_MOVE, nullptr) < 0)
    return fail("move /");
  if (::chroot(".") < 0 || ::chdir("/") < 0) return fail("chroot");
  return true;
}

bool mount_kernel(const KernelMount& one) {
  ::mkdir(one.target, 0755);
  if (::mount(one.type, one.target, one.type, one.flags, one.data) == 0) return true;
  // cgroup2's options came with Linux 4.13 and 5.7.
  if (errno == EINVAL && ::mount(one.type, one.target, one.type, one.flags, nullptr) == 0)
    return true;
  if (!one.needed) return true;
  return fail(one.target);
}

// Every controller there is, for the directories that plans make.
void delegate_controllers() {
  std::string names = read_line("/sys/fs/cgroup/cgroup.controllers");
  for (size_t at = 0; at < names.size();) {
    size_t end = names.find(' ', at);
    if (end == std::string::npos) end = names.size();
    const std::string one = "+" + names.substr(at, end - at);
    if (Status done = write_text("/sys/fs/cgroup/cgroup.subtree_control", one); !done)
      log_warning(describe("cgroup controller " + one, done.error().code));
    at = end + 1;
  }
}

// A container that forks without end must leave us what ends it, and what starts the next one.
void limit_containers() {
  const int threads = std::atoi(read_line("/proc/sys/kernel/threads-max").c_str());
  const int pids = std::atoi(read_line("/proc/sys/kernel/pid_max").c_str());
  const int most = std::min(threads, pids);
  ::mkdir(kContainers, 0755);
  if (most <= 0) return;
  const std::string path = std::string(kContainers) + "/pids.max";
  if (Status done = write_text(path, std::to_string(most - most / 8)); !done)
    log_warning(describe(path, done.error().code));
}

void load_module(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const unsigned flags = path.ends_with(".ko") ? 0 : kModuleCompressed;
  if (file && ::syscall(SYS_finit_module, file.get(), "", flags) == 0) return;
  if (errno != EEXIST && errno != ENODEV) log_warning(describe("module " + path, errno));
}

// A distribution's kernel: /modules/order names them in the order of their dependencies.
void load_modules() {
  auto order = read_text("/modules/order");
  if (!order) return;
  for (size_t at = 0; at < order->size();) {
    size_t end = order->find('\n', at);
    if (end == std::string::npos) end = order->size();
    if (end > at) load_module(order->substr(at, end - at));
    at = end + 1;
  }
}

void raise_loopback() {
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strncpy(request.ifr_name, "lo", sizeof request.ifr_name - 1);
  if (socket && ::ioctl(socket.get(), SIOCGIFFLAGS, &request) == 0) {
    request.ifr_flags |= IFF_UP;
    if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) == 0) return;
  }
  log_warning(describe("lo", errno));
}

void link_descriptors() {
  static constexpr const char* kLinks[][2] = {{"/proc/self/fd", "/dev/fd"},
                                              {"/proc/self/fd/0", "/dev/stdin"},
                                              {"/proc/self/fd/1", "/dev/stdout"},
                                              {"/proc/self/fd/2", "/dev/stderr"},
                                              {"pts/ptmx", "/dev/ptmx"}};
  ::unlink("/dev/ptmx");
  for (const auto& link : kLinks) (void)!::symlink(link[0], link[1]);
}

void tune() {
  const rlimit files{kOpenFiles, kOpenFiles};
  ::setrlimit(RLIMIT_NOFILE, &files);
  // Namespaces and cgroups wait for grace periods at every step of a container: 10 ms instead of
  // 60-120.
  (void)write_text("/sys/kernel/rcu_expedited", "1")
      .ok();  // a kernel with CONFIG_TINY_RCU has none
  // Memory that is plugged in works at once; where the kernel's default is otherwise.
  (void)write_text("/sys/devices/system/memory/auto_online_blocks", "online").ok();
}

// "vport1p1" of "bulkhead.agent".
std::string find_port(const char* name) {
  std::string found;
  const std::string ports = "/sys/class/virtio-ports";
  any_entry(ports, [&](const std::string& port) {
    if (read_line(ports + "/" + port + "/name") != name) return false;
    found = "/dev/" + port;
    return true;
  });
  return found;
}

}  // namespace

bool set_up_guest() {
  ::umask(022);
  if (!leave_initial_root()) return false;
  for (const KernelMount& one : kMounts) {
    if (!mount_kernel(one)) return false;
  }
  ::mkdir("/etc", 0755);
  ::mkdir("/var", 0755);
  link_descriptors();
  load_modules();
  delegate_controllers();
  limit_containers();
  raise_loopback();
  tune();
  return true;
}

Result<UniqueFd> open_port(const char* name, uint32_t timeout_ms) {
  Uevents uevents;
  if (Status opened = uevents.open(); !opened) return opened.error();
  const uint64_t deadline = now_ms() + timeout_ms;
  for (;;) {
    const std::string path = find_port(name);
    if (!path.empty()) {
      UniqueFd port(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
      if (port) return port;
      // The node comes a moment after its entry in sysfs.
      if (errno != ENOENT && errno != ENXIO) return last_error("open");
    }
    if (!uevents.wait(deadline)) return Error{ETIMEDOUT, "wait"};
  }
}

}  // namespace bulkhead::agent
