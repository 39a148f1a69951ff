import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { parseArguments, type Flag } from './flags.ts';

const flags: readonly Flag[] = [
  { name: 'bundle', alias: 'b', kind: 'string', usage: '' },
  { name: 'detach', alias: 'd', kind: 'boolean', usage: '' },
  { name: 'env', alias: 'e', kind: 'list', usage: '' },
  { name: 'preserve-fds', kind: 'number', usage: '' },
];
const parse = (words: readonly string[], flagsFirst = false) =>
  parseArguments(words, { verb: 'run', flags, flagsFirst });

describe('parseArguments', () => {
  it.each([
    [['--bundle', '/b', 'id']],
    [['--bundle=/b', 'id']],
    [['-bundle', '/b', 'id']],
    [['-b', '/b', 'id']],
    [['-b=/b', 'id']],
    [['id', '--bundle', '/b']],
    [['--bundle', '/a', '-b', '/b', 'id']],
  ])('%j', (words) => {
    const args = parse(words);
    expect([args.string('bundle'), args.operands]).toEqual(['/b', ['id']]);
  });

  it('knows booleans with and without a value', () => {
    const given = ['--detach', '-d', '--detach=true', '-d=1', '--detach=T'].map((word) =>
      parse([word]).boolean('detach'),
    );
    expect(given).toEqual([true, true, true, true, true]);
    expect(['--detach=false', '-d=0'].map((word) => parse([word]).boolean('detach'))).toEqual([false, false]);
    expect(parse([]).boolean('detach')).toBe(false);
    expect(parse(['-d', 'id']).operands).toEqual(['id']);
  });

  it('collects lists and keeps a value’s equals signs', () => {
    expect(parse(['-e', 'A=1', '--env=B=2=3']).list('env')).toEqual(['A=1', 'B=2=3']);
  });

  it('takes a value that looks like a flag', () => {
    expect(parse(['--bundle', '--detach']).string('bundle')).toBe('--detach');
  });

  it('leaves everything after the first operand alone where flags come first', () => {
    expect(parse(['-d', 'id', 'ls', '--all', '-e'], true).operands).toEqual(['id', 'ls', '--all', '-e']);
  });

  it('ends flags at --, and takes a lone dash for an operand', () => {
    expect(parse(['-', '--', '--detach']).operands).toEqual(['-', '--detach']);
  });

  it.each([
    [['--frob'], 'run: flag provided but not defined: --frob; see bulkhead run --help'],
    [['--frob=x'], 'run: flag provided but not defined: --frob; see bulkhead run --help'],
    [['--bundle'], 'run: flag needs an argument: --bundle; see bulkhead run --help'],
    [['--detach=maybe'], 'run: flag --detach: "maybe" is neither true nor false; see bulkhead run --help'],
    [
      ['--detach=constructor'],
      'run: flag --detach: "constructor" is neither true nor false; see bulkhead run --help',
    ],
    [
      ['--preserve-fds', '1e3'],
      'run: flag --preserve-fds: "1e3" is not a whole number; see bulkhead run --help',
    ],
  ])('refuses %j', (words, message) => {
    expect(() => parse(words)).toThrow(expect.objectContaining({ code: ErrorCode.InvalidArgument, message }));
  });

  it('never fails but by a RuntimeError, and loses no word', () => {
    const word = fc.oneof(
      fc.constantFrom('-b', '--bundle=x', '-d', '--', '-', '-e', '--preserve-fds=3', 'id'),
      fc.string(),
    );
    fc.assert(
      fc.property(fc.array(word), fc.boolean(), (words, flagsFirst) => {
        try {
          expect(parse(words, flagsFirst).operands.every((operand) => words.includes(operand))).toBe(true);
        } catch (error) {
          expect(error).toBeInstanceOf(RuntimeError);
        }
      }),
    );
  });
});
