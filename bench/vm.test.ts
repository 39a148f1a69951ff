import { describe, expect, it } from 'vitest';
import { stackedChart } from './stacked.ts';
import { vmTables } from './vm.ts';
import { usage } from './vm_memory.ts';

const stacks = [
  { name: 'namespace', parts: [{ label: 'start', value: 40 }] },
  {
    name: 'vm <cloned>',
    parts: [
      { label: 'start', value: 50 },
      { label: 'agent & rest', value: 150 },
    ],
  },
];

describe('break-down of a start', () => {
  it('is drawn to one scale, with one colour for each part and the sum behind the bar', () => {
    const svg = stackedChart('title', 'ms', stacks);
    const bars = [...svg.matchAll(/<rect x="[\d.]+" y="\d+" width="([\d.]+)" height="26" fill="(#\w+)">/g)];
    const widths = bars.map(([, width]) => Number(width));
    expect(widths[2]).toBeCloseTo(3 * (widths[1] ?? 0), 0);
    expect(widths[1]).toBeCloseTo((5 / 4) * (widths[0] ?? 0), 0);
    expect(bars.map(([, , colour]) => colour)).toEqual([bars[0]?.[2], bars[0]?.[2], bars[2]?.[2]]);
    expect(bars[2]?.[2]).not.toBe(bars[0]?.[2]);
    expect(svg).toContain('font-weight="bold">200</text>');
    expect(svg).toContain('vm &lt;cloned&gt;');
    expect(svg).toContain('agent &amp; rest');
  });

  it('is a table with sums of time and of memory', () => {
    const memory = ['qemu', 'monitor'].map((what, n) => ({
      kind: 'vm',
      pods: 10,
      what,
      private: 20 + n,
      pss: 9,
    }));
    const execs = [{ contender: 'vm', samples: [70, 90, 80] }];
    const text = vmTables({ starts: [], stacks, execs, stdout: [], memory });
    expect(text).toMatch(/^vm <cloned> +200$/m);
    expect(text).toMatch(/^ {2}agent & rest +150$/m);
    expect(text).toMatch(/^exec of true, vm +80$/m);
    expect(text).toMatch(/^vm +10 +41\.0 +18\.0$/m);
    expect(text).toMatch(/^ {2}monitor +10 +21\.0 +9\.0$/m);
  });
});

describe('memory of a process', () => {
  it('is its own and its share of what it shares', () => {
    const own = usage(process.pid);
    expect(own.private).toBeGreaterThan(1024);
    expect(own.pss).toBeGreaterThanOrEqual(own.private * 0.8);
  });

  it('is nothing when it has gone', () => {
    expect(usage(2 ** 22 + 1)).toEqual({ private: 0, pss: 0, guest: 0, guestPss: 0, template: 0, image: 0 });
  });
});
