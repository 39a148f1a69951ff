// Whole containers.
#include <sched.h>

#include "test/check.h"
#include "test/harness.h"

namespace bulkhead::test {

TEST(container_runs_and_exit_code_arrives) {
  Rootfs root;
  Run run = run_container(root.path(), "echo hello; echo pid $$; exit 7");
  CHECK(run.launched);
  CHECK(!run.failed);
  if (run.failed) CHECK_EQ(run.failure.detail, "");
  CHECK_EQ(run.out, "hello\npid 1\n");
  CHECK_EQ(run.exit_code(), 7);
  CHECK_EQ(run.outer_status, 0);
}

}  // namespace bulkhead::test
