import { describe, expect, it } from 'vitest';
import { bulkhead } from '../src/gen/bulkhead.js';
import { containerd, google, io } from '../src/gen/containerd.js';

const { PidsStat } = io.containerd.cgroups.v2;
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

describe('generated code', () => {
  it.each([
    [0, ''],
    [1, '1001'],
    [2 ** 32, '108080808010'],
    [Number.MAX_SAFE_INTEGER, '10ffffffffffffff0f'],
    [2 ** 63 - 4096, '1080e0ffffffffffff7f'],
    [2 ** 64, '10ffffffffffffffffff01'],
    [Infinity, '10ffffffffffffffffff01'],
  ])('writes the unsigned 64-bit number %d', (limit, bytes) => {
    expect(hex(PidsStat.encode({ limit }).finish())).toBe(bytes);
  });

  it('reads 64-bit numbers as numbers', () => {
    expect(PidsStat.decode(Buffer.from('10ffffffffffffffffff01', 'hex')).limit).toBe(2 ** 64);
    const { Timestamp } = google.protobuf;
    expect(Timestamp.decode(Timestamp.encode({ seconds: -5, nanos: 7 }).finish())).toMatchObject({
      seconds: -5,
      nanos: 7,
    });
  });

  it('names fields in camel case, also those of well-known types', () => {
    const options = { typeUrl: 'containerd.runc.v1.Options', value: new Uint8Array([1]) };
    const request = containerd.task.v3.CreateTaskRequest.encode({
      id: 'web',
      options,
      parentCheckpoint: 'p',
    }).finish();
    expect(containerd.task.v3.CreateTaskRequest.decode(request)).toMatchObject({
      id: 'web',
      parentCheckpoint: 'p',
      options: { typeUrl: 'containerd.runc.v1.Options' },
    });
  });

  it('passes over fields it does not know', () => {
    const request = Buffer.concat([
      containerd.task.v3.KillRequest.encode({ id: 'web', signal: 9 }).finish(),
      Buffer.from('f20703616263', 'hex'),
    ]);
    expect(containerd.task.v3.KillRequest.decode(request)).toMatchObject({
      id: 'web',
      signal: 9,
      all: false,
    });
  });

  it('keeps the two bundles apart', () => {
    expect(Object.keys(bulkhead)).toEqual(expect.arrayContaining(['plan', 'executor', 'state']));
    expect(Object.keys(containerd)).not.toContain('plan');
  });
});
