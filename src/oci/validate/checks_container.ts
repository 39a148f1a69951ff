/** Version, root file system, devices, hooks, personality. */
import { parsePropagation } from '../mount_options.ts';
import { cleanAbsolute, isAbsolute } from '../paths.ts';
import type { Hooks, ParsedSpec } from '../types.ts';
import type { Refuse } from './checks.ts';
import { show } from './shape.ts';

/** Releases 1.x are compatible with each other ("specification version", spec.md); 0.x and 2.x are not known. */
export function checkVersion({ ociVersion }: ParsedSpec, refuse: Refuse): void {
  if (!/^\d+\.\d+\.\d+([-+].*)?$/.test(ociVersion)) {
    refuse('ociVersion', `must be a version such as 1.3.0, is ${show(ociVersion)}`);
  }
  if (!ociVersion.startsWith('1.')) refuse('ociVersion', `version ${show(ociVersion)} is not supported`);
}

export function checkRoot({ linux }: ParsedSpec, refuse: Refuse): void {
  const { rootfsPropagation = '', maskedPaths = [], readonlyPaths = [], namespaces = [] } = linux;
  if (rootfsPropagation !== '' && parsePropagation(rootfsPropagation) === undefined) {
    refuse('linux.rootfsPropagation', `unknown propagation ${show(rootfsPropagation)}`);
  }
  for (const [field, paths] of [
    ['linux.maskedPaths', maskedPaths],
    ['linux.readonlyPaths', readonlyPaths],
  ] as const) {
    if (paths.length > 0 && !namespaces.some(({ type }) => type === 'mount')) {
      refuse(field, 'needs a mount namespace, and linux.namespaces has none');
    }
    paths.forEach((path, index) => {
      if (!isAbsolute(path)) refuse(`${field}[${index}]`, `must be an absolute path, is ${show(path)}`);
    });
  }
}

/** "u" is an unbuffered character device, the same as "c" on Linux (config-linux.md, "Devices"). */
const deviceTypes = new Set(['b', 'c', 'u', 'p']);

export function checkDevices({ linux }: ParsedSpec, refuse: Refuse): void {
  (linux.devices ?? []).forEach((device, index) => {
    const field = `linux.devices[${index}]`;
    if (!deviceTypes.has(device.type)) {
      refuse(`${field}.type`, `unknown device type ${show(device.type)}`);
    }
    if (!isAbsolute(device.path)) {
      refuse(`${field}.path`, `must be an absolute path, is ${show(device.path)}`);
    }
    if (cleanAbsolute(device.path) === '/') refuse(`${field}.path`, 'must not be the root directory');
    if (device.type === 'p') return;
    for (const part of ['major', 'minor'] as const) {
      if (device[part] === undefined) refuse(`${field}.${part}`, 'is required and missing');
    }
  });
  checkDeviceRules(linux.resources?.devices ?? [], refuse);
}

function checkDeviceRules(rules: readonly { type?: string; access?: string }[], refuse: Refuse): void {
  rules.forEach(({ type = '', access = '' }, index) => {
    const field = `linux.resources.devices[${index}]`;
    if (!['', 'a', 'b', 'c'].includes(type)) refuse(`${field}.type`, `unknown device type ${show(type)}`);
    if (!/^[rwm]*$/.test(access)) {
      refuse(`${field}.access`, `must be made of "r", "w" and "m", is ${show(access)}`);
    }
  });
}

/** With less the kernel kills a program before or at its first page; when, depends on the number of processors. */
const MIN_MEMORY = 512 * 1024;

export function checkMemory({ linux }: ParsedSpec, refuse: Refuse): void {
  const limit = linux.resources?.memory?.limit ?? 0;
  if (limit > 0 && limit < MIN_MEMORY) {
    refuse(
      'linux.resources.memory.limit',
      `${limit} bytes are too few to start a program, at least ${MIN_MEMORY} are needed`,
    );
  }
}

const hookKinds: readonly (keyof Hooks)[] = [
  'prestart',
  'createRuntime',
  'createContainer',
  'startContainer',
  'poststart',
  'poststop',
];

export function checkHooks({ hooks = {} }: ParsedSpec, refuse: Refuse): void {
  for (const kind of hookKinds) {
    (hooks[kind] ?? []).forEach((hook, index) => {
      if (!isAbsolute(hook.path)) {
        refuse(`hooks.${kind}[${index}].path`, `must be an absolute path, is ${show(hook.path)}`);
      }
      (hook.env ?? []).forEach((entry, at) => {
        if (entry.indexOf('=') < 1) {
          refuse(`hooks.${kind}[${index}].env[${at}]`, `must be NAME=value, is ${show(entry)}`);
        }
      });
    });
  }
}

export function checkPersonality({ linux }: ParsedSpec, refuse: Refuse): void {
  if (linux.personality === undefined) return;
  const { domain, flags = [] } = linux.personality;
  if (domain !== 'LINUX' && domain !== 'LINUX32') {
    refuse('linux.personality.domain', `unknown domain ${show(domain)}`);
  }
  if (flags.length > 0) refuse('linux.personality.flags', 'the specification defines no flags');
}
