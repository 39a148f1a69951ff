import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { checkConfig } from './build_kernel.ts';
import { missingOptions, parseConfig } from './kconfig.ts';
import { kernelFragment } from './place.ts';

const made = 'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=64\nCONFIG_NAME="-x"\n';

describe('kernel configuration', () => {
  it('reads set and unset options', () => {
    expect([...parseConfig(`# text\n${made}`)]).toEqual([
      ['CONFIG_A', 'y'],
      ['CONFIG_B', 'n'],
      ['CONFIG_N', '64'],
      ['CONFIG_NAME', '"-x"'],
    ]);
  });

  it('takes an option that is absent for one that is off', () => {
    expect(missingOptions('CONFIG_B=n\nCONFIG_GONE=n\nCONFIG_N=64\nCONFIG_NAME="-x"', made)).toEqual([]);
    expect(missingOptions('CONFIG_A=n\nCONFIG_GONE=y\nCONFIG_N=8', made)).toEqual([
      'CONFIG_A=n',
      'CONFIG_GONE=y',
      'CONFIG_N=8',
    ]);
  });

  it('refuses a configuration that lacks something, and names it', () => {
    const fragment = Array.from({ length: 10 }, (_, n) => `CONFIG_X${n}=y`).join('\n');
    expect(() => checkConfig('/f', fragment, made)).toThrow(
      'guest build: /f: this kernel’s configuration does not take CONFIG_X0=y CONFIG_X1=y CONFIG_X2=y CONFIG_X3=y ' +
        'CONFIG_X4=y CONFIG_X5=y CONFIG_X6=y CONFIG_X7=y and 2 more; use the kernel series',
    );
    expect(() => checkConfig('/f', 'CONFIG_A=y', made)).not.toThrow();
  });

  it('has a fragment in which nothing is a module and nothing is said twice', () => {
    const text = readFileSync(kernelFragment(), 'utf8');
    const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
    expect(lines.filter((line) => !/^CONFIG_\w+=(y|n|\d+|"[^"]*")$/.test(line))).toEqual([]);
    expect(parseConfig(text).size).toBe(lines.length);
  });
});
