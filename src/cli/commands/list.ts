import type { Command } from '../command.ts';
import { containerState } from '../container_state.ts';
import type { ContainerState } from '../container_state.ts';
import { usageError } from '../flags.ts';
import { NAMESPACE } from '../session.ts';

export const list: Command = {
  operands: '',
  count: [0, 0],
  flags: [
    { name: 'format', alias: 'f', kind: 'string', usage: 'table or json (default: table)' },
    { name: 'quiet', alias: 'q', kind: 'boolean', usage: 'print ids only' },
  ],
  async run(session, args) {
    const format = args.string('format') ?? 'table';
    if (format !== 'table' && format !== 'json')
      throw usageError('list', `unknown format ${JSON.stringify(format)}`);
    const records = session.store.list(NAMESPACE, (error) => session.log.warning(error.message));
    const states = records.map(containerState);
    if (args.boolean('quiet')) session.print(states.map(({ id }) => `${id}\n`).join(''));
    else if (format === 'json') session.print(`${JSON.stringify(states)}\n`);
    else session.print(table(states));
    return 0;
  },
};

const headings = ['ID', 'PID', 'STATUS', 'BUNDLE', 'CREATED', 'OWNER'];

/** Columns at least 12 wide and 3 apart, as runc's, so that scripts which cut columns work. */
function table(states: ContainerState[]): string {
  const rows = [
    headings,
    ...states.map((s) => [s.id, String(s.pid), s.status, s.bundle, s.created, s.owner]),
  ];
  const widths = headings.map((_, column) =>
    Math.max(12, ...rows.map((row) => (row[column] ?? '').length + 3)),
  );
  const last = headings.length - 1;
  const line = (row: string[]): string =>
    row.map((cell, column) => (column === last ? cell : cell.padEnd(widths[column] ?? 0))).join('');
  return rows.map((row) => `${line(row)}\n`).join('');
}
