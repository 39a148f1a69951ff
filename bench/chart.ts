import type { Summary } from './measure.ts';

export interface CaseResult {
  /** Short name, used as key in the JSON. */
  name: string;
  title: string;
  unit: string;
  /** True when a larger number is better (MB/s). */
  larger?: boolean;
  reference: string;
  summaries: Summary[];
}

const palette: Record<string, string> = {
  bulkhead: '#1f77b4',
  runc: '#999999',
  crun: '#c5c5c5',
  node24: '#7fb2d8',
};
const width = 860;
const left = 300;
const bar = 13;
const gap = 26;

const escape = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

const colour = (contender: string): string =>
  palette[Object.keys(palette).find((key) => contender.startsWith(key)) ?? ''] ?? '#666666';

export const format = (value: number): string =>
  value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);

/** One group of horizontal bars per case, each scaled to its own largest median; SVG text. */
export const chart = (title: string, results: readonly CaseResult[]): string => {
  const rows: string[] = [];
  let y = 52;
  for (const { title: caption, unit, larger, summaries } of results) {
    const largest = Math.max(...summaries.map((summary) => summary.median));
    rows.push(`<text x="12" y="${y + 11}" font-weight="bold">${escape(caption)}</text>`);
    rows.push(
      `<text x="12" y="${y + 26}" fill="#666">${escape(unit)}, ${larger ? 'more' : 'less'} is better</text>`,
    );
    for (const { contender, median, ratio } of summaries) {
      const length = Math.max(1, (median / largest) * (width - left - 170));
      rows.push(`<text x="${left - 6}" y="${y + 11}" text-anchor="end">${escape(contender)}</text>`);
      rows.push(
        `<rect x="${left}" y="${y}" width="${length.toFixed(1)}" height="${bar}" fill="${colour(contender)}"/>`,
      );
      const label = `${format(median)} (${ratio.toFixed(2)})`;
      rows.push(`<text x="${(left + length + 6).toFixed(1)}" y="${y + 11}">${label}</text>`);
      y += bar + 3;
    }
    y += gap;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
<text x="12" y="24" font-size="16" font-weight="bold">${escape(title)}</text>
<text x="12" y="40" fill="#666">median of interleaved runs; in brackets the ratio to the reference</text>
${rows.join('\n')}
</svg>
`;
};

/** The same as a table for a terminal. */
export const table = (results: readonly CaseResult[]): string =>
  results
    .map(({ title, unit, reference, summaries }) => {
      const lines = summaries.map(({ contender, count, min, median, ratio }) =>
        [
          contender.padEnd(16),
          format(min).padStart(9),
          format(median).padStart(9),
          ratio.toFixed(2).padStart(7),
          String(count).padStart(6),
        ].join(' '),
      );
      const head = ['', 'min', 'median', 'ratio', 'n'];
      const header = [
        head[0]?.padEnd(16),
        head[1]?.padStart(9),
        head[2]?.padStart(9),
        head[3]?.padStart(7),
        head[4]?.padStart(6),
      ].join(' ');
      return `${title} (${unit}; ratio to ${reference})\n${header}\n${lines.join('\n')}`;
    })
    .join('\n\n');
