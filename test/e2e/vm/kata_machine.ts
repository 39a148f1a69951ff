/**
 * Plays QEMU with a guest of Kata's: QMP on descriptor 3 takes everything, descriptor 4 is the agent's port, both
 * listening. The guest's programs are those of the scripted agent. Bundled by the test, as it runs without rights; the
 * argument says what is wrong with the guest.
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

const [, , fault = ''] = process.argv;
const agent = new ScriptedAgent();
if (fault === 'refuses')
  agent.failures.set('CreateContainer', {
    code: 13,
    message: 'no space\n\nCaused by:\n    ENOSPC: No space left on device\n\nStack backtrace:\n   0: main',
  });

function serve(socket: Socket): void {
  socket.on('error', () => {});
  if (fault === 'is silent') return;
  if (fault === 'hangs up') return void socket.destroy();
  if (fault === 'sends noise') return void socket.write(Buffer.alloc(1 << 20, 0xa5));
  agent.serve(socket);
  if (fault === 'goes away')
    socket.on('data', () => {
      if (agent.asked('CreateSandbox').length > 0) socket.destroy();
    });
}

createServer(qmp).listen({ fd: 3 });
createServer(serve).listen({ fd: 4 });
