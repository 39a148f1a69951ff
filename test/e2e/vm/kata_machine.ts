/**
 * Plays QEMU with a guest of Kata's: QMP on descriptor 3 takes everything, descriptor 4 is the agent's port, both
 * listening. The guest's programs are those of the scripted agent. Bundled by the test, as it runs without rights.
 */
import { createServer, type Socket } from 'node:net';
import { ScriptedAgent } from '../../../src/sandbox/vm/kata/testing/scripted_agent.ts';

const GREETING = { QMP: { version: { qemu: { major: 7, minor: 2, micro: 0 } }, capabilities: [] } };

const answers: Record<string, unknown> = {
  'add-fd': { 'fdset-id': 1, fd: 9 },
  'query-status': { running: true, status: 'running' },
  'qom-list': [],
};

function qmp(socket: Socket): void {
  const say = (value: unknown): void => void socket.write(`${JSON.stringify(value)}\r\n`);
  socket.on('error', () => {});
  say(GREETING);
  let text = '';
  socket.on('data', (chunk) => {
    text += chunk.toString();
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      const { id, execute } = JSON.parse(text.slice(0, end)) as { id: number; execute: string };
      text = text.slice(end + 1);
      say({ return: answers[execute] ?? {}, id });
    }
  });
}

const agent = new ScriptedAgent();
createServer(qmp).listen({ fd: 3 });
createServer((socket) => agent.serve(socket)).listen({ fd: 4 });
