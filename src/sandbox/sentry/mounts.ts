/**
 * What the annotation `io.bulkhead.sentry.mounts=true` changes in the table of either profile: mount and umount2 are the
 * supervisor's, which does what can be done without anything of the host coming in.
 */
import { systemCallNumbers } from './numbers.ts';
import type { SystemCall } from './rules.ts';

export const mountCalls: readonly SystemCall[] = [
  {
    number: systemCallNumbers.get('mount') ?? -1,
    name: 'mount',
    decision: { use: 'broker', handler: 'mount' },
    note: 'tmpfs, binds within the root, the procfs that is there; always nosuid and nodev; for root with CAP_SYS_CHROOT',
  },
  {
    number: systemCallNumbers.get('umount2') ?? -1,
    name: 'umount2',
    decision: { use: 'broker', handler: 'unmount' },
    note: 'of what was mounted so, always as with MNT_DETACH',
  },
];

/** The table of a profile with them in place of its refusals. */
export function withMounts(calls: readonly SystemCall[]): readonly SystemCall[] {
  return calls.map((call) => mountCalls.find(({ number }) => number === call.number) ?? call);
}
