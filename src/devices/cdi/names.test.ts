import { describe, expect, it } from 'vitest';
import { annotationKey, annotationValue, parseAnnotations, updateAnnotations } from './annotations.ts';
import { isQualifiedName, parseKind, parseQualifiedName, qualifiedName } from './names.ts';

describe('qualified names', () => {
  it.each([
    ['vendor.com/gpu=0', 'vendor.com', 'gpu', '0'],
    ['nvidia.com/gpu=all', 'nvidia.com', 'gpu', 'all'],
    ['nvidia.com/gpu=GPU-8dbb8a3c-0d0e', 'nvidia.com', 'gpu', 'GPU-8dbb8a3c-0d0e'],
    ['nvidia.com/gpu=0:1', 'nvidia.com', 'gpu', '0:1'],
    ['bulkhead.io/vfio=0000:41:00.0', 'bulkhead.io', 'vfio', '0000:41:00.0'],
    ['a-b_c.d/e-f_g.h=i-j_k.l:m', 'a-b_c.d', 'e-f_g.h', 'i-j_k.l:m'],
    ['V1/C2=9', 'V1', 'C2', '9'],
    ['ve/cl=x', 've', 'cl', 'x'],
    ['vendor/class=0', 'vendor', 'class', '0'],
    ['vendor/class=9a', 'vendor', 'class', '9a'],
    ['VENDOR.COM/NET=Eth0', 'VENDOR.COM', 'NET', 'Eth0'],
    ['v.v.v/c.c.c=d.d.d', 'v.v.v', 'c.c.c', 'd.d.d'],
    ['intel.com/qat-vf=vf0_1', 'intel.com', 'qat-vf', 'vf0_1'],
  ])('takes %s apart and puts it together', (text, vendor, className, name) => {
    const parsed = parseQualifiedName(text);
    expect(parsed).toEqual({ vendor, class: className, name });
    expect(qualifiedName({ vendor, class: className, name })).toBe(text);
    expect(isQualifiedName(text)).toBe(true);
  });

  it.each([
    ['', '"" is not of the form vendor/class=name'],
    ['gpu', '"gpu" is not of the form vendor/class=name'],
    ['/dev/null', '"/dev/null" is not of the form vendor/class=name'],
    ['/dev/x=y', '"/dev/x=y" is not of the form vendor/class=name'],
    ['vendor.com/gpu', '"vendor.com/gpu" is not of the form vendor/class=name'],
    ['gpu=0', '"gpu=0" is not of the form vendor/class=name'],
    ['gpu=a/b', '"gpu=a/b" is not of the form vendor/class=name'],
    ['vendor/=0', 'class is empty'],
    ['vendor/class=', 'device name is empty'],
    ['1vendor/class=0', 'vendor "1vendor" must start with a letter'],
    ['_vendor/class=0', 'vendor "_vendor" must start with a letter'],
    ['ven dor/class=0', 'vendor "ven dor" may hold letters, digits and _ - . only'],
    ['ven:dor/class=0', 'vendor "ven:dor" may hold letters, digits and _ - . only'],
    ['vendor-/class=0', 'vendor "vendor-" must end with a letter or digit'],
    ['vendor./class=0', 'vendor "vendor." must end with a letter or digit'],
    ['vendor/1class=0', 'class "1class" must start with a letter'],
    ['vendor/cl/ass=0', 'class "cl/ass" may hold letters, digits and _ - . only'],
    ['vendor/cl:ass=0', 'class "cl:ass" may hold letters, digits and _ - . only'],
    ['vendor/class_=0', 'class "class_" must end with a letter or digit'],
    ['vendor/class=-0', 'device name "-0" must start with a letter or digit'],
    ['vendor/class=_0', 'device name "_0" must start with a letter or digit'],
    ['vendor/class=:0', 'device name ":0" must start with a letter or digit'],
    ['vendor/class=a/b', 'device name "a/b" may hold letters, digits and _ - . : only'],
    ['vendor/class=a b', 'device name "a b" may hold letters, digits and _ - . : only'],
    ['vendor/class=a=b', 'device name "a=b" may hold letters, digits and _ - . : only'],
    ['vendor/class=a\nb', 'device name "a\\nb" may hold letters, digits and _ - . : only'],
    ['vendor/class=ä', 'device name "ä" must start with a letter or digit'],
    ['vendor/class=a.', 'device name "a." must end with a letter or digit'],
    ['vendor/class=a:', 'device name "a:" must end with a letter or digit'],
    ['véndor/class=0', 'vendor "véndor" may hold letters, digits and _ - . only'],
  ])('refuses %j: %s', (text, fault) => {
    expect(parseQualifiedName(text)).toBe(fault);
    expect(isQualifiedName(text)).toBe(false);
  });

  it.each([
    ['vendor.com/gpu', { vendor: 'vendor.com', class: 'gpu' }],
    ['vendor', 'kind "vendor" is not of the form vendor/class'],
    ['/class', 'vendor is empty'],
    ['vendor/', 'class is empty'],
    ['a/b/c', 'class "b/c" may hold letters, digits and _ - . only'],
  ])('reads the kind %j', (kind, expected) => {
    expect(parseKind(kind)).toEqual(expected);
  });
});

