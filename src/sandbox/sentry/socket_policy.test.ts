import { describe, expect, it } from 'vitest';
import { decodeSocketLog, socketRefusalText } from './socket_log.ts';
import { parseSocketRules, prefixMask } from './socket_policy.ts';
import { socketPrograms } from './socket_program.ts';

const every = [0, 65_535];

describe('rules for sockets', () => {
  it('are read in their order', () => {
    expect(
      parseSocketRules(
        'allow tcp 10.0.0.0/8 443; allow udp 10.0.0.53 53 ; deny [fd00::]/8 8000-8999;allow 2001:db8::1; deny *',
      ),
    ).toEqual([
      { allow: true, protocol: 6, range: { family: 4, words: [0x0a000000], prefix: 8 }, ports: [443, 443] },
      { allow: true, protocol: 17, range: { family: 4, words: [0x0a000035], prefix: 32 }, ports: [53, 53] },
      { allow: false, range: { family: 6, words: [0xfd000000, 0, 0, 0], prefix: 8 }, ports: [8000, 8999] },
      { allow: true, range: { family: 6, words: [0x20010db8, 0, 0, 1], prefix: 128 }, ports: every },
      { allow: false, ports: every },
    ]);
  });

  it('know every form of an address', () => {
    const words = (text: string): unknown => {
      const rules = parseSocketRules(`deny ${text}; allow *`);
      return typeof rules === 'string' ? rules : rules[0]?.range?.words;
    };
    expect(words('255.255.255.255')).toEqual([0xffffffff]);
    expect(words('0.0.0.0/0')).toEqual([0]);
    expect(words('::/0')).toEqual([0, 0, 0, 0]);
    expect(words('::ffff:1.2.3.4')).toEqual([0, 0, 0xffff, 0x01020304]);
    expect(words('1:2:3:4:5:6:7:8')).toEqual([0x10002, 0x30004, 0x50006, 0x70008]);
    expect(words('fe80::1:2')).toEqual([0xfe800000, 0, 0, 0x10002]);
  });

  it.each([
    ['', 'has no rules'],
    [' ; ', 'has no rules'],
    ['open *', 'rule "open *": begins with neither allow nor deny'],
    ['allow', 'rule "allow": names no address'],
    ['allow tcp', 'rule "allow tcp": names no address'],
    ['allow sctp 10.0.0.1', 'rule "allow sctp 10.0.0.1": "sctp" is no address'],
    ['allow example.org', 'rule "allow example.org": "example.org" is no address'],
    ['allow 10.0.0.1/33', 'rule "allow 10.0.0.1/33": "10.0.0.1/33" has a prefix longer than 32'],
    ['allow 10.0.0.1/8', 'rule "allow 10.0.0.1/8": "10.0.0.1/8" has bits behind its prefix'],
    ['allow * 0x50', 'rule "allow * 0x50": "0x50" is no port or range of ports'],
    ['allow * 65536', 'rule "allow * 65536": "65536" is no port or range of ports'],
    ['allow * 90-80', 'rule "allow * 90-80": "90-80" is no port or range of ports'],
    ['allow * 80 90', 'rule "allow * 80 90": does not end after "80"'],
    ['allow 10.0.0.0/8', 'the last rule is neither "allow *" nor "deny *"'],
    ['deny tcp *', 'the last rule is neither "allow *" nor "deny *"'],
    ['deny * 80', 'the last rule is neither "allow *" nor "deny *"'],
    [`${'deny 10.0.0.1;'.repeat(64)} allow *`, 'has more than 64 rules'],
  ])('are refused: %s', (text, fault) => {
    expect(parseSocketRules(text)).toBe(fault);
  });

  it('have masks for every prefix', () => {
    expect([0, 1, 8, 31, 32, 40, -4].map(prefixMask)).toEqual([
      0, 0x80000000, 0xff000000, 0xfffffffe, 0xffffffff, 0xffffffff, 0,
    ]);
  });
});

describe('their programs', () => {
  const all = parseSocketRules('deny *');
  const rules = typeof all === 'string' ? [] : all;
  const types = (policy: Parameters<typeof socketPrograms>[0]): number[] =>
    socketPrograms(policy).map(({ attachType }) => attachType);

  it('are none without rules', () => {
    expect(socketPrograms({ audit: true })).toEqual([]);
  });

  it('see connects, messages without a connect, and binds of both families', () => {
    expect(types({ connect: rules, audit: false })).toEqual([10, 11, 14, 15, 2]);
    expect(types({ bind: rules, audit: false })).toEqual([8, 9]);
  });

  it('leave echo sockets alone in an audit, which refuses nothing', () => {
    expect(types({ connect: rules, audit: true })).toEqual([10, 11, 14, 15]);
  });

  it('are whole instructions', () => {
    for (const { instructions } of socketPrograms({ connect: rules, bind: rules, audit: false })) {
      expect(instructions.length % 8).toBe(0);
      expect(instructions.at(-8)).toBe(0x95);
    }
  });
});

describe('their log', () => {
  const entry = (kind: number, target: number, words: number[], count: number): Buffer => {
    const bytes = Buffer.alloc(32);
    bytes.writeUInt32LE(kind, 0);
    bytes.writeUInt32LE(target, 4);
    words.forEach((word, index) => bytes.writeUInt32LE(word, 8 + 4 * index));
    bytes.writeBigUInt64LE(BigInt(count), 24);
    return bytes;
  };

  it('says what was refused, the most frequent first', () => {
    const bytes = Buffer.concat([
      entry(0x40000, (6 << 16) | 443, [0, 0, 0, 0xc0000201], 1),
      entry(0x60001, (17 << 16) | 53, [0x20010db8, 0, 0, 1], 5),
      entry(0x60002, (1 << 16) | 0, [0, 0, 0xffff, 0x7f000001], 2),
      Buffer.alloc(31),
    ]);
    expect(decodeSocketLog(bytes).map((one) => `${socketRefusalText(one)}: ${one.count}`)).toEqual([
      'send udp 2001:db8:0:0:0:0:0:1 port 53: 5',
      'bind 1 127.0.0.1 port 0: 2',
      'connect tcp 192.0.2.1 port 443: 1',
    ]);
  });
});
