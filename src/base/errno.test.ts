import { execFileSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { errnoName, errnoNumber, errnoText } from './errno.ts';

describe('errno', () => {
  it('says what the C library says, for every number', () => {
    // Perl's $! is strerror(3); %! has the names.
    const script = 'for (1..133) { $! = $_; my $t = "$!"; print "$_\\t$t\\n" unless $t =~ /^Unknown error/ }';
    const lines = execFileSync('perl', ['-e', script], { encoding: 'utf8', env: { LC_ALL: 'C' } })
      .trim()
      .split('\n')
      .map((line) => line.split('\t') as [string, string]);
    expect(lines.length).toBeGreaterThan(100);
    const different = lines.filter(
      ([number, text]) => errnoText(Number(number)).toLowerCase() !== text.toLowerCase(),
    );
    expect(different).toEqual([]);
  });

  it('goes both ways', () => {
    for (let number = 1; number <= 133; number += 1) {
      const name = errnoName(number);
      if (!name.startsWith('errno ')) expect(errnoNumber(name), name).toBe(number);
    }
    expect([errnoName(2), errnoName(11), errnoName(95), errnoName(524)]).toEqual([
      'ENOENT',
      'EAGAIN',
      'EOPNOTSUPP',
      'ENOTSUPP',
    ]);
    expect(errnoNumber('ENOTSUP')).toBe(95);
  });

  it('has an answer for what has no name', () => {
    expect(errnoName(4711)).toBe('errno 4711');
    expect(errnoText(4711)).toBe('errno 4711');
    expect(errnoNumber('ENOSUCH')).toBeUndefined();
    expect(errnoNumber('toString')).toBeUndefined();
  });
});
