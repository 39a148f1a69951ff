// Namespaces: joined, unshared, and the clone that separates the outer from the inner stage.
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/init_codec.h"
#include "core/pidfd.h"
#include "init/idmap.h"
#include "init/procfs.h"
#include "init/steps.h"

namespace bulkhead {

namespace {

// Opens what the step joins. The start time is compared after the pidfd is open: from then on the
// pid is not reused.
Outcome open_namespaces(const JoinNamespace& step, UniqueFd& fd) {
  if (step.pid == 0) {
    fd.reset(::open(step.path.c_str(), O_RDONLY | O_CLOEXEC));
    return fd ? done() : fail("open", step.path.view());
  }
  auto pidfd = pidfd_open(static_cast<pid_t>(step.pid));
  if (!pidfd) return fail_with(pidfd.error().code, "open");
  fd = pidfd.take();
  if (step.pid_start_time == 0) return done();
  auto started = process_start_time(static_cast<pid_t>(step.pid));
  if (!started) return fail_with(started.error().code, "open");
  return *started == step.pid_start_time ? done() : fail_with(ESRCH, "pid-reused");
}

// Every namespace of the plan is opened before the first one is joined: once a mount namespace is
// joined, names mean what the container says.
Outcome open_all_namespaces(Context& context) {
  const auto& steps = context.plan->steps;
  for (uint32_t index = context.index; index < steps.size(); index++) {
    const JoinNamespace* join = std::get_if<JoinNamespace>(&steps[index].body);
    if (join == nullptr) continue;
    NamespaceFile file{index, {}};
    Outcome outcome = open_namespaces(*join, file.fd);
    if (!outcome.ok()) {
      context.index = index;
      return outcome;
    }
    context.namespace_files.push_back(std::move(file));
  }
  return done();
}

// Runs in the new process. Only what follows "go" may touch the world: until then the id maps are
// not written.
Outcome begin_inner_stage(Context& context, const Clone& step, UniqueFd go) {
  context.cloned = true;
  die_with_launcher(context);  // not inherited
  context.go = std::move(go);
  context.namespace_files.clear();
  context.host_proc.reset();
  context.procfs.reset();
  context.birth_cgroup.reset();
  context.network.reset();
  context.fresh_userns = (step.namespaces & CLONE_NEWUSER) != 0;
  // Not later: if the outer stage is killed before it has reported us, nobody knows of us, and a
  // step that hangs would do so for ever.
  await_outer(context);
  if (context.fresh_userns) {
    become_namespace_root();
    // Changing ids has reset it to suid_dumpable, which an administrator may have set to 1.
    ::prctl(PR_SET_DUMPABLE, 0);
  }
  // Here and not by clone3, which roots it at the cgroups of the caller.
  if ((step.namespaces & CLONE_NEWCGROUP) != 0 && ::unshare(CLONE_NEWCGROUP) < 0)
    return fail("unshare-cgroup");
  return done();
}

// A network namespace belongs to the user namespace that it was made in: with a new one it is
// Clone's to make. In a joined one setns(2) refuses, and Clone makes it too.
bool enter_network_made_ahead(Context& context, const Clone& step) {
  return context.network && (step.namespaces & CLONE_NEWNET) != 0 &&
         (step.namespaces & CLONE_NEWUSER) == 0 &&
         ::setns(context.network.get(), CLONE_NEWNET) == 0;
}

}  // namespace

Outcome carry_out(Context& context, const JoinNamespace& step) {
  if (context.namespace_files.empty()) {
    // Kept for id maps: the host's, even when a mount namespace is joined.
    (void)procfs_root(context);
    Outcome outcome = open_all_namespaces(context);
    if (!outcome.ok()) return outcome;
  }
  for (NamespaceFile& file : context.namespace_files) {
    if (file.step != context.index) continue;
    if (::setns(file.fd.get(), static_cast<int>(step.types)) < 0)
      return fail("setns", step.path.view());
    file.fd.reset();
  }
  if ((step.types & CLONE_NEWUSER) != 0) become_namespace_root();
  if ((step.types & CLONE_NEWNS) != 0) context.joined_mount_namespace = true;
  ::prctl(PR_SET_DUMPABLE, 0);
  return done();
}

Outcome carry_out(Context&, const Unshare& step) {
  if (::unshare(static_cast<int>(step.flags)) < 0) return fail("unshare");
  return done();
}

Outcome carry_out(Context& context, const Clone& step) {
  if (context.cloned) return fail_with(EINVAL, "second-clone");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return fail("pipe");
  UniqueFd go(ends[0]);
  UniqueFd tell(ends[1]);
  bool new_user = (step.namespaces & CLONE_NEWUSER) != 0;
  // Unprivileged launchers may write the maps of a dumpable process only. It is nowhere to be seen
  // yet from inside a container: its namespaces are new.
  if (new_user) ::prctl(PR_SET_DUMPABLE, 1);
  clone_args args{};
  // CLONE_PARENT: the launcher is the parent, so that it gets the exit status; the exit signal is
  // the outer stage's.
  args.flags = CLONE_PARENT | (step.namespaces & ~static_cast<uint64_t>(CLONE_NEWCGROUP));
  if (enter_network_made_ahead(context, step)) args.flags &= ~static_cast<uint64_t>(CLONE_NEWNET);
  if (context.birth_cgroup) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(context.birth_cgroup.get());
  }
  pid_t pid = static_cast<pid_t>(::syscall(SYS_clone3, &args, sizeof args));
  if (pid < 0) return fail("clone");
  if (pid == 0) {
    tell.reset();
    return begin_inner_stage(context, step, std::move(go));
  }
  go.reset();
  // Also before a failure below: the launcher has to reap it.
  report(context, encode_cloned(pid));
  if (new_user) {
    ::prctl(PR_SET_DUMPABLE, 0);
    // On failure the pipe closes with us, and the new process leaves.
    Outcome outcome =
        write_id_maps(context, pid, step.uid_maps, step.gid_maps, step.deny_setgroups);
    if (!outcome.ok()) return outcome;
  }
  (void)!::write(tell.get(), "g", 1);
  ::_exit(0);
}

}  // namespace bulkhead
