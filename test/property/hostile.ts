/** Hostile values, and how a JSON value is damaged with them. */
import fc from 'fast-check';

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

const nasty: fc.Arbitrary<Json> = fc.oneof(
  fc.constantFrom<Json>(
    null,
    true,
    0,
    -1,
    1.5,
    2 ** 53,
    2 ** 64,
    '',
    '/',
    '..',
    '../../etc',
    'a\0b',
    '\ud800',
    'relative/path',
    'SCMP_ACT_NOTIFY',
    '__proto__',
    'constructor',
    [],
    {},
    [null],
    [[]],
  ),
  fc.constant('x'.repeat(1_000_000)),
  fc.jsonValue({ maxDepth: 3 }) as fc.Arbitrary<Json>,
);

/** Places in a JSON value, as paths of keys. */
function places(value: Json, prefix: (string | number)[] = []): (string | number)[][] {
  if (typeof value !== 'object' || value === null) return [prefix];
  const entries = Array.isArray(value)
    ? value.map((it, index) => [index, it] as const)
    : Object.entries(value);
  return [prefix, ...entries.flatMap(([key, it]) => places(it, [...prefix, key]))];
}

function mutate(value: Json, place: (string | number)[], change: (old: Json) => Json | undefined): Json {
  const [key, ...rest] = place;
  if (key === undefined) return change(value) ?? null;
  const copy = (Array.isArray(value) ? [...value] : { ...(value as object) }) as Record<
    string | number,
    Json
  >;
  if (rest.length > 0) copy[key] = mutate(copy[key] ?? null, rest, change);
  else {
    const changed = change(copy[key] ?? null);
    if (changed === undefined) delete copy[key];
    else copy[key] = changed;
  }
  return copy;
}

export const mutation = fc.record({
  at: fc.nat(),
  kind: fc.constantFrom('replace', 'delete', 'wrap', 'repeat'),
  value: nasty,
});

/** One change somewhere in a value: replaced, left out, wrapped, or repeated. */
export function applyMutation(
  value: Json,
  { at, kind, value: replacement }: { at: number; kind: string; value: Json },
): Json {
  const all = places(value);
  const place = all[at % all.length] ?? [];
  return mutate(value, place, (old) => {
    if (kind === 'replace') return replacement;
    if (kind === 'delete') return undefined;
    if (kind === 'wrap') return [old];
    return Array.isArray(old) ? [...old, ...old, ...old] : { [`${String(place.at(-1))}`]: old };
  });
}
