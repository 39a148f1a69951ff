import { describe, expect, it } from 'vitest';
import { RuntimeError } from '../../base/errors.ts';
import type { Linux, LinuxNamespace, Process, Spec } from '../../oci/types.ts';
import { podMapping, RANGE_SIZE } from './ids.ts';
import { sentryOptions } from './options.ts';
import { sentryProcess, sentrySpec } from './spec.ts';

const all: LinuxNamespace[] = ['pid', 'mount', 'network', 'ipc', 'uts'].map((type) => ({
  type: type as LinuxNamespace['type'],
}));
const process: Process = { user: { uid: 0, gid: 0 }, args: ['sh'], cwd: '/' };
const spec = (linux: Linux = {}, rest: Partial<Spec> = {}): Spec => ({
  ociVersion: '1.2.0',
  process,
  linux: { namespaces: all, ...linux },
  ...rest,
});
const mapping = podMapping('default', 'pod');
const adapt = (given: Spec): ReturnType<typeof sentrySpec> =>
  sentrySpec({ id: 'web', spec: given, mapping, sysFiles: ['/sys/devices/system/cpu/online'] });

function refusal(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (error instanceof RuntimeError) return error.message;
    throw error;
  }
  return 'not refused';
}

describe('the configuration behind the sentry wall', () => {
  it('gets a user namespace with the ids of its pod, and no new privileges', () => {
    const { spec: adapted, mapped } = adapt(spec());
    expect(mapped).toBe(true);
    expect(adapted.linux?.namespaces).toEqual([...all, { type: 'user' }, { type: 'cgroup' }]);
    expect(adapted.linux?.uidMappings).toEqual(mapping);
    expect(adapted.process?.noNewPrivileges).toBe(true);
  });

  it('keeps a user namespace of its own, whose files are not mapped', () => {
    const uidMappings = [{ containerID: 0, hostID: 300_000, size: 65_536 }];
    const linux = { namespaces: [...all, { type: 'user' as const }], uidMappings, gidMappings: uidMappings };
    const mounts = [{ destination: '/data', type: 'bind', source: '/srv', options: ['rbind'] }];
    const { spec: adapted, mapped } = adapt(spec(linux, { mounts }));
    expect(mapped).toBe(false);
    expect(adapted.linux?.uidMappings).toBe(uidMappings);
    expect(adapted.mounts?.[0]?.options).toEqual(['rbind', 'nosuid', 'nodev']);
  });

  it("joins the user namespace of its pod's first process", () => {
    const namespaces = all.map((namespace) =>
      namespace.type === 'ipc' ? { ...namespace, path: '/proc/4711/ns/ipc' } : namespace,
    );
    expect(adapt(spec({ namespaces })).spec.linux?.namespaces).toContainEqual({
      type: 'user',
      path: '/proc/4711/ns/user',
    });
  });

  it('maps volumes, and takes set-user-id and devices from them', () => {
    const mounts = [
      { destination: '/data', type: 'bind', source: '/srv', options: ['rbind', 'ro'] },
      { destination: '/own', type: 'bind', source: '/own', options: ['bind', 'idmap'] },
    ];
    const adapted = adapt(spec({}, { mounts })).spec.mounts ?? [];
    expect(adapted[0]?.options).toEqual(['rbind', 'ro', 'nosuid', 'nodev', 'ridmap']);
    expect(adapted[1]?.options).toEqual(['bind', 'idmap', 'nosuid', 'nodev']);
  });

  it("has a /sys of its own in place of the host's", () => {
    const mounts = [{ destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['ro'] }];
    const adapted = adapt(spec({}, { mounts })).spec.mounts ?? [];
    expect(adapted.map(({ destination, type }) => [destination, type])).toEqual([
      ['/sys', 'tmpfs'],
      ['/sys/devices/system/cpu/online', 'bind'],
    ]);
  });

  it('hides what procfs says of the host, beside what was hidden already', () => {
    const { maskedPaths, readonlyPaths } = adapt(spec({ maskedPaths: ['/proc/own'] })).spec.linux ?? {};
    expect(maskedPaths).toEqual(expect.arrayContaining(['/proc/own', '/proc/kallsyms', '/proc/version']));
    expect(readonlyPaths).toContain('/proc/sys');
  });

  it.each<[string, Spec, string]>([
    [
      "the host's network",
      spec({ namespaces: all.filter(({ type }) => type !== 'network') }),
      "create web: config.json: linux.namespaces: the sentry wall does not share the host's network namespace; use the namespace or vm wall",
    ],
    [
      "the host's processes",
      spec({ namespaces: all.filter(({ type }) => type !== 'pid') }),
      "create web: config.json: linux.namespaces: the sentry wall does not share the host's pid namespace; use the namespace or vm wall",
    ],
    [
      'privileges',
      spec({}, { process: { ...process, capabilities: { bounding: ['CAP_SYS_ADMIN'] } } }),
      'create web: process.capabilities: the sentry wall has no privileged processes (CAP_SYS_ADMIN); use the vm wall',
    ],
    [
      'a device',
      spec({ devices: [{ path: '/dev/sda', type: 'b', major: 8, minor: 0 }] }),
      'create web: device /dev/sda: the sentry wall hands no devices of the host over; use the namespace or vm wall',
    ],
    [
      'a listener',
      spec({ seccomp: { defaultAction: 'SCMP_ACT_ALLOW', listenerPath: '/run/l.sock' } }),
      "create web: config.json: linux.seccomp.listenerPath: the one listener of a process is the wall's own; use the namespace or vm wall",
    ],
    [
      'an id beyond the range',
      spec({}, { process: { ...process, user: { uid: 70_000, gid: 0 } } }),
      'create web: config.json: process.user: id 70000 is not below 65536; use the namespace or vm wall',
    ],
  ])('refuses %s', (_what, given, message) => expect(refusal(() => adapt(given))).toBe(message));

  it('refuses an exec with privileges', () => {
    const wide = { ...process, capabilities: { bounding: ['CAP_SYS_MODULE'] } };
    expect(refusal(() => sentryProcess('exec', 'web', wide))).toBe(
      'exec web: process.capabilities: the sentry wall has no privileged processes (CAP_SYS_MODULE); use the vm wall',
    );
  });
});

