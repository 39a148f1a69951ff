import { describe, expect, it } from 'vitest';
import { ErrorCode, RuntimeError } from './errors.ts';
import { createLogger } from './log.ts';
import { cut, printable } from './text.ts';

/** Clears the screen, sets a title, writes backwards, ends the line. */
const hostile = 'a\x1b[2J\x9b1m\r\n\x7f\u202eb\u2066c\u2028d\u0085';
const shown = 'a\\u001b[2J\\u009b1m\\u000d\\u000a\\u007f\\u202eb\\u2066c\\u2028d\\u0085';

describe('text that somebody else chose', () => {
  it('is one line without anything a terminal acts upon', () => {
    expect(printable(hostile)).toBe(shown);
    expect(printable('größe 40 µs → fein')).toBe('größe 40 µs → fein');
  });

  it('is cut where it is too long', () => {
    expect(cut('abc', 3)).toBe('abc');
    expect(cut('abcd', 3)).toBe('abc…');
  });

  it('is harmless in an error, and no longer than a message may be', () => {
    const error = (reason: string, object?: string): string =>
      new RuntimeError({ code: ErrorCode.Unknown, op: 'create', id: 'web', object, reason }).message;
    expect(error(hostile)).toBe(`create web: ${shown}`);
    const long = error('r'.repeat(1e6), 'o'.repeat(1e6));
    expect(long.length).toBeLessThan(10_000);
    expect(long).toMatch(/^create web: o+…: r+…$/);
  });

  it.each(['text', 'json'] as const)('is harmless in a log as %s', (format) => {
    const lines: string[] = [];
    createLogger((line) => void lines.push(line), 'info', format).info('m', { console: hostile });
    expect(lines).toHaveLength(1);
    expect(lines[0]?.slice(0, -1)).not.toMatch(/[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066]/);
    expect(lines[0]?.endsWith('\n')).toBe(true);
    if (format === 'json')
      expect((JSON.parse(lines[0] ?? '') as Record<string, string>)['console']).toBe(hostile);
  });
});
