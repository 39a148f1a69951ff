// Mounts: attaching, hostile targets, masks, propagation, overlay.
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "test/check.h"
#include "test/harness.h"

namespace bulkhead::test {

namespace {

OpenTree tree(uint32_t slot, std::string_view path) {
  OpenTree step;
  step.slot = {slot};
  step.path = text(path);
  step.recursive = true;
  return step;
}
Attach attach(uint32_t slot, std::string_view target, TargetKind make = TargetKind::kLikeSource) {
  Attach step;
  step.slot = {slot};
  step.target = text(target);
  step.make = make;
  return step;
}
MountSetattr setattr(uint32_t slot, uint64_t set) {
  MountSetattr step;
  step.slot = {slot};
  step.set = set;
  return step;
}
FsMount tmpfs(uint32_t slot) {
  FsMount step;
  step.slot = {slot};
  step.fstype = text("tmpfs");
  return step;
}

}  // namespace

TEST(bind_mounts_of_directory_and_file_make_their_targets) {
  Rootfs root;
  TempDir host;
  ::mkdir((host / "dir").c_str(), 0755);
  write_text(host / "dir/inside", "inside");
  write_text(host / "file", "contents");
  ContainerSteps more;
  more.outer = {tree(1, host / "dir"), tree(2, host / "file")};
  more.inner = {attach(1, "/mnt/a/b"), attach(2, "/etc/x/file"), setattr(2, MOUNT_ATTR_RDONLY)};
  Run run =
      run_container(root.path(), "cat /mnt/a/b/inside /etc/x/file; echo x > /etc/x/file", more);
  CHECK(!run.failed);
  CHECK_EQ(run.failure.detail, "");
  CHECK(run.out.starts_with("insidecontents"));
  CHECK(run.out.find("Read-only file system") != std::string::npos);
  CHECK(exists(root / "mnt/a/b"));
  // Nothing was mounted on the host.
  CHECK_EQ(read_text(root / "etc/x/file"), "");
}

TEST(symlinked_target_stays_inside_the_root) {
  Rootfs root;
  TempDir host;
  write_text(host / "secret", "host");
  ::symlink("/escape", (root / "abs").c_str());
  ::symlink("../../../../../../escape2", (root / "rel").c_str());
  ::mkdir((root / "escape").c_str(), 0755);
  ::mkdir((root / "escape2").c_str(), 0755);
  ContainerSteps more;
  more.outer = {tree(1, host.path()), tree(2, host.path())};
  more.inner = {attach(1, "/abs/m", TargetKind::kDirectory),
                attach(2, "/rel/m", TargetKind::kDirectory)};
  Run run = run_container(root.path(), "cat /escape/m/secret /escape2/m/secret", more);
  CHECK_EQ(run.out, "hosthost");
  CHECK(exists(root / "escape/m"));
  CHECK(!exists("/escape"));
  CHECK(!exists("/escape2"));
}

TEST(dangling_symlink_is_no_mount_point) {
  Rootfs root;
  TempDir host;
  write_text(host / "file", "x");
  ::symlink("/nowhere/at/all", (root / "dangling").c_str());
  ContainerSteps more;
  more.outer = {tree(1, host / "file"), tree(2, host.path())};
  more.inner = {attach(1, "/dangling")};
  Run run = run_container(root.path(), "true", more);
  CHECK(run.failed);
  CHECK_EQ(run.failure.err, ELOOP);
  more.inner = {attach(2, "/dangling/sub")};
  run = run_container(root.path(), "true", more);
  CHECK(run.failed);
  CHECK(!exists("/nowhere"));
}

TEST(dot_dot_in_what_is_to_be_made_is_refused) {
  Rootfs root;
  ContainerSteps more;
  more.inner = {tmpfs(1), attach(1, "/new/../../x", TargetKind::kDirectory)};
  Run run = run_container(root.path(), "true", more);
  CHECK(run.failed);
  CHECK_EQ(run.failure.err, EINVAL);
  CHECK_EQ(run.failure.path, "/new/../../x");
}

TEST(proc_as_symlink_is_refused) {
  Rootfs root;
  ::rmdir((root / "proc").c_str());
  ::symlink("/data", (root / "proc").c_str());
  Run run = run_container(root.path(), "true");
  CHECK(run.failed);
  CHECK_EQ(run.failure.action, Attach::kAction);
  CHECK_EQ(run.failure.detail, "not-a-directory");
  CHECK_EQ(run.failure.err, ENOTDIR);
}

TEST(symlink_into_proc_is_refused) {
  Rootfs root;
  TempDir host;
  ::symlink("/proc/self", (root / "trick").c_str());
  ContainerSteps more;
  more.outer = {tree(1, host.path())};
  more.inner = {attach(1, "/trick/attr", TargetKind::kExisting)};
  Run run = run_container(root.path(), "true", more);
  CHECK(run.failed);
  CHECK_EQ(run.failure.detail, "inside-proc");
}

TEST(missing_target_fails_or_is_passed_over) {
  Rootfs root;
  ContainerSteps more;
  more.inner = {tmpfs(1), attach(1, "/absent", TargetKind::kExisting)};
  Run run = run_container(root.path(), "echo ok", more);
  CHECK(run.failed);
  CHECK_EQ(run.failure.err, ENOENT);
  CHECK_EQ(run.failure.detail, "resolve");
  std::get<Attach>(more.inner[1]).optional = true;
  run = run_container(root.path(), "echo ok", more);
  CHECK_EQ(run.out, "ok\n");
}

TEST(swapping_symlinks_never_lead_out) {
  Rootfs root;
  TempDir host;
  TempDir outside;
  ::mkdir((root / "race").c_str(), 0755);
  ::mkdir((root / "race/real").c_str(), 0755);
  ::symlink(outside.path().c_str(), (root / "race/link").c_str());
  std::string a = root / "race/x", real = root / "race/real", link = root / "race/link";
  bool stop = false;
  // Exchanges a directory with a symlink to the outside, as fast as it can.
  ::mkdir(a.c_str(), 0755);
  std::thread racer([&] {
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
      ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, link.c_str(), RENAME_EXCHANGE);
    }
  });
  for (int round = 0; round < 40; round++) {
    ContainerSteps more;
    more.outer = {tree(1, host.path())};
    more.inner = {attach(1, "/race/x/sub/dir", TargetKind::kDirectory)};
    (void)run_container(root.path(), "true", more);
  }
  __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
  racer.join();
  CHECK(!exists(outside / "sub"));
}

