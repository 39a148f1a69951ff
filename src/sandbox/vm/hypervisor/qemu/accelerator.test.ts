import { describe, expect, it } from 'vitest';
import { chooseAccelerator, type AcceleratorHost } from './accelerator.ts';

const never = (): never => {
  throw new Error('must not be asked');
};
const host = (changes: Partial<AcceleratorHost>): AcceleratorHost => ({
  cpuinfo: () => 'processor\t: 0\nflags\t\t: fpu vme svm sse\n',
  hasDevice: () => true,
  tryKvm: () => Promise.resolve(undefined),
  ...changes,
});

describe('chooseAccelerator', () => {
  it('takes a configured one at its word', async () => {
    const silent = host({ cpuinfo: never, hasDevice: never, tryKvm: never });
    expect(await chooseAccelerator('kvm', silent)).toEqual({ accelerator: 'kvm', reason: 'configured' });
    expect(await chooseAccelerator('tcg', silent)).toEqual({ accelerator: 'tcg', reason: 'configured' });
  });

  it("does not open a device that is not the processor's", async () => {
    const flags = (text: string): AcceleratorHost =>
      host({ cpuinfo: () => `flags\t\t: ${text}\n`, tryKvm: never });
    const no = { accelerator: 'tcg', reason: 'the processor shows no virtualization' };
    expect(await chooseAccelerator('auto', flags('fpu sse'))).toEqual(no);
    expect(await chooseAccelerator('auto', flags('svm_lock xvmx'))).toEqual(no);
  });

  it('emulates where there is no device', async () => {
    expect(await chooseAccelerator('auto', host({ hasDevice: () => false, tryKvm: never }))).toEqual({
      accelerator: 'tcg',
      reason: 'there is no /dev/kvm',
    });
  });

  it('uses KVM when a trial worked, and says why not when it did not', async () => {
    expect(await chooseAccelerator('auto', host({}))).toEqual({ accelerator: 'kvm', reason: 'works' });
    const hung = host({ tryKvm: () => Promise.resolve('no answer within 3000 ms') });
    expect(await chooseAccelerator('auto', hung)).toEqual({
      accelerator: 'tcg',
      reason: 'KVM does not work: no answer within 3000 ms',
    });
  });
});
