/** Text that somebody else chose, on its way to a terminal, a log or a message. */

/** Controls of C0 and C1, line ends of Unicode, and what changes the direction of writing: a terminal acts upon them. */
const CONTROLS = /[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** One line, and nothing a terminal acts upon: such characters are written as \uXXXX, which JSON reads back. */
export function printable(text: string): string {
  return text.replace(CONTROLS, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** At most `length` characters, with an ellipsis where more were. */
export function cut(text: string, length: number): string {
  return text.length > length ? `${text.slice(0, length)}…` : text;
}
