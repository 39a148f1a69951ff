import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findSandbox, listSandboxes } from './find.ts';
import { saveSandbox } from './record.ts';

let root: string;
beforeEach(() => (root = mkdtempSync(join(tmpdir(), 'bh-find-'))));
afterEach(() => rmSync(root, { recursive: true, force: true }));

const save = (name: string, namespace: string, group: string, ids: string[]): void =>
  saveSandbox(join(root, 'vm', name, 'sandbox.pb'), {
    namespace,
    group,
    pid: 7,
    containers: ids.map((id, serial) => ({ id, serial })),
  });

describe('virtual machines of a state root', () => {
  it('are found by the pod and by a container', () => {
    save('a', 'k8s.io', 'pod', ['pod', 'web']);
    save('b', 'default', 'lone', ['lone']);
    expect(listSandboxes(root).map(({ record }) => record.group)).toEqual(['pod', 'lone']);
    expect(findSandbox('guest logs', root, 'pod').dir).toBe(join(root, 'vm', 'a'));
    expect(findSandbox('guest logs', root, 'web').record.pid).toBe(7);
  });

  it('are told from what is damaged or half made', () => {
    mkdirSync(join(root, 'vm', 'half'), { recursive: true });
    mkdirSync(join(root, 'vm', 'bad'));
    writeFileSync(join(root, 'vm', 'bad', 'sandbox.pb'), 'not protobuf');
    save('good', 'default', 'lone', ['lone']);
    expect(listSandboxes(root).map(({ dir }) => dir)).toEqual([join(root, 'vm', 'good')]);
    expect(listSandboxes(join(root, 'none'))).toEqual([]);
  });

  it('are refused when there is none, or more than one', () => {
    save('a', 'one', 'web', ['web']);
    save('b', 'two', 'web', ['web']);
    expect(() => findSandbox('guest logs', root, 'db')).toThrow(
      `guest logs db: virtual machine: none below ${root}/vm`,
    );
    expect(() => findSandbox('guest logs', root, 'web')).toThrow(
      'guest logs web: virtual machine: several have this id, in the namespaces one, two',
    );
  });
});