TEST(tmpcopyup_keeps_contents_owners_and_modes) {
  Rootfs root;
  ::mkdir((root / "data/sub").c_str(), 0750);
  write_text(root / "data/sub/file", "copied", 0640);
  ::chown((root / "data/sub/file").c_str(), 12, 34);
  ::symlink("sub/file", (root / "data/link").c_str());
  ContainerSteps more;
  Attach up = attach(1, "/data", TargetKind::kDirectory);
  up.tmpcopyup = true;
  more.inner = {tmpfs(1), up};
  Run run = run_container(
      root.path(),
      "cat /data/link; stat -c ' %a %u %g' /data/sub/file /data/sub; echo y > /data/new", more);
  CHECK_EQ(run.out, "copied 640 12 34\n 750 0 0\n");
  CHECK(!exists(root / "data/new"));
}

TEST(unknown_option_tells_what_the_kernel_said) {
  Rootfs root;
  ContainerSteps more;
  FsMount bad = tmpfs(1);
  bad.options = texts({"sighs=1"});
  more.inner = {bad};
  Run run = run_container(root.path(), "true", more);
  CHECK(run.failed);
  CHECK_EQ(run.failure.err, EINVAL);
  CHECK_EQ(run.failure.detail, "option");
  CHECK_EQ(run.failure.path, "tmpfs");
  CHECK(run.failure.output.find("sighs") != std::string::npos);
  bad = tmpfs(1);
  bad.fstype = text("nosuchfs");
  more.inner = {bad};
  run = run_container(root.path(), "true", more);
  CHECK_EQ(run.failure.err, ENODEV);
  CHECK_EQ(run.failure.detail, "fsopen");
}

