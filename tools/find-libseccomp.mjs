// Prints the linker's arguments for libseccomp, for binding.gyp. The static library is taken where there is one, so
// that addon.node needs nothing but the C library.
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

/** Where gcc finds a file of its library path, or undefined. */
function findLibrary(name) {
  const found = execFileSync(process.env.CXX ?? 'g++', [`-print-file-name=${name}`], {
    encoding: 'utf8',
  }).trim();
  return found !== name && existsSync(found) ? found : undefined;
}

const prefix = process.env.LIBSECCOMP_PREFIX;
const fromPrefix = prefix === undefined ? undefined : join(prefix, 'lib', 'libseccomp.a');
console.log(fromPrefix ?? findLibrary('libseccomp.a') ?? '-lseccomp');
