/** What the lab does: each sitting is one boot, with the machine it needs and the tests that run in it. */
import type { LabMachine } from './machine.ts';

export interface Sitting {
  name: string;
  /** One line for people. */
  about: string;
  machine: LabMachine;
  /** Kernel modules that the tests need, loaded before they begin. */
  modules?: string[];
  /** Shell commands after that; the sitting fails when they do. */
  prepare?: string;
  /** Configuration of vitest, and which of its files; all when there is none. */
  config: string;
  files?: string[];
  env?: Record<string, string>;
  /** Run inside tools/private.sh: containerds and cgroups of their own. */
  privately?: boolean;
  /** From power on to power off, many times what it takes on an idle machine. */
  deadlineMinutes: number;
}

export const sittings: readonly Sitting[] = [
  {
    name: 'cgroup2',
    about: 'the namespace wall through containerd on a machine with cgroup v2 alone',
    machine: { memoryMib: 3072 },
    config: 'test/e2e/vitest.config.ts',
    files: ['run', 'lifecycle', 'exec', 'exit'].map((name) => `test/e2e/${name}.e2e.test.ts`),
    privately: true,
    deadlineMinutes: 8,
  },
  {
    name: 'kvm',
    about: 'the vm wall on KVM, which runs on the emulated SVM of the processor',
    machine: { memoryMib: 4096 },
    modules: ['kvm_amd'],
    // udev's work: Debian's rule gives the device to its group.
    prepare: 'groupadd -rf kvm && chgrp kvm /dev/kvm && chmod 660 /dev/kvm',
    config: 'test/lab/vitest.config.ts',
    files: ['kvm'],
    privately: true,
    deadlineMinutes: 8,
  },
];
