import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readRegistry } from '../../src/devices/cdi/registry.ts';
import { hostNode } from '../../src/devices/host_node.ts';
import type { Spec } from '../../src/oci/types.ts';
import { requests, specs } from './lib/cdi_specs.ts';
import { PrivateContainerd } from './lib/containerd.ts';
import { quote, run } from './lib/exec.ts';
import { testImage } from './lib/image.ts';
import { isBulkhead, scratch } from './lib/paths.ts';

/**
 * The oracle: `ctr --device vendor/class=name` of containerd 2 injects by the reference library. For the same specs and
 * the same configuration ours must give the same result. The library that this ctr carries is older than one rule of
 * CDI 1.1.0 (a missing mode is filled in from the host), so these specs give modes; and for permissions "none" it
 * writes a rule that allows nothing, where we write none, for runc refuses an empty one. A device that is named twice
 * is in there twice for ctr, and once for us.
 */
/** This ctr appends a variable that is there already, newer ones replace it in its place; the last one counts. */
const inEffect = (spec: Spec): unknown => ({
  ...spec,
  process: {
    ...spec.process,
    env: Object.fromEntries((spec.process?.env ?? []).map((entry) => [entry.split('=', 1)[0], entry])),
  },
});

// What is compared is what ctr writes; no shim takes part.
describe.skipIf(!isBulkhead)('agreement with containerd on CDI', () => {
  let containerd: PrivateContainerd;
  let dir = '';
  beforeAll(async () => {
    containerd = await PrivateContainerd.start({ version: '2' });
    dir = join(containerd.dir, 'cdi');
    mkdirSync(dir);
    for (const [name, spec] of Object.entries(specs)) writeFileSync(join(dir, name), JSON.stringify(spec));
  });
  afterAll(() => containerd?.stop());

  /** The configuration that ctr writes. It reads /etc/cdi only: there is one, in a mount namespace of its own. */
  const written = async (flags: readonly string[]): Promise<Spec> => {
    const own = ['upper/cdi', 'work'].map((name) => join(containerd.dir, 'etc', name));
    for (const path of own) mkdirSync(path, { recursive: true });
    const etc = join(containerd.dir, 'etc');
    const ctr = ['ctr', '--address', containerd.address, '--namespace', containerd.namespace];
    const create = [
      ...ctr,
      'container',
      'create',
      '--snapshotter',
      'overlayfs',
      ...flags,
      testImage,
      'cdi',
      'true',
    ];
    const script = [
      `mount -t overlay overlay -o lowerdir=/etc,upperdir=${etc}/upper,workdir=${etc}/work /etc`,
      `mount --bind ${quote(dir)} /etc/cdi`,
      `${create.map(quote).join(' ')}`,
      `${[...ctr, 'container', 'info', '--spec', 'cdi'].map(quote).join(' ')}`,
      `${[...ctr, 'container', 'delete', 'cdi'].map(quote).join(' ')}`,
    ].join(' && ');
    const result = await run('unshare', ['--mount', 'sh', '-c', script], { env: containerd.env });
    expect(result).toMatchObject({ code: 0, stderr: '' });
    return JSON.parse(result.stdout) as Spec;
  };

  it.each(requests)('%j %j', async (names, flags) => {
    const plain = await written(flags);
    const theirs = await written([...flags, ...names.flatMap((name) => ['--device', name])]);
    const registry = await readRegistry([dir]);
    expect(inEffect(registry.inject(plain, names, hostNode))).toEqual(inEffect(theirs));
  });
});

describe.skipIf(!isBulkhead)('devices by annotation through containerd', () => {
  let containerd: PrivateContainerd;
  beforeAll(async () => {
    const dir = join(scratch(), 'cdi-annotations');
    mkdirSync(dir);
    const kind = 'kind: bulkhead.test/nodes';
    const edits = 'deviceNodes: [{path: /dev/made/zero, hostPath: /dev/zero, fileMode: 0640}]';
    const yaml = `cdiVersion: 0.5.0\n${kind}\ndevices:\n- name: 0\n  containerEdits:\n    env: [MADE=yes]\n    ${edits}\n`;
    writeFileSync(join(dir, 'nodes.yaml'), yaml);
    containerd = await PrivateContainerd.start({
      version: '2',
      bulkheadConfig: `[engine]\ncdi_spec_dirs = ["${dir}"]\n`,
    });
  });
  afterAll(() => containerd?.stop());
  const asking = (name: string, ...more: string[]): { flags: string[] } => ({
    flags: ['--rm', '--annotation', `cdi.k8s.io/test=${name}`, ...more],
  });

  it('gives the engine’s containers the device', async () => {
    const command = ['sh', '-c', 'ls -l /dev/made/zero; echo $MADE; head -c 3 /dev/made/zero | wc -c'];
    const result = await containerd.run('cdi-1', command, asking('bulkhead.test/nodes=0'));
    expect(result).toMatchObject({ code: 0, stderr: '' });
    expect(result.stdout).toMatch(/^crw-r-----.*\nyes\n3\n$/);
  });

  it('refuses what no spec describes, and leaves nothing', async () => {
    const result = await containerd.run('cdi-2', ['true'], asking('bulkhead.test/nodes=9'));
    expect(result.code).not.toBe(0);
    expect(result.stderr).toContain('CDI device bulkhead.test/nodes=9: not found; known of this kind: 0');
    expect(await containerd.status('cdi-2')).toBeUndefined();
  });

  it('leaves annotations of a pod to CRI', async () => {
    const pod = asking('bulkhead.test/nodes=0', '--annotation', 'io.kubernetes.cri.container-type=container');
    const result = await containerd.run('cdi-3', ['sh', '-c', 'ls /dev/made; echo [$MADE]'], pod);
    expect(result.stdout).toBe('[]\n');
  });
});
