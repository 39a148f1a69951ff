// Who a caller is (identity), what mounts there are, and where a path leads step by step (walk):
// with a real call that waits, of a process behind a filter.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "core/fd.h"
#include "sentry/caller.h"
#include "sentry/identity.h"
#include "sentry/mounts.h"
#include "sentry/place.h"
#include "sentry/sandbox.h"
#include "sentry/walk.h"
#include "sentry/worker.h"
#include "test/check.h"
#include "test/harness.h"

namespace bulkhead::test {

namespace {

using namespace bulkhead::sentry;

constexpr char kStatus[] =
    "Name:\tsh\nUmask:\t0027\nState:\tS (sleeping)\nTgid:\t4711\nPid:\t4712\n"
    "Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nNStgid:\t4711\t17\nNSpid:\t4712\t18\n"
    "CapInh:\t0000000000000000\nCapPrm:\t00000000000000ff\nCapEff:\t000000000000000f\n";

// A child that waits in getppid(2), which its filter hands over; killed at the end.
class WaitingCall {
 public:
  WaitingCall() {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) return;
    UniqueFd own(pair[0]);
    UniqueFd theirs(pair[1]);
    child_ = ::fork();
    if (child_ == 0) {
      own.reset();
      wait_in_a_call(theirs.get());
    }
    theirs.reset();
    // The child keeps its listener at the same number; nobody needs ADDFD to fetch it.
    int number = -1;
    if (::recv(own.get(), &number, sizeof number, 0) != sizeof number) return;
    UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, child_, 0)));
    listener_.reset(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
    if (listener_ && ::send(own.get(), "+", 1, 0) == 1)
      waits_ = ::ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_RECV, &call_) == 0;
  }
  ~WaitingCall() { end(); }
  WaitingCall(const WaitingCall&) = delete;
  WaitingCall& operator=(const WaitingCall&) = delete;

  void end() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    child_ = 0;
  }
  bool waits() const { return waits_; }
  int listener() const { return listener_.get(); }
  const seccomp_notif& call() const { return call_; }

 private:
  [[noreturn]] static void wait_in_a_call(int socket) {
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog program{4, code};
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    int listener = static_cast<int>(::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                                              SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
    char go = 0;
    if (listener >= 0 && ::send(socket, &listener, sizeof listener, 0) == sizeof listener &&
        ::recv(socket, &go, 1, 0) == 1) {
      ::syscall(SYS_getppid);
    }
    ::_exit(0);
  }

  pid_t child_ = 0;
  UniqueFd listener_;
  seccomp_notif call_{};
  bool waits_ = false;
};

