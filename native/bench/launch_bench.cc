// launch-bench [ROUNDS]: wall time of launches, by kind, minimum and median in milliseconds.
#include <sched.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "test/harness.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::test;

double now_ms() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

struct Times {
  std::vector<double> call, paused, whole;
};

// One launch: the call itself, until the report after Clone or the end of file, until all is
// reaped.
void launch_once(std::string_view plan, Times& times) {
  LaunchArgs args;
  args.init_fd = init_fd();
  args.plan = {reinterpret_cast<const uint8_t*>(plan.data()), plan.size()};
  double start = now_ms();
  auto launched = launch(args);
  if (!launched) std::abort();
  times.call.push_back(now_ms() - start);
  UniqueFd inner;
  for (;;) {
    auto event = read_init_event(launched->sync.get());
    if (!event || event->kind == InitEvent::Kind::kFailed) {
      std::printf("failed: %s\n", event ? event->failure.detail.c_str() : "");
      std::exit(1);
    }
    if (event->kind == InitEvent::Kind::kEnd) break;
    if (event->kind == InitEvent::Kind::kCloned) inner = pidfd_open(event->pid).take();
    if (event->kind == InitEvent::Kind::kPaused) {
      times.paused.push_back(now_ms() - start);
      (void)send_to_init(launched->sync.get(), true);
    }
  }
  (void)wait_pidfd(launched->pidfd.get(), true);
  if (inner) (void)wait_pidfd(inner.get(), true);
  times.whole.push_back(now_ms() - start);
}

void show(const char* name, std::vector<double>& values) {
  if (values.empty()) return;
  std::sort(values.begin(), values.end());
  std::printf("  %-8s min %.3f med %.3f", name, values.front(), values[values.size() / 2]);
}

void measure(const char* name, std::vector<StepBody> steps, int rounds) {
  PlanText plan;
  plan.steps = std::move(steps);
  std::string encoded = encode_plan(plan);
  Times times;
  for (int i = 0; i < rounds; i++) launch_once(encoded, times);
  std::printf("%-34s", name);
  show("call", times.call);
  show("gate", times.paused);
  show("whole", times.whole);
  std::printf("\n");
}

StepBody run_true() {
  Exec exec;
  exec.file = text("/bin/busybox");
  exec.args = texts({"true"});
  return exec;
}

// What a container engine's default configuration asks for.
ContainerSteps usual() {
  ContainerSteps more;
  auto mount = [&](uint32_t slot, const char* type, const char* target, uint64_t attr) {
    FsMount fs;
    fs.slot = {slot};
    fs.fstype = text(type);
    fs.attr_flags = attr;
    more.inner.push_back(fs);
    Attach attach;
    attach.slot = {slot};
    attach.target = text(target);
    attach.make = TargetKind::kDirectory;
    more.inner.push_back(attach);
  };
  mount(10, "sysfs", "/sys", 0xf);
  mount(11, "mqueue", "/dev/mqueue", 0xe);
  mount(12, "tmpfs", "/dev/shm", 0xe);
  mount(13, "tmpfs", "/run", 0x6);
  const uint32_t numbers[][2] = {{1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}};
  const char* names[] = {"/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"};
  for (int i = 0; i < 5; i++) {
    Mknod node;
    node.target = text(names[i]);
    node.major = numbers[i][0];
    node.minor = numbers[i][1];
    node.mode = 0666;
    more.inner.push_back(node);
  }
  const char* links[][2] = {{"/dev/fd", "/proc/self/fd"},
                            {"/dev/stdin", "/proc/self/fd/0"},
                            {"/dev/stdout", "/proc/self/fd/1"},
                            {"/dev/stderr", "/proc/self/fd/2"},
                            {"/dev/ptmx", "pts/ptmx"}};
  for (auto& link : links) more.inner.push_back(Symlink{text(link[0]), text(link[1]), true});
  for (const char* path : {"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
                           "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                           "/proc/sched_debug", "/sys/firmware", "/proc/scsi"}) {
    more.late.push_back(MaskPath{text(path)});
  }
  for (const char* path :
       {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}) {
    more.late.push_back(ReadonlyPath{text(path)});
  }
  Gate gate;
  gate.point = text("start");
  more.late.push_back(gate);
  more.late.push_back(NoNewPrivs{});
  more.late.push_back(BoundingSet{0xa80425fb});
  more.late.push_back(User{});
  more.late.push_back(Capabilities{0xa80425fb, 0xa80425fb, 0, 0});
  return more;
}

std::vector<StepBody> container_of(const std::string& root, ContainerSteps more) {
  auto steps = container(root, "", std::move(more));
  steps.back() = run_true();
  return steps;
}

}  // namespace

int main(int argc, char** argv) {
  int rounds = argc > 1 ? std::atoi(argv[1]) : 200;
  // A namespace of its own, so that the machine's mounts are none of the measurement's business.
  if (::unshare(CLONE_NEWNS) < 0 ||
      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0)
    return 1;
  Rootfs root;
  measure("helper and exec only", {run_true()}, rounds);
  ContainerSteps plain;
  plain.namespaces = CLONE_NEWNS | CLONE_NEWPID;
  measure("pid+mnt, root, proc, dev", container_of(root.path(), plain), rounds);
  measure("all namespaces, root, proc, dev", container_of(root.path(), {}), rounds);
  measure("usual container", container_of(root.path(), usual()), rounds);
  ContainerSteps no_net = usual();
  no_net.namespaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
  measure("usual container without netns", container_of(root.path(), no_net), rounds);
  return 0;
}