describe('annotations', () => {
  it.each([
    ['vendor.class', 'device', 'cdi.k8s.io/vendor.class_device'],
    ['vendor.class', 'a/b/c', 'cdi.k8s.io/vendor.class_a_b_c'],
    ['v-c', '0', 'cdi.k8s.io/v-c_0'],
    ['0', '1', 'cdi.k8s.io/0_1'],
    ['p'.repeat(31), 'i'.repeat(31), `cdi.k8s.io/${'p'.repeat(31)}_${'i'.repeat(31)}`],
  ])('makes a key of %s and %s', (plugin, id, key) => {
    expect(annotationKey(plugin, id)).toBe(key);
  });

  it.each([
    ['', 'x', 'annotation: plugin name is empty'],
    ['x', '', 'annotation: device id is empty'],
    [
      'p'.repeat(32),
      'i'.repeat(31),
      `annotation "${'p'.repeat(32)}_${'i'.repeat(31)}": longer than 63 characters`,
    ],
    ['-p', 'i', 'annotation "-p_i": must start with a letter or digit'],
    ['p q', 'i', 'annotation "p q_i": may hold letters, digits and _ - . only'],
    ['p', 'i:j', 'annotation "p_i:j": may hold letters, digits and _ - . only'],
    ['p', 'i.', 'annotation "p_i.": must end with a letter or digit'],
    ['p', 'i/', 'annotation "p_i_": must end with a letter or digit'],
  ])('refuses a key of %j and %j', (plugin, id, message) => {
    expect(() => annotationKey(plugin, id)).toThrow(message);
  });

  it.each([
    [[], ''],
    [['v/cc=0'], null],
    [['vv/cc=0'], 'vv/cc=0'],
    [['vv/cc=0', 'vv/cc=1'], 'vv/cc=0,vv/cc=1'],
    [['vv/cc=0', 'nonsense'], null],
  ])('makes a value of %j', (devices, value) => {
    if (value === null && devices.some((name) => !isQualifiedName(name))) {
      expect(() => annotationValue(devices)).toThrow('is not of the form');
    } else expect(annotationValue(devices)).toBe(devices.join(','));
  });

  it.each([
    [{}, [], []],
    [{ other: 'vv/cc=0' }, [], []],
    [{ 'cdi.k8s.io/a_b': 'vv/cc=0' }, ['cdi.k8s.io/a_b'], ['vv/cc=0']],
    [{ 'cdi.k8s.io/a_b': 'vv/cc=0,vv/cc=1' }, ['cdi.k8s.io/a_b'], ['vv/cc=0', 'vv/cc=1']],
    [
      { 'cdi.k8s.io/z': 'vv/cc=2', 'cdi.k8s.io/a': 'vv/cc=1', x: 'y' },
      ['cdi.k8s.io/a', 'cdi.k8s.io/z'],
      ['vv/cc=1', 'vv/cc=2'],
    ],
    [
      { 'cdi.k8s.io/a': 'vv/cc=1,vv/cc=2', 'cdi.k8s.io/b': 'vv/cc=2,vv/cc=3' },
      ['cdi.k8s.io/a', 'cdi.k8s.io/b'],
      ['vv/cc=1', 'vv/cc=2', 'vv/cc=3'],
    ],
    [{ 'cdi.k8s.io.other/a': 'nonsense' }, [], []],
  ])('reads %j', (annotations, keys, devices) => {
    expect(parseAnnotations(annotations as Record<string, string>)).toEqual({ keys, devices });
  });

  it.each([
    [{ 'cdi.k8s.io/a': '' }, 'annotation cdi.k8s.io/a: "" is not of the form vendor/class=name'],
    [{ 'cdi.k8s.io/a': 'vv/cc=0,' }, 'annotation cdi.k8s.io/a: "" is not of the form vendor/class=name'],
    [
      { 'cdi.k8s.io/a': 'vv/cc=0, vv/cc=1' },
      'annotation cdi.k8s.io/a: vendor " vv" must start with a letter',
    ],
    [
      { 'cdi.k8s.io/a': 'vv/cc=0', 'cdi.k8s.io/b': '/dev/null' },
      'annotation cdi.k8s.io/b: "/dev/null" is not of the form vendor/class=name',
    ],
  ])('refuses all of %j for one bad name', (annotations, message) => {
    expect(() => parseAnnotations(annotations as Record<string, string>)).toThrow(message);
  });

  it('adds a request once', () => {
    const first = updateAnnotations({ keep: 'me' }, 'vv.cc', 'pod/0', ['vv/cc=0']);
    expect(first).toEqual({ keep: 'me', 'cdi.k8s.io/vv.cc_pod_0': 'vv/cc=0' });
    expect(() => updateAnnotations(first, 'vv.cc', 'pod/0', ['vv/cc=1'])).toThrow(
      'annotation cdi.k8s.io/vv.cc_pod_0: is in use',
    );
  });
});
