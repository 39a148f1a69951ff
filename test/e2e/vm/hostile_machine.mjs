// Plays QEMU and its guest's agent, and turns on who talks to it. What it does is the first word of its own first line
// below, written by the test: QMP on descriptor 3, the agent's port on descriptor 4, both listening.
import { createServer } from 'node:net';

const MODE = 'MODE';
const GREETING = '{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": []}}\r\n';
const PREAMBLE_BYTES = 32;

const line = (value) => `${JSON.stringify(value)}\r\n`;

/** Takes everything, unless the mode is one of QMP. */
function qmp(socket) {
  socket.on('error', () => {});
  if (MODE === 'qmp-garbage') return void socket.write('\u0000\u0001 no greeting\n');
  if (MODE === 'qmp-hangs-up') return void socket.destroy();
  if (MODE === 'qmp-endless') return endless(socket);
  // It is the agent's turn.
  if (MODE.startsWith('agent-')) return;
  socket.write(GREETING);
  let text = '';
  socket.on('data', (chunk) => {
    text += chunk;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      const { id, execute } = JSON.parse(text.slice(0, end));
      text = text.slice(end + 1);
      if (MODE === 'qmp-stranger' && execute !== 'qmp_capabilities')
        socket.write(line({ return: {}, id: 4711 }));
      else socket.write(line({ return: execute === 'add-fd' ? { 'fdset-id': 1, fd: 9 } : {}, id }));
    }
  });
}

function endless(socket) {
  const more = () => {
    while (socket.write('x'.repeat(65536)));
  };
  socket.on('drain', more);
  more();
}

function header(length, stream, kind) {
  const bytes = Buffer.alloc(9);
  bytes.writeUInt32BE(length, 0);
  bytes.writeUInt32BE(stream, 4);
  bytes[8] = kind;
  return bytes;
}

/** What follows the monitor's own preamble. */
const afterPreamble = {
  'agent-oversized': () => header(0xfffffff0, 0, 0),
  'agent-no-message': () => Buffer.concat([header(3, 0, 0), Buffer.from([0xff, 0xff, 0xff])]),
  'agent-unknown-kind': () => header(0, 1, 77),
  'agent-stranger': () => Buffer.concat([header(1, 99, 0), Buffer.from([1])]),
  'agent-old': () => Buffer.concat([header(4, 0, 0), Buffer.from([0x0a, 0x02, 0x08, 0x63])]),
};

function agent(socket) {
  socket.on('error', () => {});
  if (MODE === 'agent-hangs-up') return void socket.destroy();
  if (MODE === 'agent-noise') return endless(socket);
  let received = Buffer.alloc(0);
  socket.on('data', (chunk) => {
    const had = received.length;
    received = Buffer.concat([received, chunk]);
    if (had < PREAMBLE_BYTES && received.length >= PREAMBLE_BYTES) {
      socket.write(received.subarray(0, PREAMBLE_BYTES));
      const more = afterPreamble[MODE];
      if (more !== undefined) socket.write(more());
    }
  });
}

createServer(qmp).listen({ fd: 3 });
createServer(agent).listen({ fd: 4 });
