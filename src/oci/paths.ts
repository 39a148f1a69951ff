/** Lexical path work for Linux paths, without node:path (this layer is pure and runs in bundles for any platform). */

/** `/a//b/./../c/` → `/a/c`. Relative paths are taken as beneath "/", as runc does for mount destinations. */
export function cleanAbsolute(path: string): string {
  const kept: string[] = [];
  for (const part of path.split('/')) {
    if (part === '' || part === '.') continue;
    if (part === '..') kept.pop();
    else kept.push(part);
  }
  return `/${kept.join('/')}`;
}

export function isAbsolute(path: string): boolean {
  return path.startsWith('/');
}

/** `base` joined with `path` unless `path` is absolute; cleaned either way. */
export function resolveFrom(base: string, path: string): string {
  return cleanAbsolute(isAbsolute(path) ? path : `${base}/${path}`);
}

/** Does the cleaned absolute `path` lie strictly below the cleaned absolute `parent`? */
export function isBelow(parent: string, path: string): boolean {
  return parent === '/' ? path !== '/' : path.startsWith(`${parent}/`);
}
