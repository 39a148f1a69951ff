/**
 * YAML of CDI specs → plain values. The reference library decodes into typed fields, so that `name: 0` is the text "0"
 * and `fileMode: 0666` an octal number, as YAML 1.1 has it; a parser that resolves scalars before it knows the field
 * gets both wrong. Here a scalar is resolved by the field that it is in.
 *
 * Imported when the first YAML file is read (parse.ts): the parser (npm: yaml) is large, and most hosts have no such file.
 */
import { isAlias, isMap, isScalar, isSeq, parseDocument, type Node, type Pair } from 'yaml';
import { ShapeError } from '../../oci/validate/shape.ts';

const integerFields = new Set(['major', 'minor', 'fileMode', 'uid', 'gid', 'timeout', 'additionalGids']);
const booleanFields = new Set(['enableMonitoring']);

/** Values in one document, aliases followed: a few hundred devices make some ten thousand. */
const MAX_VALUES = 200_000;
const MAX_DEPTH = 32;

/** The value of a YAML text. Throws ShapeError. */
export function parseYaml(text: string): unknown {
  const document = parseDocument(text, { schema: 'failsafe', uniqueKeys: true, strict: true });
  const fault = document.errors[0] ?? document.warnings[0];
  if (fault !== undefined) {
    const line = fault.linePos?.[0].line;
    throw new ShapeError(
      '',
      `is not YAML: ${line === undefined ? '' : `line ${line}: `}${firstLine(fault.message)}`,
    );
  }
  let values = 0;

  const toValue = (node: unknown, field: string, freeForm: boolean, depth: number): unknown => {
    if (++values > MAX_VALUES) throw new ShapeError('', `holds more than ${MAX_VALUES} values`);
    // An anchor may stand around an alias of itself.
    if (depth > MAX_DEPTH) throw new ShapeError('', `is nested deeper than ${MAX_DEPTH} levels`);
    if (isAlias(node)) {
      const anchored = node.resolve(document);
      if (anchored === undefined) throw new ShapeError('', `is not YAML: no anchor ${node.source}`);
      return toValue(anchored, field, freeForm, depth + 1);
    }
    if (isScalar(node)) return scalar(node.type, String(node.value), freeForm ? '' : field);
    if (isSeq(node)) return node.items.map((item) => toValue(item, field, freeForm, depth + 1));
    if (isMap(node)) {
      return Object.fromEntries(
        (node.items as Pair<Node, Node | null>[]).map(({ key, value }) => {
          const name = isScalar(key) ? String(key.value) : '';
          return [name, toValue(value, name, freeForm || name === 'annotations', depth + 1)];
        }),
      );
    }
    return null;
  };
  return toValue(document.contents, '', false, 0);
}

function scalar(type: string | null | undefined, source: string, field: string): unknown {
  if (type !== 'PLAIN') return source;
  if (/^(?:~|null|Null|NULL|)$/.test(source)) return null;
  if (integerFields.has(field)) return yamlInteger(source) ?? source;
  if (booleanFields.has(field)) {
    if (/^(?:y|yes|true|on)$/i.test(source)) return true;
    if (/^(?:n|no|false|off)$/i.test(source)) return false;
  }
  return source;
}

/** Integers of YAML 1.1: decimal, 0b, 0x, 0o and a leading 0 for octal, with underscores. */
function yamlInteger(source: string): number | undefined {
  const digits = source.replaceAll('_', '');
  const octal = /^([+-]?)0o?([0-7]+)$/.exec(digits);
  if (octal !== null) return Number(`${octal[1]}1`) * Number.parseInt(octal[2] ?? '', 8);
  return /^[+-]?(?:0|[1-9][0-9]*)$|^0b[01]+$|^0x[0-9a-fA-F]+$/.test(digits) ? Number(digits) : undefined;
}

function firstLine(message: string): string {
  return (message.split('\n')[0] ?? '').replace(/ at line \d+, column \d+:?$/, '');
}
