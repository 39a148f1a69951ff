/** A template is named by everything that shapes it: when any of that changes, it is another template. */
import { createHash } from 'node:crypto';
import { createReadStream, readFileSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { MachineConfig } from '../hypervisor.ts';
import { renderArguments } from './arguments.ts';
import { qemuSwitches } from './command_line.ts';
import { TEMPLATE_FORMAT } from './template_image.ts';

export interface TemplateFacts {
  /** Of the QEMU program and its firmware: path, size, modification. A new version is a new file. */
  programs: readonly string[];
  kernelSha256: string;
  initrdSha256: string;
  /** What KVM shows of the host's CPU to the guest; the same for all hosts under TCG. */
  cpu: string;
}

/** Where QEMU's packages keep the firmware that becomes a part of the machine. */
const FIRMWARE = [
  '/usr/share/seabios/bios-256k.bin',
  '/usr/share/qemu/pvh.bin',
  '/usr/share/qemu/bios-microvm.bin',
];

const ANY_CID = 3;

/** The configuration without what differs from machine to machine. */
export function templateConfig(config: MachineConfig): MachineConfig {
  return {
    ...config,
    id: 'template',
    dir: '/',
    devices: undefined,
    functions: undefined,
    placement: undefined,
    template: undefined,
    // A template's memory is always a file that QEMU shares with it; its clones choose.
    sharedMemory: true,
    credentials: undefined,
    vsockCid: config.vsockCid === undefined ? undefined : ANY_CID,
  };
}

/** Pure. 32 hexadecimal digits. */
export function templateKey(config: MachineConfig, facts: TemplateFacts): string {
  const switches = qemuSwitches({
    config: templateConfig(config),
    memory: { kind: 'file', share: true },
    restore: false,
    paused: false,
  });
  // The paths of kernel and initrd do not matter, their content does.
  const boot = {
    kernel: facts.kernelSha256,
    initrd: facts.initrdSha256,
    append: 'append' in switches.boot ? switches.boot.append : '',
  };
  const shape = [TEMPLATE_FORMAT, renderArguments({ ...switches, boot }), facts.programs, facts.cpu];
  return createHash('sha256').update(JSON.stringify(shape)).digest('hex').slice(0, 32);
}

const digests = new Map<string, Promise<string>>();

/** Reads what templateKey needs from the host. Digests are kept as long as a file stays what it is. */
export async function readFacts(program: string, config: MachineConfig): Promise<TemplateFacts> {
  const [kernelSha256, initrdSha256] = await Promise.all([
    digestOf(config.image.kernel),
    digestOf(config.image.initrd),
  ]);
  return {
    programs: [identity(realpathSync(program)), ...FIRMWARE.flatMap(identityIfThere)],
    kernelSha256,
    initrdSha256,
    cpu: config.accelerator === 'kvm' ? hostCpu('/proc') : '',
  };
}

function digestOf(path: string): Promise<string> {
  const key = identity(path);
  const known = digests.get(key);
  if (known !== undefined) return known;
  const digest = new Promise<string>((resolve, reject) => {
    const hash = createHash('sha256');
    const stream = createReadStream(path, { highWaterMark: 1 << 20 });
    stream.on('error', reject);
    stream.on('data', (chunk) => hash.update(chunk));
    stream.on('end', () => resolve(hash.digest('hex')));
  });
  digests.set(key, digest);
  digest.catch(() => digests.delete(key));
  return digest;
}

function identity(path: string): string {
  const { dev, ino, size, mtimeNs } = statSync(path, { bigint: true });
  return `${path}:${dev}:${ino}:${size}:${mtimeNs}`;
}

function identityIfThere(path: string): string[] {
  return statSync(path, { throwIfNoEntry: false }) === undefined ? [] : [identity(path)];
}

/** Model, stepping, microcode and flags of the first CPU. */
export function hostCpu(proc: string): string {
  const wanted = /^(vendor_id|cpu family|model|model name|stepping|microcode|flags)\s*:/;
  const first = readFileSync(join(proc, 'cpuinfo'), 'utf8').split('\n\n')[0] ?? '';
  return first
    .split('\n')
    .filter((line) => wanted.test(line))
    .join('\n');
}
