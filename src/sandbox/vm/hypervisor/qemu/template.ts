/**
 * Templates: a machine is booted once, up to an agent that answers, and saved; every later one begins as its copy.
 *
 *   <cache>/templates/<key>/{memory,state,manifest.json}      made under another name, then renamed
 *   <cache>/templates/<key>.lock                              one builder at a time, also among processes
 */
import {
  closeSync,
  constants,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CleanupStack } from '../../../../base/cleanup.ts';
import { asRuntimeError, ErrorCode, RuntimeError } from '../../../../base/errors.ts';
import { silentLogger, type Logger } from '../../../../base/log.ts';
import type { Addon } from '../../../../native/index.ts';
import type { MachineConfig, MachineLaunch, TemplateImage } from '../hypervisor.ts';
import type { QemuHypervisor } from './driver.ts';
import {
  MANIFEST_FILE,
  MEMORY_FILE,
  readTemplate,
  STATE_FILE,
  stateDigest,
  TEMPLATE_FORMAT,
  TemplateError,
  type TemplateManifest,
} from './template_image.ts';
import { readFacts, templateKey } from './template_key.ts';

/** A hypervisor process that the store may end. */
export interface BuilderProcess {
  kill(): void;
  exited: Promise<unknown>;
}

export interface TemplateStoreOptions {
  /** Content-keyed cache directory, /var/cache/bulkhead. */
  cache: string;
  hypervisor: QemuHypervisor;
  addon: Pick<Addon, 'flock' | 'copySparse'>;
  /** Launches the machine that becomes the template; it must not outlive this process. */
  launch: (launch: MachineLaunch) => Promise<BuilderProcess>;
  /** Resolves when the guest's agent answers, with no connection left. */
  probe: (launch: MachineLaunch, deadlineMs: number) => Promise<void>;
  log?: Logger;
  /** Milliseconds for the guest to boot; default 60 s. */
  bootDeadlineMs?: number;
}

const BOOT_DEADLINE_MS = 60_000;
const LOCK_RETRY_MS = 25;
/** Behind the name of a template that is being built. */
const UNFINISHED = '.new';

export class TemplateStore {
  readonly #options: TemplateStoreOptions;
  readonly #log: Logger;
  readonly #building = new Map<string, Promise<TemplateImage>>();

  constructor(options: TemplateStoreOptions) {
    this.#options = options;
    this.#log = options.log ?? silentLogger;
  }

