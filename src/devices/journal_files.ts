/** The journal's files: one a device, whole or not there. */
import {
  closeSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';

export interface JournalFiles {
  /** Names of complete files, sorted. */
  names(): string[];
  read(name: string): string | undefined;
  /** On disk when it returns. False when the name is taken. */
  create(name: string, text: string): boolean;
  /** As it was or as it is to be, whenever the power is cut. */
  replace(name: string, text: string): void;
  remove(name: string): void;
}

/** Files in a directory (BULKHEAD_ROOT/devices). A name is linked to a file that is complete and synced. */
export function journalFiles(dir: string): JournalFiles {
  const sync = (): void => {
    const fd = openSync(dir, 'r');
    fsyncSync(fd);
    closeSync(fd);
  };
  /** Another name of the same directory, complete and synced. */
  const written = (name: string, text: string): string => {
    const temporary = join(dir, `${name}.${process.pid}.new`);
    rmSync(temporary, { force: true });
    const fd = openSync(temporary, 'wx', 0o600);
    try {
      writeSync(fd, text);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    return temporary;
  };
  return {
    names: () => {
      try {
        const all = readdirSync(dir);
        for (const name of all) if (isStale(name)) rmSync(join(dir, name), { force: true });
        return all.filter((name) => name.endsWith('.json')).sort();
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
        throw error;
      }
    },
    read: (name) => {
      try {
        return readFileSync(join(dir, name), 'utf8');
      } catch {
        return undefined;
      }
    },
    create: (name, text) => {
      mkdirSync(dir, { recursive: true, mode: 0o700 });
      const temporary = written(name, text);
      try {
        linkSync(temporary, join(dir, name));
        return true;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
        throw error;
      } finally {
        // Before the directory is synced: a cut of the power does not bring it back.
        rmSync(temporary, { force: true });
        sync();
      }
    },
    replace: (name, text) => {
      renameSync(written(name, text), join(dir, name));
      sync();
    },
    remove: (name) => {
      rmSync(join(dir, name), { force: true });
      sync();
    },
  };
}

/** A file that was not complete when its writer ended: "NAME.PID.new". */
function isStale(name: string): boolean {
  const [, pid] = /\.(\d+)\.new$/.exec(name) ?? [];
  if (pid === undefined || Number(pid) === process.pid) return false;
  try {
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}
