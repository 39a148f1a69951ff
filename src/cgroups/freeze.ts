/**
 * pause and resume. v1: freezer.state (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst); v2: cgroup.freeze.
 */
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { cgroupError, readText, writeText } from './files.ts';
import { controllerPath, type CgroupView } from './path.ts';

/** How long a freeze may take: a process in uninterruptible sleep holds it up. */
const freezeDeadlineMs = 30_000;

/**
 * Freezes every process of the container; resolves when the kernel says that all stand still. A freeze that does not
 * come about is taken back: DeadlineExceeded.
 */
export async function freezeCgroup(
  view: CgroupView,
  id: string,
  deadlineMs = freezeDeadlineMs,
): Promise<void> {
  const freezer = findFreezer(view, 'pause', id);
  try {
    await freezer.freeze(Date.now() + deadlineMs);
  } catch (error) {
    try {
      freezer.thaw();
    } catch {
      // The first error says more; a cgroup that is gone cannot be frozen.
    }
    throw cgroupError('pause', id, freezer.file, error, freezer.file);
  }
}

/** Lets a frozen container go on. */
export function thawCgroup(view: CgroupView, id: string): void {
  const freezer = findFreezer(view, 'resume', id);
  try {
    freezer.thaw();
  } catch (error) {
    throw cgroupError('resume', id, freezer.file, error, freezer.file);
  }
}

/** True when the container is frozen or being frozen. */
export function isFrozen(view: CgroupView): boolean {
  const v1 = controllerPath(view, 'freezer');
  if (v1 !== undefined) {
    const state = readText(`${v1}/freezer.state`)?.trim();
    return state === 'FROZEN' || state === 'FREEZING';
  }
  return view.unified !== undefined && readText(`${view.unified.path}/cgroup.freeze`)?.trim() === '1';
}

interface Freezer {
  file: string;
  freeze(deadline: number): Promise<void>;
  thaw(): void;
}

function findFreezer(view: CgroupView, op: string, id: string): Freezer {
  const v1 = controllerPath(view, 'freezer');
  if (v1 !== undefined) return freezerV1(v1, id);
  if (view.unified !== undefined) return freezerV2(view.unified.path, id);
  throw new RuntimeError({
    code: ErrorCode.FailedPrecondition,
    op,
    id,
    reason: 'this host has no cgroup controller "freezer"',
  });
}

/**
 * v1 stays in FREEZING while processes appear in the cgroup; writing FROZEN again makes it look again, and a short thaw
 * lets a fork or an exec that is half way through come to an end.
 */
function freezerV1(directory: string, id: string): Freezer {
  const file = `${directory}/freezer.state`;
  const thaw = (): void => writeText(file, 'THAWED');
  return {
    file,
    thaw,
    async freeze(deadline) {
      for (let tries = 1; ; tries++) {
        writeText(file, 'FROZEN');
        const state = readText(file)?.trim();
        if (state === 'FROZEN') return;
        if (Date.now() > deadline) throw tooSlow(id, file);
        if (tries % 50 === 0) {
          thaw();
          await sleep(10);
        } else if (tries % 10 === 0) {
          await sleep(1);
        }
      }
    },
  };
}

function freezerV2(directory: string, id: string): Freezer {
  const file = `${directory}/cgroup.freeze`;
  return {
    file,
    thaw: () => writeText(file, '0'),
    async freeze(deadline) {
      writeText(file, '1');
      // cgroup.events can be watched, but the answer is nearly always there by the second look.
      for (
        let pause = 0;
        !/^frozen 1$/m.test(readText(`${directory}/cgroup.events`) ?? 'frozen 1');
        pause = Math.min(pause + 1, 20)
      ) {
        if (Date.now() > deadline) throw tooSlow(id, file);
        await sleep(pause);
      }
    },
  };
}

function tooSlow(id: string, file: string): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.DeadlineExceeded,
    op: 'pause',
    id,
    object: file,
    reason: 'the processes did not stand still in time',
    path: file,
  });
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
