import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readRegistry } from '../../src/devices/cdi/registry.ts';
import { hostNode } from '../../src/devices/host_node.ts';
import type { Spec } from '../../src/oci/types.ts';
import { commonRequests, mounts, nodes, rest, specs } from './lib/cdi_specs.ts';
import { quote, run } from './lib/exec.ts';
import { isBulkhead, scratch } from './lib/paths.ts';

/**
 * The second oracle: Podman injects CDI devices itself before it calls the runtime. Its runtime here is a script that
 * keeps config.json and starts nothing. Debian's Podman 4.3 carries a library of CDI 0.5.0: groups and RDT came later.
 */
const { devices: ofRest } = specs['rest.json'] as { devices: { name: string }[] };
const older: Record<string, object> = {
  'nodes.json': { ...specs['nodes.json'], cdiVersion: '0.5.0' },
  'mounts.yaml': { ...specs['mounts.yaml'], cdiVersion: '0.5.0' },
  'rest.json': {
    cdiVersion: '0.5.0',
    kind: 'bulkhead.test/rest',
    containerEdits: { env: ['A=1'] },
    devices: [
      ...ofRest.filter(({ name }) => name === 'hooks'),
      { name: 'env', containerEdits: { env: ['A=2', 'B=3'] } },
    ],
  },
};

const requests: typeof commonRequests = [
  ...commonRequests,
  [nodes('zero'), ['--user', '1000:1001', '--env', 'HOME=/']],
  [mounts('deep'), ['--volume', '/opt:/a/b/c:ro']],
  [rest('env', 'hooks'), []],
  [
    [...nodes('zero'), ...mounts('deep'), ...rest('env')],
    ['--user', '12:34', '--env', 'HOME=/'],
  ],
];

const ID = /\b[0-9a-f]{64}\b/g;

/** Destinations of the specs' own mounts: their order is compared. Podman's own come in any. */
const asked = new Set(['/a', '/a/b/c', '/dev/shm']);

/** Without the time of day; of variables and Podman's own mounts not the order. An older one appends a variable. */
function comparable(spec: Spec): unknown {
  const { mounts: all = [], annotations, ...others } = spec;
  const own = all.filter(({ destination }) => !asked.has(destination));
  return {
    ...others,
    annotations: { ...annotations, 'io.kubernetes.cri-o.Created': '' },
    mounts: [
      all.filter(({ destination }) => asked.has(destination)),
      own.sort((a, b) => (a.destination < b.destination ? -1 : 1)),
    ],
    process: {
      ...spec.process,
      env: Object.fromEntries((spec.process?.env ?? []).map((entry) => [entry.split('=', 1)[0], entry])),
    },
  };
}

describe.skipIf(!isBulkhead)('agreement with Podman on CDI', () => {
  let dir = '';
  beforeAll(() => {
    dir = join(scratch(), 'podman-cdi');
    for (const name of ['cdi', 'rootfs']) mkdirSync(join(dir, name), { recursive: true });
    for (const [name, spec] of Object.entries(older)) {
      writeFileSync(join(dir, 'cdi', name), JSON.stringify(spec));
    }
    const keep = join(dir, 'config.json');
    const script = `#!/bin/sh
bundle=
for word in "$@"; do
  [ "$last" = --bundle ] && bundle=$word
  last=$word
done
[ -n "$bundle" ] && cp "$bundle/config.json" ${quote(keep)}
exit 1
`;
    writeFileSync(join(dir, 'runtime'), script);
    chmodSync(join(dir, 'runtime'), 0o755);
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  /** The configuration that Podman writes. It reads /etc/cdi only: there is one, in a mount namespace of its own. */
  const written = async (flags: readonly string[]): Promise<Spec> => {
    const places = ['root', 'runroot', 'tmpdir'].flatMap((name) => [`--${name}`, join(dir, name)]);
    const podman = [
      'podman',
      ...places,
      ...['--storage-driver', 'vfs', '--cgroup-manager', 'cgroupfs', '--events-backend', 'none'],
      ...['--runtime', join(dir, 'runtime')],
    ];
    const create = [...podman, 'create', '--name', 'cdi', '--hostname', 'cdi', '--network', 'none', ...flags];
    const etc = join(dir, 'etc');
    const script = [
      `mkdir -p ${quote(etc)}`,
      `mount -t tmpfs tmpfs ${quote(etc)}`,
      `mkdir -p ${quote(join(etc, 'upper', 'cdi'))} ${quote(join(etc, 'work'))}`,
      `mount -t overlay overlay -o lowerdir=/etc,upperdir=${etc}/upper,workdir=${etc}/work /etc`,
      `mount --bind ${quote(join(dir, 'cdi'))} /etc/cdi`,
      `${[...create, '--rootfs', join(dir, 'rootfs'), 'true'].map(quote).join(' ')}`,
      // The script that stands in for a runtime fails, and so does this.
      `{ ${[...podman, 'init', 'cdi'].map(quote).join(' ')} || true; }`,
      `${[...podman, 'rm', '--force', 'cdi'].map(quote).join(' ')}`,
    ].join(' && ');
    rmSync(join(dir, 'config.json'), { force: true });
    // What conmon starts to clean up after the runtime outlives Podman: it ends with the process namespace.
    const apart = ['--mount', '--propagation', 'private', '--pid', '--fork', '--mount-proc'];
    const result = await run('unshare', [...apart, 'sh', '-c', script]);
    expect(result).toMatchObject({ code: 0 });
    const text = readFileSync(join(dir, 'config.json'), 'utf8');
    return JSON.parse(text.replace(ID, 'ID')) as Spec;
  };

  it.each(requests)('%j %j', async (names, flags) => {
    const plain = await written(flags);
    const theirs = await written([...flags, ...names.flatMap((name) => ['--device', name])]);
    const registry = await readRegistry([join(dir, 'cdi')]);
    expect(comparable(registry.inject(plain, names, hostNode))).toEqual(comparable(theirs));
  });
});
