#include "init/executor.h"

#include <sys/stat.h>

#include "core/init_codec.h"
#include "init/context.h"
#include "init/steps.h"

namespace bulkhead {

namespace {

template <class T>
Outcome run(Context& context, const Step& step) {
  return carry_out(context, *std::get_if<T>(&step.body));
}

// The switch: every step of launch_plan.proto.
Outcome carry_out_step(Context& context, const Step& step) {
  switch (step.action) {
    case MakeCgroup::kAction:
      return run<MakeCgroup>(context, step);
    case WriteFile::kAction:
      return run<WriteFile>(context, step);
    case AttachDeviceProgram::kAction:
      return run<AttachDeviceProgram>(context, step);
    case JoinCgroup::kAction:
      return run<JoinCgroup>(context, step);
    case JoinNamespace::kAction:
      return run<JoinNamespace>(context, step);
    case Unshare::kAction:
      return run<Unshare>(context, step);
    case OpenTree::kAction:
      return run<OpenTree>(context, step);
    case FsMount::kAction:
      return run<FsMount>(context, step);
    case OpenFile::kAction:
      return run<OpenFile>(context, step);
    case Clone::kAction:
      return run<Clone>(context, step);
    case MountSetattr::kAction:
      return run<MountSetattr>(context, step);
    case EnterRoot::kAction:
      return run<EnterRoot>(context, step);
    case Attach::kAction:
      return run<Attach>(context, step);
    case SetPropagation::kAction:
      return run<SetPropagation>(context, step);
    case Mkdir::kAction:
      return run<Mkdir>(context, step);
    case Mknod::kAction:
      return run<Mknod>(context, step);
    case Symlink::kAction:
      return run<Symlink>(context, step);
    case PivotRoot::kAction:
      return run<PivotRoot>(context, step);
    case MaskPath::kAction:
      return run<MaskPath>(context, step);
    case ReadonlyPath::kAction:
      return run<ReadonlyPath>(context, step);
    case RemountRoot::kAction:
      return run<RemountRoot>(context, step);
    case Hostname::kAction:
      return run<Hostname>(context, step);
    case Domainname::kAction:
      return run<Domainname>(context, step);
    case Sysctl::kAction:
      return run<Sysctl>(context, step);
    case LoopbackUp::kAction:
      return run<LoopbackUp>(context, step);
    case Rlimit::kAction:
      return run<Rlimit>(context, step);
    case OomScoreAdj::kAction:
      return run<OomScoreAdj>(context, step);
    case Umask::kAction:
      return run<Umask>(context, step);
    case Personality::kAction:
      return run<Personality>(context, step);
    case IoPriority::kAction:
      return run<IoPriority>(context, step);
    case Scheduler::kAction:
      return run<Scheduler>(context, step);
    case CpuAffinity::kAction:
      return run<CpuAffinity>(context, step);
    case SessionKeyring::kAction:
      return run<SessionKeyring>(context, step);
    case LsmExecLabel::kAction:
      return run<LsmExecLabel>(context, step);
    case Terminal::kAction:
      return run<Terminal>(context, step);
    case OwnStdio::kAction:
      return run<OwnStdio>(context, step);
    case FindExecutable::kAction:
      return run<FindExecutable>(context, step);
    case Gate::kAction:
      return run<Gate>(context, step);
    case RunHook::kAction:
      return run<RunHook>(context, step);
    case User::kAction:
      return run<User>(context, step);
    case BoundingSet::kAction:
      return run<BoundingSet>(context, step);
    case Capabilities::kAction:
      return run<Capabilities>(context, step);
    case NoNewPrivs::kAction:
      return run<NoNewPrivs>(context, step);
    case Seccomp::kAction:
      return run<Seccomp>(context, step);
    case Chdir::kAction:
      return run<Chdir>(context, step);
    case ParentDeathSignal::kAction:
      return run<ParentDeathSignal>(context, step);
    case Exec::kAction:
      return run<Exec>(context, step);
    case Landlock::kAction:
      return run<Landlock>(context, step);
    case Listen::kAction:
      return run<Listen>(context, step);
    case Unmount::kAction:
      return run<Unmount>(context, step);
    case SocketPolicy::kAction:
      return run<SocketPolicy>(context, step);
    default:
      return fail_with(ENOSYS, "unknown-step");
  }
}

// Slots that a step names; at most two.
struct SlotUse {
  SlotId ids[2];
};
SlotUse slots_of(const Step& step) {
  switch (step.action) {
    case OpenTree::kAction: {
      const auto& s = *std::get_if<OpenTree>(&step.body);
      return {{s.slot, s.base_slot}};
    }
    case FsMount::kAction:
      return {{std::get_if<FsMount>(&step.body)->slot, {}}};
    case OpenFile::kAction:
      return {{std::get_if<OpenFile>(&step.body)->slot, {}}};
    case MountSetattr::kAction:
      return {{std::get_if<MountSetattr>(&step.body)->slot, {}}};
    case Attach::kAction:
      return {{std::get_if<Attach>(&step.body)->slot, {}}};
    case Mknod::kAction:
      return {{std::get_if<Mknod>(&step.body)->bind_slot, {}}};
    case Gate::kAction:
      return {{std::get_if<Gate>(&step.body)->fifo_slot, {}}};
    case Seccomp::kAction:
      return {{std::get_if<Seccomp>(&step.body)->listener_slot, {}}};
    default:
      return {};
  }
}

void note_last_uses(Context& context, const Plan& plan) {
  for (uint32_t index = 0; index < plan.steps.size(); index++) {
    for (SlotId id : slots_of(plan.steps[index]).ids) {
      if (id) context.slot(id).last_use = index;
    }
  }
}

void close_used_up(Context& context, const Step& step) {
  for (SlotId id : slots_of(step).ids) {
    if (id && !context.prepared && context.slot(id).last_use == context.index) {
      context.slot(id).fd.reset();
    }
  }
}

void report_failure(Context& context, const Outcome& outcome) {
  StepFailure failure;
  failure.index = context.index;
  failure.action = context.action;
  failure.path = outcome.path;
  failure.err = outcome.err;
  failure.detail = outcome.detail;
  failure.status = outcome.status;
  failure.output = outcome.output;
  report(context, encode_failure(failure));
}

}  // namespace

int execute(const Plan& plan, UniqueFd sync, UniqueFd network) {
  Context context;
  context.network = std::move(network);
  context.plan = &plan;
  context.sync = std::move(sync);
  die_with_launcher(context);
  // Modes in the plan are meant as they stand; Exec and RunHook put the umask back.
  context.inherited_umask = ::umask(0);
  for (const Step& step : plan.steps) context.has_clone |= step.action == Clone::kAction;
  note_last_uses(context, plan);
  for (uint32_t index = 0; index < plan.steps.size(); index++) {
    const Step& step = plan.steps[index];
    context.index = index;
    context.action = step.action;
    // Steps behind it would be lost without a word.
    if (step.action == Exit::kAction && index + 1 == plan.steps.size()) return 0;
    Outcome outcome = carry_out_step(context, step);
    if (!outcome.ok()) {
      report_failure(context, outcome);
      return 1;
    }
    close_used_up(context, step);
  }
  report_failure(context, fail_with(EBADMSG, "no-exec"));
  return 1;
}

}  // namespace bulkhead
