import { describe, expect, it } from 'vitest';
import { decodeMetrics, encodeMetrics, metricsTypeV1, metricsTypeV2 } from './index.ts';

describe('metrics on the wire', () => {
  it('carry the type that containerd looks up, without a prefix', () => {
    expect(encodeMetrics({ version: 1, metrics: {} }).typeUrl).toBe('io.containerd.cgroups.v1.Metrics');
    expect(encodeMetrics({ version: 2, metrics: {} }).typeUrl).toBe('io.containerd.cgroups.v2.Metrics');
  });

  it('round trip, by type', () => {
    const one = decodeMetrics(encodeMetrics({ version: 1, metrics: { pids: { current: 5, limit: 7 } } }));
    expect(one).toMatchObject({ version: 1, metrics: { pids: { current: 5, limit: 7 } } });
    const two = decodeMetrics(
      encodeMetrics({ version: 2, metrics: { cpu: { usageUsec: 9, psi: { some: { avg10: 0.5 } } } } }),
    );
    expect(two).toMatchObject({
      version: 2,
      metrics: { cpu: { usageUsec: 9, psi: { some: { avg10: 0.5 } } } },
    });
  });

  it('encode by containerd’s field numbers', () => {
    // pids is field 2 of v1 and field 1 of v2; memory is field 4 of both.
    const metrics = { pids: { current: 5 }, memory: {} };
    expect(Buffer.from(encodeMetrics({ version: 1, metrics }).value).toString('hex')).toBe('120208052200');
    expect(Buffer.from(encodeMetrics({ version: 2, metrics }).value).toString('hex')).toBe('0a0208052200');
  });

  it('are undefined for any other type', () => {
    expect(
      decodeMetrics({ typeUrl: `type.googleapis.com/${metricsTypeV1}`, value: new Uint8Array() }),
    ).toBeUndefined();
    expect(decodeMetrics({ typeUrl: metricsTypeV2, value: new Uint8Array() })?.version).toBe(2);
  });
});
