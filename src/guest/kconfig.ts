/** Kernel configurations: the fragment of the tree against what Kconfig made of it. */

/** Option (CONFIG_X) to value as written: `y`, `n`, a number, a quoted string. `# CONFIG_X is not set` is `n`. */
export function parseConfig(text: string): Map<string, string> {
  const options = new Map<string, string>();
  for (const line of text.split('\n')) {
    const set = /^(CONFIG_\w+)=(.*)$/.exec(line.trim());
    if (set !== null) options.set(set[1] ?? '', set[2] ?? '');
    const unset = /^# (CONFIG_\w+) is not set$/.exec(line.trim());
    if (unset !== null) options.set(unset[1] ?? '', 'n');
  }
  return options;
}

/**
 * What the fragment asks for and the configuration does not say, as `CONFIG_X=y`: an option that this kernel does not
 * know, or whose dependency is missing. An option that is absent counts as `n`.
 */
export function missingOptions(fragment: string, config: string): string[] {
  const made = parseConfig(config);
  return [...parseConfig(fragment)]
    .filter(([name, value]) => (made.get(name) ?? 'n') !== value)
    .map(([name, value]) => `${name}=${value}`);
}