  /** Where the template of a configuration is, or would be. */
  async directory(config: MachineConfig): Promise<string> {
    const facts = await readFacts(this.#options.hypervisor.program, config);
    return join(this.#options.cache, 'templates', templateKey(config, facts));
  }

  /** The template when there is a usable one; a damaged one is removed, and the log says why. */
  async find(config: MachineConfig): Promise<TemplateImage | undefined> {
    return this.#usable(await this.directory(config));
  }

  /** The template, built when there is none. Rejects when the guest does not boot; nothing is left then. */
  async ensure(config: MachineConfig): Promise<TemplateImage> {
    const dir = await this.directory(config);
    const building = this.#building.get(dir);
    if (building !== undefined) return building;
    const made = this.#findOrBuild(config, dir).finally(() => this.#building.delete(dir));
    this.#building.set(dir, made);
    return made;
  }

  /** Removes the template that a machine was to begin as: it was found to be bad. One built since stays. */
  async discard(config: MachineConfig): Promise<void> {
    const dir = await this.directory(config);
    if (config.template !== undefined && readSum(dir) !== config.template.memorySum) return;
    this.#options.hypervisor.templates.forget(join(dir, MEMORY_FILE));
    remove(dir);
  }

  async #usable(dir: string): Promise<TemplateImage | undefined> {
    try {
      const image = readTemplate(dir);
      if (image !== undefined) await this.#options.hypervisor.templates.sealed(image);
      return image;
    } catch (error) {
      if (!(error instanceof TemplateError)) throw error;
      this.#log.warning(error.message);
      this.#options.hypervisor.templates.forget(join(dir, MEMORY_FILE));
      remove(dir);
      return undefined;
    }
  }

  async #findOrBuild(config: MachineConfig, dir: string): Promise<TemplateImage> {
    const found = await this.#usable(dir);
    if (found !== undefined) return found;
    mkdirSync(join(this.#options.cache, 'templates'), { recursive: true, mode: 0o755 });
    await using undo = new CleanupStack();
    undo.defer('lock', await this.#lock(`${dir}.lock`));
    // Another process may have built it meanwhile.
    return (await this.#usable(dir)) ?? (await this.#make(config, dir));
  }

  async #make(config: MachineConfig, dir: string): Promise<TemplateImage> {
    await using undo = new CleanupStack();
    this.#sweep(dirname(dir));
    const work = `${dir}${UNFINISHED}`;
    remove(work);
    mkdirSync(work, { mode: 0o700 });
    undo.defer('template', () => remove(work));
    const sockets = mkdtempSync(join(tmpdir(), 'bulkhead-template-'));
    undo.defer('sockets', () => remove(sockets));
    const began = Date.now();
    try {
      await this.#save(
        { ...config, id: 'template', dir: sockets, devices: undefined, template: undefined },
        work,
      );
    } catch (error) {
      const { code } = asRuntimeError(error, 'vm');
      const reason = (error as Error).message;
      throw new RuntimeError({ code, op: 'build template', object: dir, reason, cause: error });
    }
    // What is not a template, such as one without a manifest, is in the way of the new one.
    remove(dir);
    renameSync(work, dir);
    this.#log.info('template built', { template: dir, milliseconds: Date.now() - began });
    const image = readTemplate(dir);
    if (image === undefined) throw new TemplateError(dir, 'is gone');
    await this.#options.hypervisor.templates.sealed(image);
    return image;
  }

  async #save(config: MachineConfig, work: string): Promise<void> {
    const { hypervisor, addon, launch: start, probe, bootDeadlineMs = BOOT_DEADLINE_MS } = this.#options;
    await using undo = new CleanupStack();
    const source = hypervisor.prepareTemplate(config);
    undo.defer('memory', () => closeSync(source.memory));
    const process = await start(source.launch);
    undo.defer('hypervisor', async () => {
      process.kill();
      await process.exited;
    });
    const ended = process.exited.then(() => {
      throw new RuntimeError({
        code: ErrorCode.Unavailable,
        op: 'vm',
        id: config.id,
        reason: 'the guest has ended before its agent answered',
      });
    });
    await Promise.race([probe(source.launch, bootDeadlineMs), ended]);
    const state = join(work, STATE_FILE);
    await hypervisor.saveTemplate(config, state);
    process.kill();
    await process.exited;
    const memory = openSync(
      join(work, MEMORY_FILE),
      constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL,
      0o600,
    );
    try {
      const memorySize = config.size.memoryMib * 2 ** 20;
      ftruncateSync(memory, memorySize);
      const memorySum = String(await addon.copySparse(source.memory, memory, true, true));
      fsyncSync(memory);
      const bytes = readFileSync(state);
      const manifest: TemplateManifest = {
        format: TEMPLATE_FORMAT,
        memorySize,
        memorySum,
        stateSize: bytes.length,
        stateSha256: stateDigest(bytes),
      };
      writeFileSync(join(work, MANIFEST_FILE), `${JSON.stringify(manifest)}\n`, { mode: 0o600, flush: true });
    } finally {
      closeSync(memory);
    }
  }

  /** Removes what builders have left that were killed: nobody holds their locks. */
  #sweep(templates: string): void {
    for (const name of readdirSync(templates)) {
      if (!name.endsWith(UNFINISHED)) continue;
      const path = join(templates, name);
      const fd = openSync(
        `${path.slice(0, -UNFINISHED.length)}.lock`,
        constants.O_RDWR | constants.O_CREAT,
        0o600,
      );
      try {
        this.#options.addon.flock(fd, true);
        remove(path);
      } catch {
        // Its builder is at work.
      } finally {
        closeSync(fd);
      }
    }
  }

  /** flock(2), tried again and again: a blocking one would stop the event loop. Another builder ends some day. */
  async #lock(path: string): Promise<() => void> {
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    let held = true;
    const unlock = (): void => {
      if (held) closeSync(fd);
      held = false;
    };
    const deadline = Date.now() + 2 * (this.#options.bootDeadlineMs ?? BOOT_DEADLINE_MS);
    for (;;) {
      try {
        this.#options.addon.flock(fd, true);
        return unlock;
      } catch (error) {
        const isHeld = (error as NodeJS.ErrnoException).code === 'EAGAIN';
        if (!isHeld || Date.now() >= deadline) unlock();
        if (!isHeld) throw error;
        if (!held) throw heldTooLong(path, error);
      }
      await sleep(LOCK_RETRY_MS);
    }
  }
}

function heldTooLong(lock: string, cause: unknown): RuntimeError {
  return new RuntimeError({
    code: ErrorCode.DeadlineExceeded,
    op: 'build template',
    object: lock,
    reason: 'another process holds it, and has not built the template yet',
    cause,
  });
}

/** Of the template that is there; undefined: none, or a damaged one. */
function readSum(dir: string): bigint | undefined {
  try {
    return readTemplate(dir)?.memorySum;
  } catch {
    return undefined;
  }
}

function remove(path: string): void {
  rmSync(path, { recursive: true, force: true });
}
