/** Addresses in text, as the addon gives them, to bytes in network order. */

/** "02:00:00:00:00:01" to its bytes; "" to none. */
export function macBytes(text: string): Uint8Array {
  return Uint8Array.from(text.split(':').flatMap((part) => (part === '' ? [] : [Number.parseInt(part, 16)])));
}

/** 4 bytes for IPv4, 16 for IPv6 (RFC 4291, 2.2). `text` is an address, as inet_ntop(3) writes it. */
export function ipBytes(text: string): Uint8Array {
  if (!text.includes(':')) return Uint8Array.from(text.split('.').map(Number));
  const [head = '', tail] = text.split('::');
  const left = groups(head);
  const right = tail === undefined ? [] : groups(tail);
  const zeros = Array.from({ length: 16 - left.length - right.length }, () => 0);
  return Uint8Array.from([...left, ...zeros, ...right]);
}

/** Bytes of a row of groups, the last of which may be an IPv4 address. */
function groups(text: string): number[] {
  if (text === '') return [];
  return text.split(':').flatMap((group) => {
    if (group.includes('.')) return group.split('.').map(Number);
    const value = Number.parseInt(group, 16);
    return [value >> 8, value & 0xff];
  });
}
