import { describe, expect, it } from 'vitest';
import { ipBytes, macBytes } from './ip.ts';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

describe('addresses to bytes', () => {
  it.each([
    ['10.0.255.1', '0a00ff01'],
    ['::', '00'.repeat(16)],
    ['::1', `${'00'.repeat(15)}01`],
    ['fe80::1', `fe80${'00'.repeat(13)}01`],
    ['2001:db8::', `20010db8${'00'.repeat(12)}`],
    ['1:2:3:4:5:6:7:8', '00010002000300040005000600070008'],
    ['::ffff:10.1.2.3', `${'00'.repeat(10)}ffff0a010203`],
    ['64:ff9b::192.0.2.1', `0064ff9b${'00'.repeat(8)}c0000201`],
  ])('%s', (text, bytes) => {
    expect(hex(ipBytes(text))).toBe(bytes);
  });

  it('takes hardware addresses', () => {
    expect(hex(macBytes('02:00:5e:10:00:ff'))).toBe('02005e1000ff');
    expect(macBytes('')).toHaveLength(0);
  });
});
