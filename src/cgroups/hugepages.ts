/** Huge page sizes that the hugetlb controller has files for. */
import { readdirSync } from 'node:fs';
import { isGone } from './files.ts';

const sizes = new Map<string, string[]>();

/**
 * Page sizes ("2MB", "1GB") for which `directory` has a file hugetlb.SIZE`suffix`. Looked up once for every suffix: the
 * kernel's sizes are fixed at boot, and a cgroup directory has dozens of files.
 */
export function hugePageSizes(directory: string, suffix: string): string[] {
  const known = sizes.get(suffix);
  if (known !== undefined) return known;
  let names: string[];
  try {
    names = readdirSync(directory);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
  const found = names.flatMap((name) => {
    const size = /^hugetlb\.(\d+[KMG]B)(\..*)$/.exec(name);
    return size?.[1] !== undefined && size[2] === suffix ? [size[1]] : [];
  });
  if (found.length > 0) sizes.set(suffix, found);
  return found;
}
