import { resolve } from 'node:path';
import { printPlan, planToJson } from '../../plan/print.ts';
import { readBundle, rootfsPath } from '../../runtime/bundle.ts';
import { injectDevices } from '../../sandbox/devices.ts';
import type { Command } from '../command.ts';
import { deviceFlags, specDirs } from '../device_flags.ts';
import { hostBackend, readDevices } from '../load.ts';
import { chooseWall, wallFlag } from '../wall.ts';

const DEFAULT_ID = 'plan';

export const plan: Command = {
  operands: '[container-id]',
  count: [0, 1],
  flags: [
    { name: 'bundle', alias: 'b', kind: 'string', usage: 'directory of the bundle (default: current)' },
    { name: 'json', kind: 'boolean', usage: 'as JSON' },
    { name: 'no-pivot', kind: 'boolean', usage: 'as for create' },
    { name: 'no-new-keyring', kind: 'boolean', usage: 'as for create' },
    ...deviceFlags,
    wallFlag,
  ],
  async run(session, args) {
    const id = args.operands[0] ?? DEFAULT_ID;
    const bundle = resolve(session.cwd, args.string('bundle') ?? '.');
    const read = readBundle('plan', id, bundle).spec;
    const wall = chooseWall(session, 'plan', args, read);
    const { spec, functions } = await injectDevices(read, {
      op: 'plan',
      id,
      wall,
      names: args.list('device'),
      specDirs: specDirs(session, args),
      read: readDevices(),
    });
    if (functions.length > 0) {
      session.log.warning('the plan lacks what is known only once a function is bound to vfio-pci', {
        functions: functions.join(','),
      });
    }
    const record = { id, bundle, rootfs: rootfsPath(bundle, spec) };
    const compiled = hostBackend(session, wall).compile(record, {
      spec,
      rootfsMounts: [],
      options: { noPivot: args.boolean('no-pivot'), noNewKeyring: args.boolean('no-new-keyring') },
    });
    session.print(
      args.boolean('json') ? `${JSON.stringify(planToJson(compiled), null, 2)}\n` : printPlan(compiled),
    );
    return 0;
  },
};
