/** Stacked horizontal bars: what a whole consists of, one bar for each contender, all to one scale. */
export interface Stack {
  name: string;
  parts: { label: string; value: number }[];
}

const colours = ['#999999', '#1f77b4', '#7fb2d8', '#2ca02c', '#98df8a', '#ff7f0e', '#d62728', '#9467bd'];
const width = 860;
const left = 110;
const bar = 26;

const escape = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

const sum = ({ parts }: Stack): number => parts.reduce((total, { value }) => total + value, 0);

/** SVG text; a part's colour is the same in every bar, and the legend has them in their order. */
export function stackedChart(title: string, unit: string, stacks: readonly Stack[]): string {
  const largest = Math.max(...stacks.map(sum), 1);
  const scale = (width - left - 80) / largest;
  const labels = [...new Set(stacks.flatMap(({ parts }) => parts.map(({ label }) => label)))];
  const colour = (label: string): string => colours[labels.indexOf(label) % colours.length] ?? '#666666';
  const rows: string[] = [];
  let y = 56;
  for (const stack of stacks) {
    rows.push(`<text x="${left - 8}" y="${y + 17}" text-anchor="end">${escape(stack.name)}</text>`);
    let x = left;
    for (const { label, value } of stack.parts) {
      const length = Math.max(0, value * scale);
      const shape = `x="${x.toFixed(1)}" y="${y}" width="${length.toFixed(1)}" height="${bar}"`;
      rows.push(
        `<rect ${shape} fill="${colour(label)}"><title>${escape(label)}: ${value.toFixed(0)}</title></rect>`,
      );
      if (length > 24)
        rows.push(`<text x="${(x + 4).toFixed(1)}" y="${y + 17}" fill="white">${value.toFixed(0)}</text>`);
      x += length;
    }
    rows.push(
      `<text x="${(x + 6).toFixed(1)}" y="${y + 17}" font-weight="bold">${sum(stack).toFixed(0)}</text>`,
    );
    y += bar + 10;
  }
  y += 6;
  for (const label of labels) {
    rows.push(`<rect x="${left}" y="${y}" width="12" height="12" fill="${colour(label)}"/>`);
    rows.push(`<text x="${left + 18}" y="${y + 10}">${escape(label)}</text>`);
    y += 18;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y + 8}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
<text x="12" y="24" font-size="16" font-weight="bold">${escape(title)}</text>
<text x="12" y="42" fill="#666">${escape(unit)}</text>
${rows.join('\n')}
</svg>
`;
}
