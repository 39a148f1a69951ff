/** What a virtual machine boots: the kernel in use and an initrd with the installed agent. */
import { existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { contentKey, GuestCache } from './cache.ts';
import type { KernelInfo } from './cache.ts';
import { cpioArchive } from './cpio.ts';
import { initrdEntries } from './initrd.ts';
import { guestProgram } from './place.ts';

export interface GuestPlace {
  /** The guest cache's directory. */
  cache: string;
  /** Path of a guest's program by its name; by default the installed one. */
  program?: (name: string) => string;
}

export interface Guest {
  /** An uncompressed kernel with a PVH entry. */
  kernel: string;
  initrd: string;
  /** Hash of kernel and initrd: what a template of this guest is keyed by. */
  key: string;
  /** "6.12.117-bulkhead"; empty when unknown. */
  release: string;
  origin: string;
}

/** Hashing two programs for every pod is not needed: they are the same until one is replaced. */
const known = new Map<string, { stamp: string; guest: Guest }>();

/**
 * The guest to boot. The initrd is made when there is none of this content yet, so an upgraded agent is in the next
 * guest. FailedPrecondition when no kernel was built or the agent is not installed.
 */
export function findGuest(place: GuestPlace, op = 'create', id?: string): Guest {
  const cache = new GuestCache(place.cache);
  const find = place.program ?? guestProgram;
  const info = cache.selected(op, id);
  const programs = ['bulkhead-agent', 'bulkhead-init'].map((name) => programFile(op, id, find(name)));
  const stamp = [info.key, ...programs.map(({ stamp: each }) => each)].join(' ');
  const before = known.get(place.cache);
  if (before?.stamp === stamp && existsSync(before.guest.initrd)) return before.guest;
  const guest = makeGuest(cache, info, programs);
  known.set(place.cache, { stamp, guest });
  return guest;
}

interface Program {
  path: string;
  stamp: string;
}

function programFile(op: string, id: string | undefined, path: string): Program {
  const stat = statSync(path, { throwIfNoEntry: false, bigint: true });
  if (stat === undefined) {
    throw new RuntimeError({
      code: ErrorCode.FailedPrecondition,
      op,
      id,
      object: path,
      reason: 'no such file',
      remedy: 'it is part of every guest: run `make install` again',
      path,
    });
  }
  return { path, stamp: `${path} ${stat.ino} ${stat.size} ${stat.mtimeNs}` };
}

function makeGuest(cache: GuestCache, info: KernelInfo, programs: readonly Program[]): Guest {
  const [agent, init] = programs.map(({ path }) => readFileSync(path)) as [Buffer, Buffer];
  const dir = join(cache.kernelDir(info.key), 'modules');
  const modules = info.modules.map((name) => ({ name, data: readFileSync(join(dir, name)) }));
  const archive = cpioArchive(initrdEntries({ agent, init, modules }));
  const key = contentKey(['initrd 1', archive]);
  const initrd = cache.initrdPath(key);
  if (!existsSync(initrd)) {
    mkdirSync(dirname(initrd), { recursive: true });
    writeFileSync(`${initrd}.${process.pid}`, archive);
    renameSync(`${initrd}.${process.pid}`, initrd);
  }
  return {
    kernel: cache.kernelPath(info.key),
    initrd,
    key: contentKey(['guest 1', info.key, key]),
    release: info.release,
    origin: info.origin,
  };
}