TEST(overlay_with_many_layers_mounts_in_the_outer_stage) {
  TempDir layers;
  Rootfs base;
  ::mkdir((layers / "upper").c_str(), 0755);
  ::mkdir((layers / "work").c_str(), 0755);
  ::mkdir((layers / "root").c_str(), 0755);
  std::string lower;
  for (int i = 0; i < 20; i++) {
    std::string name = layers / ("layer-with-a-rather-long-name-" + std::to_string(i));
    ::mkdir(name.c_str(), 0755);
    write_text(name + "/l" + std::to_string(i), "x");
    lower += name + ":";
  }
  lower += base.path();
  FsMount overlay;
  overlay.slot = {4000};
  overlay.fstype = text("overlay");
  overlay.source = text("overlay");
  overlay.options = texts(
      {"lowerdir=" + lower, "upperdir=" + (layers / "upper"), "workdir=" + (layers / "work")});
  overlay.fallback_target = text(layers / "root");
  auto steps = container(layers / "root", "ls -d /l* | grep -c l; touch /new");
  steps[0] = overlay;
  Run run = run_steps(steps);
  CHECK(!run.failed);
  CHECK_EQ(run.failure.output, "");
  CHECK_EQ(run.out, "20\n");
  CHECK(exists(layers / "upper/new"));
  CHECK(!exists(layers / "root/new"));
}

TEST(refused_file_system_is_mounted_by_the_old_call_unseen_by_the_host) {
  TempDir layers;
  Rootfs base;
  ::mkdir((layers / "upper").c_str(), 0755);
  ::mkdir((layers / "work").c_str(), 0755);
  ::mkdir((layers / "root").c_str(), 0755);
  FsMount overlay;
  overlay.slot = {4000};
  overlay.fstype = text("overlay");
  overlay.source = text("overlay");
  // Longer than fsconfig takes, and not a lowerdir: only mount(2) can do it.
  std::string padded = "upperdir=" + layers.path() + "/";
  while (padded.size() < 300) padded += "./";
  padded += "upper";
  overlay.options = texts({"lowerdir=" + base.path(), padded, "workdir=" + (layers / "work")});
  overlay.fallback_target = text(layers / "root");
  auto steps = container(layers / "root", "touch /new; echo made");
  steps[0] = overlay;
  Gate gate;
  gate.point = text("look");
  steps.insert(steps.end() - 1, StepBody(gate));
  RunOptions options;
  options.at_gate = [&](const std::string&, pid_t) {
    CHECK(!exists(layers / "root/bin"));
    return true;
  };
  Run run = run_steps(steps, options);
  CHECK(!run.failed);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "made\n");
  CHECK(exists(layers / "upper/new"));
}

TEST(id_mapped_mount_shows_mapped_owners) {
  Rootfs root;
  TempDir host;
  write_text(host / "file", "x");
  ::chown((host / "file").c_str(), 1000, 1001);
  MountSetattr map;
  map.slot = {1};
  map.uid_maps = {{1000, 5000, 1}};
  map.gid_maps = {{1001, 6000, 1}};
  ContainerSteps more;
  for (bool outer : {true, false}) {
    more.outer = {tree(1, host.path())};
    more.inner.clear();
    (outer ? more.outer : more.inner).push_back(map);
    more.inner.push_back(attach(1, "/mnt"));
    Run run = run_container(root.path(), "stat -c '%u %g' /mnt/file", more);
    CHECK(!run.failed);
    CHECK_EQ(run.failure.detail, "");
    CHECK_EQ(run.failure.err, 0);
    CHECK_EQ(run.out, "5000 6000\n");
  }
}

TEST(masked_paths_are_empty_and_read_only) {
  Rootfs root;
  write_text(root / "etc/secret", "secret");
  ::mkdir((root / "data/hidden").c_str(), 0755);
  write_text(root / "data/hidden/x", "x");
  ContainerSteps more;
  for (const char* path :
       {"/etc/secret", "/data/hidden", "/proc/kcore", "/proc/acpi", "/not/there", "/sys"}) {
    more.late.push_back(MaskPath{text(path)});
  }
  Run run = run_container(
      root.path(),
      "cat /etc/secret; ls /data/hidden; touch /data/hidden/y; stat -c %t:%T /etc/secret", more);
  CHECK(!run.failed);
  CHECK_EQ(run.out, "touch: /data/hidden/y: Read-only file system\n1:3\n");
}

