import { describe, expect, it } from 'vitest';
import { ErrorCode } from '../../base/errors.ts';
import { chooseChannel, newCid } from './channel.ts';

describe('chooseChannel', () => {
  it.each<['auto' | 'serial' | 'vsock', 'bulkhead' | 'kata', boolean, 'serial' | 'vsock']>([
    ['auto', 'bulkhead', true, 'serial'],
    ['auto', 'bulkhead', false, 'serial'],
    ['auto', 'kata', true, 'vsock'],
    ['auto', 'kata', false, 'serial'],
    ['serial', 'kata', true, 'serial'],
    ['vsock', 'bulkhead', true, 'vsock'],
    ['vsock', 'kata', true, 'vsock'],
  ])('takes for %s, with the agent %s and vhost-vsock %s: %s', (channel, agent, hasVsock, chosen) => {
    expect(chooseChannel('web', { channel, agent }, hasVsock)).toBe(chosen);
  });

  it('says what is missing', () => {
    const choose = (): string => chooseChannel('web', { channel: 'vsock', agent: 'bulkhead' }, false);
    expect(choose).toThrow('create web: /dev/vhost-vsock: no such device');
    expect(choose).toThrow(expect.objectContaining({ code: ErrorCode.FailedPrecondition }));
  });
});

describe('newCid', () => {
  it('has a meaning for nobody, and is another one each time', () => {
    const numbers = Array.from({ length: 100 }, newCid);
    expect(new Set(numbers).size).toBe(100);
    for (const cid of numbers) expect(cid).toBeGreaterThan(2);
  });
});
