// Seed corpora for the fuzzers, from real plans and messages: native-test --seeds DIR.
#include <sched.h>
#include <sys/stat.h>

#include "core/frame.h"
#include "core/init_codec.h"
#include "test/harness.h"

namespace bulkhead::test {

void write_seeds(const std::string& directory) {
  for (const char* name : {"", "/plan", "/frame", "/init_messages"})
    ::mkdir((directory + name).c_str(), 0755);
  PlanText plan;
  ContainerSteps more;
  more.namespaces = CLONE_NEWNS | CLONE_NEWUSER;
  more.uid_maps = more.gid_maps = {{0, 100000, 65536}};
  more.outer = {MakeCgroup{text("/sys/fs/cgroup/pids/x"), true, texts({"+pids"})},
                JoinNamespace{text("/proc/1/ns/net"), 0, 0, 1}};
  more.late = {MaskPath{text("/proc/kcore")},
               Sysctl{text("a/b"), text("1")},
               Seccomp{bytes("12345678"), 1, {}, {}, {}},
               User{1, 2, {3, 4}, false},
               OomScoreAdj{{-5}, true},
               Capabilities{1, 2, 3, 4}};
  plan.steps = container("/rootfs", "true", more);
  std::string whole = encode_plan(plan);
  write_text(directory + "/plan/container", whole);
  int number = 0;
  for (const StepBody& step : plan.steps) {
    PlanText one;
    one.steps = {step};
    write_text(directory + "/plan/step" + std::to_string(number++), encode_plan(one));
  }
  write_text(directory + "/frame/two", std::string("\3\0\0\0\2ab\0\0\0\0", 12));
  write_text(directory + "/frame/large", std::string("\7\0\x80\0\1x", 6));
  write_text(directory + "/init_messages/cloned", encode_cloned(77));
  write_text(directory + "/init_messages/paused", encode_paused("start"));
  write_text(directory + "/init_messages/console", encode_console());
  write_text(directory + "/init_messages/failed",
             encode_failure({1, 22, "/proc", 20, "attach", 256, "why"}));
  write_text(directory + "/init_messages/warning", encode_warning({1, 45, "oom", 13, "", 0, ""}));
  write_text(directory + "/init_messages/proceed", encode_to_init({true, 7}));
}

}  // namespace bulkhead::test
