/**
 * Names of the Container Device Interface (SPEC.md, "Kind" and "Device name"): a device is "vendor/class=name".
 * Functions called `…Fault` answer why a name is none, or undefined when it is one.
 */

export interface QualifiedName {
  vendor: string;
  class: string;
  name: string;
}

/** Letter first, letter or digit last; letters, digits and `_ - .` between: what SPEC.md says of both. */
function kindPartFault(what: string, text: string): string | undefined {
  if (text === '') return `${what} is empty`;
  if (!/^[A-Za-z]/.test(text)) return `${what} ${JSON.stringify(text)} must start with a letter`;
  if (!/^[A-Za-z0-9_.-]+$/.test(text)) {
    return `${what} ${JSON.stringify(text)} may hold letters, digits and _ - . only`;
  }
  if (!/[A-Za-z0-9]$/.test(text)) return `${what} ${JSON.stringify(text)} must end with a letter or digit`;
  return undefined;
}

export function vendorFault(vendor: string): string | undefined {
  return kindPartFault('vendor', vendor);
}

export function classFault(name: string): string | undefined {
  return kindPartFault('class', name);
}

export function deviceNameFault(name: string): string | undefined {
  if (name === '') return 'device name is empty';
  if (!/^[A-Za-z0-9]/.test(name))
    return `device name ${JSON.stringify(name)} must start with a letter or digit`;
  if (!/^[A-Za-z0-9_.:-]+$/.test(name)) {
    return `device name ${JSON.stringify(name)} may hold letters, digits and _ - . : only`;
  }
  if (!/[A-Za-z0-9]$/.test(name))
    return `device name ${JSON.stringify(name)} must end with a letter or digit`;
  return undefined;
}

/** "vendor/class" in its two parts; a string that says why it is not that. */
export function parseKind(kind: string): Omit<QualifiedName, 'name'> | string {
  const slash = kind.indexOf('/');
  if (slash < 0) return `kind ${JSON.stringify(kind)} is not of the form vendor/class`;
  const vendor = kind.slice(0, slash);
  const name = kind.slice(slash + 1);
  return vendorFault(vendor) ?? classFault(name) ?? { vendor, class: name };
}

/** "vendor/class=name" in its three parts; a string that says why it is not that. */
export function parseQualifiedName(device: string): QualifiedName | string {
  const equals = device.indexOf('=');
  const slash = device.indexOf('/');
  if (equals < 0 || slash <= 0 || slash > equals) {
    return `${JSON.stringify(device)} is not of the form vendor/class=name`;
  }
  const kind = parseKind(device.slice(0, equals));
  if (typeof kind === 'string') return kind;
  const name = device.slice(equals + 1);
  return deviceNameFault(name) ?? { ...kind, name };
}

export function isQualifiedName(device: string): boolean {
  return typeof parseQualifiedName(device) !== 'string';
}

export function qualifiedName({ vendor, class: className, name }: QualifiedName): string {
  return `${vendor}/${className}=${name}`;
}