describe("a pod's ids", () => {
  it('are the same for all its containers, and others for another pod', () => {
    expect(podMapping('k8s.io', 'a')).toEqual(podMapping('k8s.io', 'a'));
    expect(podMapping('k8s.io', 'a')).not.toEqual(podMapping('k8s.io', 'b'));
  });

  it('are above those of the host and below 2^32', () => {
    for (let i = 0; i < 1000; i++) {
      const [{ hostID = 0, size = 0 } = {}] = podMapping('default', `pod-${i}`);
      expect(hostID).toBeGreaterThanOrEqual(2 ** 31);
      expect(hostID + size).toBeLessThan(2 ** 32 - 1);
      expect(hostID % RANGE_SIZE).toBe(0);
    }
  });
});

describe('annotations', () => {
  it('turn Landlock on', () => {
    const defaults = { landlock: false, profile: 'kernel', report: 'unusual', mounts: false, audit: false };
    expect(sentryOptions('web', {})).toEqual(defaults);
    expect(sentryOptions('web', { 'io.bulkhead.sentry.landlock': 'true', other: 'x' })).toEqual({
      ...defaults,
      landlock: true,
    });
  });

  it('let containers mount', () => {
    expect(sentryOptions('web', { 'io.bulkhead.sentry.mounts': 'true' }).mounts).toBe(true);
    expect(refusal(() => sentryOptions('web', { 'io.bulkhead.sentry.mounts': '1' }))).toBe(
      'create web: annotation io.bulkhead.sentry.mounts: "1" is not true or false',
    );
  });

  it('report every refusal in an audit, unless told otherwise', () => {
    const audit = { 'io.bulkhead.sentry.audit': 'true' };
    expect(sentryOptions('web', audit)).toMatchObject({ audit: true, report: 'all' });
    expect(sentryOptions('web', { ...audit, 'io.bulkhead.sentry.report': 'none' }).report).toBe('none');
  });

  it('choose which refusals are reported', () => {
    for (const report of ['none', 'unusual', 'all']) {
      expect(sentryOptions('web', { 'io.bulkhead.sentry.report': report }).report).toBe(report);
    }
  });

  it.each([
    [
      { 'io.bulkhead.sentry.landlok': 'true' },
      'create web: annotation io.bulkhead.sentry.landlok: no such option',
    ],
    [
      { 'io.bulkhead.sentry.landlock': 'yes' },
      'create web: annotation io.bulkhead.sentry.landlock: "yes" is not true or false',
    ],
    [
      { 'io.bulkhead.sentry.report': '' },
      'create web: annotation io.bulkhead.sentry.report: "" is not none, unusual or all',
    ],
    [
      { 'io.bulkhead.sentry.toString': 'x' },
      'create web: annotation io.bulkhead.sentry.toString: no such option',
    ],
  ])('refuses %j', (annotations, message) => {
    expect(refusal(() => sentryOptions('web', annotations))).toBe(message);
  });
});
