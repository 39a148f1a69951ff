/**
 * A virtual machine with the real agent as its PID 1 and busybox beside it, without the rest of Bulkhead: QEMU under
 * TCG as plain as can be, its QMP, and the host's end of the channel.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cpioArchive, type CpioEntry } from '../../src/guest/cpio.ts';
import { addon } from '../../src/native/index.ts';
import { Qmp } from '../../src/sandbox/vm/hypervisor/qemu/qmp.ts';
import { HostSession } from '../contract/agent/harness.ts';
import { guestAssets } from './assets.ts';

const ROOT_PORTS = 6;
const BOOT_MS = 30_000;
const APPLETS = [
  'sh',
  'cat',
  'cp',
  'dd',
  'echo',
  'ls',
  'mkdir',
  'mount',
  'sleep',
  'tail',
  'test',
  'true',
  'wc',
  'pwd',
];

/** Unpacked after the agent's own initrd, over it. */
function busybox(): Buffer {
  const entries: CpioEntry[] = [
    { kind: 'directory', path: 'bin' },
    { kind: 'file', path: 'bin/busybox', mode: 0o755, data: readFileSync('/usr/bin/busybox') },
    ...APPLETS.map((name): CpioEntry => ({ kind: 'symlink', path: `bin/${name}`, target: 'busybox' })),
  ];
  return cpioArchive(entries);
}

export class PlainMachine {
  readonly dir = mkdtempSync(join(tmpdir(), 'bh-machine-'));
  readonly #qemu: ChildProcess;
  readonly ended: Promise<number | null>;
  qmp!: Qmp;
  #stderr = '';

  private constructor(extra: string[]) {
    const guest = guestAssets();
    const initrd = join(this.dir, 'initrd');
    const own = readFileSync(guest.initrd);
    // Archives follow one another at multiples of four bytes (initramfs buffer format).
    writeFileSync(initrd, Buffer.concat([own, Buffer.alloc((4 - (own.length % 4)) % 4), busybox()]));
    const ports = Array.from({ length: ROOT_PORTS }, (_, i) => [
      '-device',
      `pcie-root-port,id=rp${i},chassis=${i + 1},addr=${i + 4}.0`,
    ]);
    this.#qemu = spawn(
      'qemu-system-x86_64',
      [
        ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-accel', 'tcg,thread=multi'],
        ...['-M', 'q35', '-cpu', 'max', '-smp', '1', '-m', '256M,slots=4,maxmem=2G'],
        ...['-kernel', guest.kernel, '-initrd', initrd],
        ...[
          '-append',
          'console=ttyS0 quiet reboot=t panic=-1 tsc=reliable no_timer_check mitigations=off swiotlb=noforce',
        ],
        ...['-serial', `file:${this.console}`, '-qmp', `unix:${this.dir}/qmp,server=on,wait=off`],
        ...['-chardev', `socket,id=agent,path=${this.dir}/agent,server=on,wait=off`],
        ...['-device', 'virtio-serial-pci', '-device', 'virtserialport,chardev=agent,name=bulkhead.agent'],
        ...ports.flat(),
        ...extra,
      ],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    this.#qemu.stderr?.on('data', (chunk: Buffer) => (this.#stderr += chunk.toString()));
    this.ended = new Promise((done) => this.#qemu.once('exit', (status) => done(status)));
  }

  static async boot(extra: string[] = []): Promise<PlainMachine> {
    const machine = new PlainMachine(extra);
    try {
      await machine.#socket('qmp').then((socket) => socket.destroy());
      const { connectUnix, sendFdOver } = addon();
      machine.qmp = await Qmp.connect(join(machine.dir, 'qmp'), {
        id: 'test',
        connect: connectUnix,
        sendFd: sendFdOver,
      });
    } catch (error) {
      await machine.dispose();
      throw error;
    }
    return machine;
  }

  get console(): string {
    return join(this.dir, 'console');
  }

  async #socket(name: string): Promise<Socket> {
    const deadline = Date.now() + BOOT_MS;
    for (;;) {
      const socket = connect(join(this.dir, name));
      const failed = await new Promise<Error | undefined>((done) => {
        socket.once('connect', () => done(undefined));
        socket.once('error', done);
      });
      if (failed === undefined) return socket;
      if (Date.now() > deadline || this.#qemu.exitCode !== null)
        throw new Error(`${failed.message}: ${this.#stderr}`);
      await new Promise((done) => setTimeout(done, 10));
    }
  }

  /** A new session with the agent; the port has one connection at a time. */
  async session(): Promise<HostSession> {
    return new HostSession(await this.#socket('agent'));
  }

  get lastWords(): string {
    return existsSync(this.console) ? readFileSync(this.console, 'utf8') : '';
  }

  async dispose(): Promise<void> {
    this.qmp?.close();
    if (this.#qemu.exitCode === null && this.#qemu.signalCode === null) this.#qemu.kill('SIGKILL');
    await this.ended;
    rmSync(this.dir, { recursive: true, force: true });
  }
}
