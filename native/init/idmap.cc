#include "init/idmap.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "core/pidfd.h"
#include "init/procfs.h"

namespace bulkhead {

namespace {

std::string map_text(const std::vector<IdMap>& maps) {
  std::string text;
  char line[40];
  for (const IdMap& map : maps) {
    std::snprintf(line, sizeof line, "%u %u %u\n", map.container_id, map.host_id, map.size);
    text += line;
  }
  return text;
}

bool same_maps(const std::vector<IdMap>& a, const std::vector<IdMap>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const IdMap& x, const IdMap& y) {
    return x.container_id == y.container_id && x.host_id == y.host_id && x.size == y.size;
  });
}

// A child that only holds a new user namespace until it is killed. It stops at once and is killed
// by our own end too.
pid_t clone_holder(int& pidfd) {
  clone_args args{};
  args.flags = CLONE_NEWUSER | CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  pid_t pid = static_cast<pid_t>(::syscall(SYS_clone3, &args, sizeof args));
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (;;) ::pause();
}

}  // namespace

Outcome write_id_maps(Context& context, pid_t pid, const std::vector<IdMap>& uids,
                      const std::vector<IdMap>& gids, bool deny_setgroups) {
  char path[48];
  if (deny_setgroups) {
    std::snprintf(path, sizeof path, "%d/setgroups", pid);
    // Kernels before 3.19 have no such file and need none.
    if (int err = write_proc_file(context, path, "deny"); err != 0 && err != ENOENT) {
      return fail_with(err, "setgroups");
    }
  }
  std::snprintf(path, sizeof path, "%d/gid_map", pid);
  if (!gids.empty()) {
    if (int err = write_proc_file(context, path, map_text(gids)); err != 0)
      return fail_with(err, "gid-map");
  }
  std::snprintf(path, sizeof path, "%d/uid_map", pid);
  if (!uids.empty()) {
    if (int err = write_proc_file(context, path, map_text(uids)); err != 0)
      return fail_with(err, "uid-map");
  }
  return done();
}

Outcome mapped_namespace(Context& context, const std::vector<IdMap>& uids,
                         const std::vector<IdMap>& gids, int& fd) {
  for (const MappedNamespace& known : context.mapped_namespaces) {
    if (same_maps(known.uid_maps, uids) && same_maps(known.gid_maps, gids)) {
      fd = known.fd.get();
      return done();
    }
  }
  int pidfd = -1;
  pid_t pid = clone_holder(pidfd);
  if (pid < 0) return fail("clone-userns");
  UniqueFd holder(pidfd);
  Outcome outcome = write_id_maps(context, pid, uids, gids, false);
  MappedNamespace made{uids, gids, {}};
  if (outcome.ok()) {
    char path[48];
    std::snprintf(path, sizeof path, "%d/ns", pid);
    UniqueFd directory = open_proc_file(context, path, O_PATH | O_DIRECTORY);
    // "user" is a magic link; its parent has just been verified.
    if (directory) made.fd.reset(::openat(directory.get(), "user", O_RDONLY | O_CLOEXEC));
    if (!made.fd) outcome = fail("open-userns");
  }
  (void)pidfd_signal(holder.get(), SIGKILL);
  (void)wait_pidfd(holder.get(), true);
  if (!outcome.ok()) return outcome;
  fd = made.fd.get();
  context.mapped_namespaces.push_back(std::move(made));
  return done();
}

void become_namespace_root() {
  // EINVAL: 0 is not mapped; the process goes on with the overflow ids and all capabilities.
  (void)!::setresgid(0, 0, 0);
  (void)!::setresuid(0, 0, 0);
}

}  // namespace bulkhead