TEST(false_null_device_masks_nothing) {
  Rootfs root;
  write_text(root / "etc/secret", "secret");
  write_text(root / "dev/null", "not a device");
  ContainerSteps more;
  more.with_dev = false;
  more.late = {MaskPath{text("/etc/secret")}};
  Run run = run_container(root.path(), "cat /etc/secret", more);
  CHECK(run.failed);
  CHECK_EQ(run.failure.detail, "not-the-null-device");
  ::unlink((root / "dev/null").c_str());
  ::symlink("/etc/passwd", (root / "dev/null").c_str());
  run = run_container(root.path(), "cat /etc/secret", more);
  CHECK(run.failed);
  CHECK_EQ(run.failure.detail, "not-the-null-device");
}

TEST(readonly_paths_cover_what_is_mounted_below) {
  Rootfs root;
  ::mkdir((root / "data/sub").c_str(), 0755);
  ContainerSteps more;
  more.inner = {tmpfs(1), attach(1, "/data/sub")};
  more.late = {ReadonlyPath{text("/data")}, ReadonlyPath{text("/missing")},
               ReadonlyPath{text("/proc/sys")}};
  Run run = run_container(
      root.path(), "touch /data/a; touch /data/sub/b; echo 1 > /proc/sys/kernel/domainname", more);
  CHECK_EQ(run.out,
           "touch: /data/a: Read-only file system\ntouch: /data/sub/b: Read-only file system\n"
           "sh: can't create /proc/sys/kernel/domainname: Read-only file system\n");
}

TEST(read_only_root) {
  Rootfs root;
  ContainerSteps more;
  more.late = {RemountRoot{MOUNT_ATTR_RDONLY}};
  Run run = run_container(root.path(), "touch /a; touch /dev/b && echo dev", more);
  CHECK_EQ(run.out, "touch: /a: Read-only file system\ndev\n");
}

TEST(root_without_pivot) {
  Rootfs root;
  auto steps = container(root.path(), "ls -d /bin /data; ls /etc/passwd");
  for (auto& step : steps) {
    if (auto* pivot = std::get_if<PivotRoot>(&step)) pivot->no_pivot = true;
  }
  Run run = run_steps(steps);
  CHECK(!run.failed);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "/bin\n/data\nls: /etc/passwd: No such file or directory\n");
}

TEST(root_propagation_shared_pivots_too) {
  Rootfs root;
  auto steps =
      container(root.path(), "cut -d' ' -f5-8 /proc/self/mountinfo | grep -c '^/ .*shared:'");
  for (auto& step : steps) {
    if (auto* set = std::get_if<SetPropagation>(&step)) set->propagation = Propagation::kShared;
    if (auto* pivot = std::get_if<PivotRoot>(&step)) pivot->root_propagation = Propagation::kShared;
  }
  // In a namespace of its own: "shared" must not reach the machine's mounts.
  steps.insert(steps.begin(),
               {Unshare{CLONE_NEWNS}, SetPropagation{text("/"), Propagation::kPrivate, true}});
  Run run = run_steps(steps);
  CHECK(!run.failed);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "1\n");
}

TEST(shared_volume_stays_shared_through_pivot_root) {
  Rootfs root;
  TempDir host;
  MountSetattr shared = setattr(1, 0);
  shared.propagation = Propagation::kShared;
  ContainerSteps more;
  more.outer = {tree(1, host.path()), shared};
  more.inner = {attach(1, "/volume")};
  Run run = run_container(
      root.path(), "cut -d' ' -f5-8 /proc/self/mountinfo | grep -c '^/volume .*shared:'", more);
  CHECK(!run.failed);
  CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "1\n");
}

TEST(sub_path_of_a_volume_cannot_leave_it) {
  Rootfs root;
  TempDir volume;
  ::mkdir((volume / "sub").c_str(), 0755);
  write_text(volume / "sub/f", "sub");
  ::symlink("/etc", (volume / "evil").c_str());
  ::symlink("sub", (volume / "good").c_str());
  OpenTree base = tree(1, volume.path());
  base.path_only = true;
  OpenTree sub = tree(2, "good");
  sub.base_slot = {1};
  ContainerSteps more;
  more.outer = {base, sub};
  more.inner = {attach(2, "/mnt")};
  Run run = run_container(root.path(), "cat /mnt/f", more);
  CHECK_EQ(run.out, "sub");
  sub.path = text("evil");
  more.outer = {base, sub};
  run = run_container(root.path(), "cat /mnt/f", more);
  CHECK(run.failed);
  CHECK_EQ(run.failure.err, EXDEV);
  CHECK_EQ(run.failure.detail, "resolve");
}

}  // namespace bulkhead::test
