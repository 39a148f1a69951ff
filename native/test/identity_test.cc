// Users, capabilities, limits.
#include <fcntl.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "test/check.h"
#include "test/harness.h"

namespace bulkhead::test {

namespace {

constexpr uint64_t kChown = 1 << 0, kKill = 1 << 5, kNetBind = 1 << 10;

}  // namespace

TEST(user_groups_and_five_capability_sets) {
  Rootfs root;
  ContainerSteps more;
  User user;
  user.uid = 1000;
  user.gid = 1001;
  user.additional_gids = {10, 20};
  Capabilities caps{kNetBind, kNetBind | kKill, kNetBind, kNetBind};
  more.late = {BoundingSet{kChown | kNetBind | kKill}, user, caps, NoNewPrivs{}};
  Run run = run_container(root.path(),
                          "id -u; id -g; id -G; grep -E '^Cap|NoNew' /proc/self/status", more);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out,
           "1000\n1001\n1001 10 20\nCapInh:\t0000000000000400\nCapPrm:\t0000000000000400\n"
           "CapEff:\t0000000000000400\nCapBnd:\t0000000000000421\nCapAmb:"
           "\t0000000000000400\nNoNewPrivs:\t1\n");
}

TEST(root_without_inheritable_keeps_permitted_of_bounding) {
  Rootfs root;
  ContainerSteps more;
  more.late = {BoundingSet{kChown | kKill}, User{},
               Capabilities{kChown | kKill, kChown | kKill, 0, 0}};
  Run run = run_container(root.path(), "grep -E '^Cap(Inh|Eff|Bnd|Amb)' /proc/self/status", more);
  CHECK_EQ(run.out,
           "CapInh:\t0000000000000000\nCapEff:\t0000000000000021\nCapBnd:\t0000000000000021\n"
           "CapAmb:\t0000000000000000\n");
}

TEST(capabilities_stay_between_user_and_capabilities) {
  Rootfs root;
  ContainerSteps more;
  User user;
  user.uid = 1000;
  user.gid = 1000;
  // sethostname needs CAP_SYS_ADMIN, which setuid would have taken away.
  more.late = {user, Hostname{text("late")}, Capabilities{}};
  Run run = run_container(root.path(), "hostname; grep CapEff /proc/self/status", more);
  CHECK_EQ(run.out, "late\nCapEff:\t0000000000000000\n");
}

TEST(capabilities_beyond_permitted_are_refused) {
  Rootfs root;
  ContainerSteps more;
  more.late = {Capabilities{kKill, 0, 0, 0}};
  Run run = run_container(root.path(), "true", more);
  CHECK_EQ(run.failure.err, EPERM);
  CHECK_EQ(run.failure.detail, "capset");
  more.late = {Capabilities{0, kKill, 0, kKill}};
  run = run_container(root.path(), "true", more);
  CHECK_EQ(run.failure.detail, "ambient");
}

TEST(limits_and_scheduling) {
  Rootfs root;
  ContainerSteps more;
  Scheduler nice;
  nice.policy = 3;  // SCHED_BATCH
  nice.nice = {4};
  more.late = {Rlimit{RLIMIT_NOFILE, 100, 200}, Personality{PER_LINUX32}, IoPriority{2, 6}, nice,
               CpuAffinity{bytes("\x01")},      OomScoreAdj{{300}, false}};
  Run run =
      run_container(root.path(),
                    "ulimit -n; ulimit -Hn; busybox uname -m; busybox ionice -p $$; "
                    "busybox awk '{print $19}' /proc/self/stat; busybox grep Cpus_allowed_list "
                    "/proc/self/status; cat /proc/self/oom_score_adj",
                    more);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "100\n200\ni686\nbest-effort: prio 6\n4\nCpus_allowed_list:\t0\n300\n");
}

TEST(refused_limits_name_the_step) {
  Rootfs root;
  ContainerSteps more;
  more.late = {Rlimit{RLIMIT_NOFILE, 300, 200}};
  Run run = run_container(root.path(), "true", more);
  CHECK_EQ(run.failure.err, EINVAL);
  CHECK_EQ(run.failure.action, Rlimit::kAction);
  more.late = {OomScoreAdj{{2000}, true}};
  run = run_container(root.path(), "true", more);
  CHECK_EQ(run.failure.err, EINVAL);
  more.late = {CpuAffinity{bytes(std::string_view("\0", 1))}};
  run = run_container(root.path(), "true", more);
  CHECK_EQ(run.failure.detail, "sched-setaffinity");
  more.late = {LsmExecLabel{text("smack"), text("x")}};
  run = run_container(root.path(), "true", more);
  CHECK_EQ(run.failure.detail, "unknown-lsm");
}

TEST(best_effort_oom_score_warns) {
  Rootfs root;
  ContainerSteps more;
  // Without CAP_SYS_RESOURCE the score cannot go below where it was set.
  User user;
  user.uid = 1000;
  user.gid = 1000;
  more.late = {OomScoreAdj{{100}, false}, Capabilities{0, 0, 0, 0}, OomScoreAdj{{-500}, true}};
  Run run = run_container(root.path(), "cat /proc/self/oom_score_adj", more);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "100\n");
  REQUIRE(run.warnings.size() == 1);
  CHECK_EQ(run.warnings[0].action, OomScoreAdj::kAction);
  CHECK(run.warnings[0].err == EACCES || run.warnings[0].err == EPERM);
}

TEST(session_keyring_is_joined) {
  Rootfs root;
  ContainerSteps more;
  more.late = {SessionKeyring{text("_ses.test")}};
  Run run = run_container(root.path(), "grep -c _ses.test /proc/keys", more);
  CHECK_EQ(run.failure.detail, "");
  CHECK(run.out == "1\n" || run.out.find("No such file") != std::string::npos);
}

TEST(parent_death_signal_is_set) {
  // The launching thread is this one and lives on: only the call itself can be seen to succeed.
  Run run = run_steps({ParentDeathSignal{9}, shell("echo alive")});
  CHECK_EQ(run.out, "alive\n");
  run = run_steps({ParentDeathSignal{999}, shell("echo alive")});
  CHECK_EQ(run.failure.err, EINVAL);
}

TEST(stdio_belongs_to_the_user) {
  Rootfs root;
  ContainerSteps more;
  User user;
  user.uid = 1000;
  user.gid = 1000;
  more.late = {OwnStdio{1000, 1000}, user, Capabilities{}};
  Run run = run_container(root.path(), "echo reopened > /proc/self/fd/1", more);
  CHECK_EQ(run.out, "reopened\n");
  more.late = {user, Capabilities{}};
  run = run_container(root.path(), "echo reopened > /proc/self/fd/1", more);
  CHECK(run.out.find("Permission denied") != std::string::npos || run.exit_code() != 0);
}

}  // namespace bulkhead::test
