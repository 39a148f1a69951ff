// A server for one file by TFTP (RFC 1350), which it writes to standard output: node tftp_sink.mjs ADDRESS
import { createSocket } from 'node:dgram';

const WRITE = 2;
const DATA = 3;
const ACKNOWLEDGE = 4;
const BLOCK = 512;

const socket = createSocket('udp4');
socket.on('message', (message, { port, address }) => {
  const code = message.readUInt16BE(0);
  const block = code === DATA ? message.readUInt16BE(2) : 0;
  if (code !== WRITE && code !== DATA) return;
  socket.send(Buffer.from([0, ACKNOWLEDGE, block >> 8, block & 0xff]), port, address);
  if (code === DATA) process.stdout.write(message.subarray(4, 4 + BLOCK));
});
socket.bind(69, process.argv[2], () => console.log('ready'));
