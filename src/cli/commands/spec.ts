import { existsSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { ErrorCode, RuntimeError } from '../../base/errors.ts';
import { defaultSpec } from '../../oci/spec.ts';
import type { Command } from '../command.ts';

const CONFIG = 'config.json';

export const spec: Command = {
  operands: '',
  count: [0, 0],
  flags: [
    {
      name: 'bundle',
      alias: 'b',
      kind: 'string',
      usage: 'directory to write config.json to (default: current)',
    },
    { name: 'rootless', kind: 'boolean', usage: 'for a user who is not root' },
  ],
  async run(session, args) {
    const path = join(resolve(session.cwd, args.string('bundle') ?? '.'), CONFIG);
    const user = { uid: session.uid, gid: process.getgid?.() ?? session.uid };
    const contents = defaultSpec({
      cgroupNamespace: existsSync('/sys/fs/cgroup/cgroup.controllers'),
      ...(args.boolean('rootless') ? { rootless: user } : {}),
    });
    try {
      writeFileSync(path, `${JSON.stringify(contents, null, '\t')}\n`, { flag: 'wx', mode: 0o666 });
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      if (code === undefined) throw error;
      const exists = code === 'EEXIST';
      throw new RuntimeError({
        code: exists ? ErrorCode.AlreadyExists : ErrorCode.NotFound,
        op: 'spec',
        object: path,
        reason: exists ? 'file exists' : message,
        remedy: exists ? 'remove it first' : undefined,
        path,
        errno: code,
        cause: error,
      });
    }
    return 0;
  },
};
