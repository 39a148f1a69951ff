import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { journalFiles } from './journal_files.ts';

let dir: string;
beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'bh-journal-'))));
afterEach(() => rmSync(dir, { recursive: true, force: true }));

describe('files of the journal', () => {
  it('are made once', () => {
    const files = journalFiles(dir);
    expect(files.create('a.json', '1')).toBe(true);
    expect(files.create('a.json', '2')).toBe(false);
    expect(files.read('a.json')).toBe('1');
    expect(readdirSync(dir)).toEqual(['a.json']);
  });

  it('that were not complete when their writer ended are removed', () => {
    // A process that has ended; its number is not given out again so soon.
    const { pid } = spawnSync('true');
    writeFileSync(join(dir, `a.json.${pid}.new`), '{');
    writeFileSync(join(dir, 'b.json'), '{}');
    expect(journalFiles(dir).names()).toEqual(['b.json']);
    expect(readdirSync(dir)).toEqual(['b.json']);
  });

  it('that somebody is writing are left alone', () => {
    writeFileSync(join(dir, `a.json.${process.ppid}.new`), '{');
    expect(journalFiles(dir).names()).toEqual([]);
    expect(readdirSync(dir)).toEqual([`a.json.${process.ppid}.new`]);
  });

  it('are none in a directory that is not there', () => {
    expect(journalFiles(join(dir, 'nowhere')).names()).toEqual([]);
  });
});