// A tree to walk in, and all that a walk needs.
class Ground {
 public:
  Ground() : worker(pool, callers, 0), caller(waiting.listener(), proc(), waiting.call(), worker) {
    root.reset(::open(tree.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  }

  int go(const char* path, bool follow, Walked& walked) {
    return walk(sandbox, caller, root.get(), root.get(), path, follow, walked);
  }
  // Where it ended, below the tree: "/directory name". Empty: `error`.
  std::string end_of(const char* path, bool follow = true) {
    Walked walked;
    error = go(path, follow, walked);
    if (error != 0) return {};
    char link[64];
    char target[PATH_MAX];
    std::snprintf(link, sizeof link, "/proc/self/fd/%d", walked.at.get());
    ssize_t length = ::readlink(link, target, sizeof target);
    std::string where(target, length < 0 ? 0 : static_cast<size_t>(length));
    return where.substr(tree.path().size()) + " " + walked.name;
  }
  int proc() {
    sandbox.proc.reset(::open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
    return sandbox.proc.get();
  }

  TempDir tree;
  WaitingCall waiting;
  Sandbox sandbox;
  Callers callers;
  Pool pool;
  Worker worker;
  Caller caller;
  UniqueFd root;
  int error = 0;
};

}  // namespace

TEST(sentry_identity_is_that_of_the_status_file) {
  Identity who;
  REQUIRE(parse_identity(kStatus, who));
  CHECK_EQ(who.real_uid, 1u);
  CHECK_EQ(who.uid, 2u);
  CHECK_EQ(who.real_gid, 5u);
  CHECK_EQ(who.gid, 6u);
  CHECK_EQ(who.umask, 027u);
  CHECK_EQ(who.process, 4711u);
  CHECK_EQ(who.own_process, 17u);
  CHECK_EQ(who.own_thread, 18u);
  CHECK_EQ(who.groups.size(), 2u);
  CHECK_EQ(who.effective, 0xfu);
  // access(2): real ids, and capabilities only of a real root.
  Identity real = who.real();
  CHECK_EQ(real.uid, 1u);
  CHECK_EQ(real.effective, 0u);
  who.real_uid = 0;
  CHECK_EQ(who.real().effective, 0xffu);
}

TEST(sentry_identity_takes_nothing_for_granted) {
  // Without any one of these lines nobody knows who it is.
  for (const char* line :
       {"Umask:", "Tgid:", "Uid:", "Gid:", "NStgid:", "NSpid:", "CapPrm:", "CapEff:"}) {
    std::string status = kStatus;
    status.replace(status.find(line), 1, "#");
    Identity who;
    CHECK(!parse_identity(status, who));
  }
  std::string many = kStatus;
  std::string groups = "Groups:\t";
  for (int i = 0; i < 300; i++) groups += "7 ";
  many.replace(many.find("Groups:\t9 10 "), 13, groups);
  Identity who;
  CHECK(!parse_identity(many, who));
  CHECK_EQ(kept_capabilities() >> CAP_SYS_ADMIN & 1, 0u);
  CHECK_EQ(kept_capabilities(true) >> CAP_SYS_ADMIN & 1, 1u);
  CHECK_EQ(kept_capabilities(true) >> CAP_SYS_MODULE & 1, 0u);
}

// On one processor a hand-over takes microseconds; the limit is far from both.
TEST(sentry_brings_callers_here_when_hand_overs_take_long) {
  Apart apart;
  CHECK(!apart.should_meet());
  apart.took(100'000);
  CHECK(!apart.should_meet());
  apart.took(100'000);
  CHECK(apart.should_meet());
  // Not again at once, however long they take.
  int again = 0;
  for (int i = 0; i < 32; i++) {
    apart.took(100'000);
    again += apart.should_meet() ? 1 : 0;
  }
  CHECK_EQ(again, 4);
  apart.took(3'000);
  for (int i = 0; i < 32; i++) CHECK(!apart.should_meet());
}

TEST(sentry_mounts_know_what_is_guarded) {
  MountTable table = parse_mounts(
      "30 1 0:30 / / rw - overlay overlay rw\n"
      "29 30 0:7 / /proc rw,nosuid - proc proc rw\n"
      "40 29 0:8 / /proc/kallsyms ro - tmpfs tmpfs rw\n"
      "41 30 0:9 / /process rw - tmpfs tmpfs rw\n"
      "42 30 0:10 / /dev rw - tmpfs tmpfs rw\n"
      "nonsense\n"
      "43 30 0:11 / /sys/fs ro - tmpfs tmpfs rw");
  CHECK_EQ(table.ids.size(), 6u);
  CHECK_EQ(table.ids.front(), 29u);
  CHECK_EQ(table.proc.size(), 1u);
  REQUIRE(table.guarded.size() == 4);
  CHECK_EQ(table.guarded[0], 29u);
  CHECK_EQ(table.guarded[1], 40u);
  CHECK_EQ(table.guarded[2], 42u);
  CHECK_EQ(table.guarded[3], 43u);
}

TEST(sentry_walk_goes_where_the_kernel_would) {
  Ground ground;
  REQUIRE(ground.waiting.waits());
  const std::string& top = ground.tree.path();
  ::mkdir((top + "/a").c_str(), 0755);
  ::mkdir((top + "/a/b").c_str(), 0755);
  write_text(top + "/a/b/file", "x");
  CHECK_EQ(::symlink("b/file", (top + "/a/near").c_str()), 0);
  CHECK_EQ(::symlink("/a/b", (top + "/far").c_str()), 0);
  CHECK_EQ(::symlink("around", (top + "/around").c_str()), 0);
  CHECK_EQ(ground.end_of("a/b/file"), "/a/b file");
  CHECK_EQ(ground.end_of("//a//b/new"), "/a/b new");
  CHECK_EQ(ground.end_of("a/near"), "/a/b file");
  CHECK_EQ(ground.end_of("a/near", false), "/a near");
  // An absolute link is one of the caller's root.
  CHECK_EQ(ground.end_of("far/file"), "/a/b file");
  CHECK_EQ(ground.end_of("a/"), " a/");
  CHECK_EQ(ground.end_of("around"), "");
  CHECK_EQ(ground.error, ELOOP);
  CHECK_EQ(ground.end_of("a/b/file/more"), "");
  CHECK_EQ(ground.error, ENOTDIR);
  CHECK_EQ(ground.end_of("nothing/more"), "");
  CHECK_EQ(ground.error, ENOENT);
}

TEST(sentry_walk_does_not_follow_traps) {
  Ground ground;
  REQUIRE(ground.waiting.waits());
  const std::string& top = ground.tree.path();
  ::mkdir((top + "/shared").c_str(), 0777);
  ::chmod((top + "/shared").c_str(), 01777);
  write_text(top + "/target", "x");
  std::string trap = top + "/shared/trap";
  CHECK_EQ(::symlink("/target", trap.c_str()), 0);
  CHECK_EQ(ground.end_of("shared/trap"), " target");
  // Of somebody who is neither the caller nor the owner of the directory.
  if (::lchown(trap.c_str(), 4711, 4711) == 0) {
    CHECK_EQ(ground.end_of("shared/trap"), "");
    CHECK_EQ(ground.error, EACCES);
  }
}

TEST(sentry_caller_is_nobody_when_it_is_gone) {
  Ground ground;
  REQUIRE(ground.waiting.waits());
  CHECK(ground.caller.still_waits());
  const Known* known = ground.worker.known(ground.caller);
  REQUIRE(known != nullptr);
  CHECK_EQ(known->identity.process, ground.waiting.call().pid);
  CHECK_EQ(known->identity.uid, ::geteuid());
  ground.worker.done();
  ground.waiting.end();
  CHECK(!ground.caller.still_waits());
  // Remembered, but asked about anew.
  CHECK(ground.worker.known(ground.caller) == nullptr);
  char byte = 0;
  CHECK_EQ(ground.caller.read(0x1000, &byte, 1), ESRCH);
  CHECK(!ground.caller.descriptor(0));
}

// A thread that was about to change its umask and is gone since has changed it, or never does.
TEST(sentry_remembers_umasks_again_when_who_changed_one_is_gone) {
  Ground ground;
  WaitingCall other;
  REQUIRE(ground.waiting.waits() && other.waits());
  Caller changer(other.listener(), ground.sandbox.proc.get(), other.call(), ground.worker);
  Callers& callers = ground.callers;
  callers.umask_changes(changer);
  Callers::Found found = callers.find(ground.caller);
  REQUIRE(found != nullptr);
  // As long as it may be doing it, what was read is not relied on.
  Callers::Found unsure = callers.find_with_umask(ground.caller, found);
  CHECK(unsure != callers.find_with_umask(ground.caller, unsure));
  other.end();
  found = callers.find_with_umask(ground.caller, unsure);
  CHECK(found != nullptr && found != unsure);
  CHECK(found == callers.find_with_umask(ground.caller, found));
}

}  // namespace bulkhead::test
